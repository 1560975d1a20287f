"""Plan the shards from keys, seed and recipe alone, before any pixel is decoded; pure.

Shard borders and order depend on nothing else, so each shard is an independent job and the bytes do not depend on the
number of workers.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alexstream.sharding.dataset_v1.recipe import EncodeRecipe

SHARD_BYTES = 8192 * 36_864  # 302 MB: 8192 JPEGs of 256x256; ImageNet's training set gives 157 shards
ORIGINAL_BYTES = 115_000  # average size of an original of ImageNet
MIN_SHARD_SAMPLES = 64
TARGET_SHARDS = 16  # small sets too get several shards, for parallel readers and converters


def choose_num_shards(num_samples: int, encode: EncodeRecipe) -> int:
    """Return the number of shards: at least 16 if each keeps 64 samples, and none above some 300 MB.

    Raises ValueError if ``num_samples`` is not positive.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples: received {num_samples}, expected at least 1")
    for_size = -(-num_samples // max(1, SHARD_BYTES // estimate_stored_bytes(encode)))
    return max(1, for_size, min(TARGET_SHARDS, num_samples // MIN_SHARD_SAMPLES))


def estimate_stored_bytes(encode: EncodeRecipe) -> int:
    """Return the approximate bytes of a stored image: 9/16 of a byte per pixel as JPEG, 3 as raw."""
    pixels = encode.size_px**2
    return {"jpeg": pixels * 9 // 16, "raw": pixels * 3, "keep": ORIGINAL_BYTES}[encode.encoding]


def order_by_hash(keys: pa.ChunkedArray, seed: int, purpose: str = "alexstream-plan/1") -> NDArray[np.int64]:
    """Return a global shuffle, int64: positions in ``keys`` ordered by sha256(seed, key).

    It depends on the keys alone, not on listing order, source form or other samples. Another ``purpose`` gives an
    independent order.
    """
    head = f"{purpose}:{seed}:"
    start = hashlib.sha256(head.encode())
    heads = np.concatenate([_hash_heads(chunk.to_pylist(), start) for chunk in keys.chunks])
    order = np.argsort(heads, kind="stable")
    same = np.flatnonzero(heads[order][1:] == heads[order][:-1])
    for first in same:  # about once in a million data sets of ImageNet-21k's size
        run = [int(i) for i in order if heads[i] == heads[order[first]]]
        run.sort(key=lambda i: hashlib.sha256(f"{head}{keys[i]}".encode()).digest())
        order[np.flatnonzero(heads[order] == heads[order[first]])] = run
    return order.astype(np.int64)


def _hash_heads(keys: list[str], start: object) -> NDArray[np.uint64]:
    """Return the first 8 bytes of sha256(start + key) as uint64 that sort as the digests do."""
    copy = start.copy  # type: ignore[attr-defined]
    digests = bytearray()
    for key in keys:
        sha = copy()
        sha.update(key.encode())
        digests += sha.digest()
    return np.frombuffer(digests, ">u8")[::4].astype(np.uint64)


def split_evenly(num_samples: int, shards: int) -> list[range]:
    """Return ranges of consecutive positions, one per shard; sizes differ by at most one, the larger first."""
    small, larger = divmod(num_samples, shards)
    stops = [small * i + min(i, larger) for i in range(shards + 1)]
    return [range(a, b) for a, b in pairwise(stops)]
