"""Philox4x32-10, the counter-based generator of Salmon et al. (2011, "Parallel random numbers: as easy as 1, 2, 3").

A pure function of (key, counter): any draw of any epoch can be made without the draws before it. Implemented here,
since NumPy does not promise that the streams of its generators stay the same between versions; compiled, since a
permutation of ImageNet takes 1.28 million blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint32, uint64
from numpy.typing import NDArray

from alexstream.core.jit import njit

_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
_LOW = 0xFFFFFFFF


def philox4x32(key: int, counters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Generate four random 32-bit words per counter, uint32 (n, 4) → uint32 (n, 4); ``key`` has 64 bits."""
    words = np.array(counters, np.uint32, order="C")
    _encrypt(*_halves(key), words)
    return words


def sample_words(seed: int, epochs: NDArray[np.int64], ids: NDArray[np.int64], purpose: int) -> NDArray[np.uint32]:
    """Generate four random words for each (epoch, sample id), int64 (n,) each → uint32 (n, 4).

    ``purpose`` makes uses independent: words drawn for the order are unrelated to those drawn for the crop.
    """
    words = np.empty((len(ids), 4), np.uint32)
    words[:, 0] = ids & _LOW
    words[:, 1] = ids >> 32
    words[:, 2] = epochs
    words[:, 3] = purpose
    _encrypt(*_halves(seed), words)
    return words


def sort_keys(seed: int, epoch: int, ids: NDArray[np.int64], purpose: int) -> NDArray[np.uint64]:
    """Generate the first two words of ``sample_words`` as one sort key for each id, int64 (n,) → uint64 (n,)."""
    keys = np.empty(len(ids), np.uint64)
    _first_pairs(*_halves(seed), np.uint32(epoch), np.uint32(purpose), np.ascontiguousarray(ids, np.int64), keys)
    return keys


def _halves(key: int) -> tuple[np.uint32, np.uint32]:
    return np.uint32(key & _LOW), np.uint32((key >> 32) & _LOW)


@njit(cache=True, nogil=True)
def _block(k0: Any, k1: Any, c0: Any, c1: Any, c2: Any, c3: Any) -> Any:
    """Run ten rounds on one counter; everything is uint32 but the products, which are uint64."""
    for _ in range(10):
        p0, p1 = uint64(c0) * _MULTIPLIER[0], uint64(c2) * _MULTIPLIER[1]
        c0, c2 = uint32(p1 >> uint64(32)) ^ c1 ^ k0, uint32(p0 >> uint64(32)) ^ c3 ^ k1
        c1, c3 = uint32(p1), uint32(p0)
        k0, k1 = uint32(k0 + _WEYL[0]), uint32(k1 + _WEYL[1])
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def _encrypt(k0: Any, k1: Any, words_N4: Any) -> None:
    """Replace counters by their words, in place."""
    for i in range(len(words_N4)):
        c0, c1, c2, c3 = _block(k0, k1, words_N4[i, 0], words_N4[i, 1], words_N4[i, 2], words_N4[i, 3])
        words_N4[i, 0], words_N4[i, 1], words_N4[i, 2], words_N4[i, 3] = c0, c1, c2, c3


@njit(cache=True, nogil=True)
def _first_pairs(k0: Any, k1: Any, epoch: Any, purpose: Any, ids_N: Any, keys_N: Any) -> None:
    """Write words 0 (upper half) and 1 (lower half) of each id's block to ``keys_N``."""
    for i in range(len(ids_N)):
        low, high = uint32(ids_N[i]), uint32(ids_N[i] >> 32)
        c0, c1, _, _ = _block(k0, k1, low, high, epoch, purpose)
        keys_N[i] = (uint64(c0) << uint64(32)) | uint64(c1)
