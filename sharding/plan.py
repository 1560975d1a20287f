"""Pure: (keys, seed) → which sample goes where in which shard, before any pixel is touched.

Shard borders and order depend only on the keys and the seed, so each shard is an independent job and the
bytes do not depend on the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

MAX_SHARD_SAMPLES = 8192  # about 290 MB of 256x256 JPEGs; ImageNet's training set gives 157 shards
MIN_SHARD_SAMPLES = 64
WANTED_SHARDS = 16  # small sets are split up too: readers and converters want several shards to share


def num_shards(num_samples: int) -> int:
    """How many shards ``num_samples`` make: at least 16 if that leaves 64 samples each, at most 8192 samples each.

    Raises ValueError if ``num_samples`` is not positive.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples: received {num_samples}, expected at least 1")
    for_size = -(-num_samples // MAX_SHARD_SAMPLES)
    return max(1, for_size, min(WANTED_SHARDS, num_samples // MIN_SHARD_SAMPLES))


def shuffled(keys: Sequence[str], seed: int) -> list[int]:
    """A global shuffle: positions in ``keys`` ordered by sha256(seed, key).

    A function of the keys alone: listing order, source form and other samples do not matter.
    """
    prefix = f"alexstream-plan/1:{seed}:"
    digests = [hashlib.sha256((prefix + key).encode()).digest() for key in keys]
    return sorted(range(len(keys)), key=digests.__getitem__)


def split_evenly(num_samples: int, shards: int) -> list[range]:
    """Ranges of consecutive positions, one per shard; sizes differ by at most one, the larger first."""
    small, larger = divmod(num_samples, shards)
    stops = [small * i + min(i, larger) for i in range(shards + 1)]
    return [range(a, b) for a, b in pairwise(stops)]
