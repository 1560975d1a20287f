"""Pure: (keys, seed, recipe) → which sample goes where in which shard, before any pixel is touched.

Shard borders and order depend on these alone, so each shard is an independent job and the bytes do not depend on
the number of workers.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sharding.layout import EncodeRecipe

SHARD_BYTES = 8192 * 36_864  # 302 MB: 8192 JPEGs of 256x256; ImageNet's training set gives 157 shards
KEPT_BYTES = 115_000  # an original of ImageNet, on average
MIN_SHARD_SAMPLES = 64
WANTED_SHARDS = 16  # small sets are split up too: readers and converters want several shards to share


def num_shards(num_samples: int, encode: EncodeRecipe) -> int:
    """How many shards ``num_samples`` make: at least 16 if that leaves 64 samples each, none above some 300 MB.

    Raises ValueError if ``num_samples`` is not positive.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples: received {num_samples}, expected at least 1")
    for_size = -(-num_samples // max(1, SHARD_BYTES // expected_bytes(encode)))
    return max(1, for_size, min(WANTED_SHARDS, num_samples // MIN_SHARD_SAMPLES))


def expected_bytes(encode: EncodeRecipe) -> int:
    """About how many bytes a stored image takes: 9/16 of a byte a pixel as JPEG, 3 as raw."""
    pixels = encode.size_px**2
    return {"jpeg": pixels * 9 // 16, "raw": pixels * 3, "keep": KEPT_BYTES}[encode.encoding]


def shuffled(keys: pa.ChunkedArray, seed: int) -> NDArray[np.int64]:
    """A global shuffle: positions in ``keys`` ordered by sha256(seed, key).

    A function of the keys alone: listing order, source form and other samples do not matter.
    """
    start = hashlib.sha256(f"alexstream-plan/1:{seed}:".encode())
    heads = np.concatenate([_first_eight_bytes(chunk.to_pylist(), start) for chunk in keys.chunks])
    order = np.argsort(heads, kind="stable")
    same = np.flatnonzero(heads[order][1:] == heads[order][:-1])
    for first in same:  # about once in a million data sets of ImageNet-21k's size
        run = [int(i) for i in order if heads[i] == heads[order[first]]]
        run.sort(key=lambda i: hashlib.sha256(f"alexstream-plan/1:{seed}:{keys[i]}".encode()).digest())
        order[np.flatnonzero(heads[order] == heads[order[first]])] = run
    return order.astype(np.int64)


def _first_eight_bytes(keys: list[str], start: object) -> NDArray[np.uint64]:
    """The heads of sha256(start + key) as big-endian numbers, so that they sort as the digests do."""
    copy = start.copy  # type: ignore[attr-defined]
    digests = bytearray()
    for key in keys:
        sha = copy()
        sha.update(key.encode())
        digests += sha.digest()
    return np.frombuffer(digests, ">u8")[::4].astype(np.uint64)


def split_evenly(num_samples: int, shards: int) -> list[range]:
    """Ranges of consecutive positions, one per shard; sizes differ by at most one, the larger first."""
    small, larger = divmod(num_samples, shards)
    stops = [small * i + min(i, larger) for i in range(shards + 1)]
    return [range(a, b) for a, b in pairwise(stops)]
