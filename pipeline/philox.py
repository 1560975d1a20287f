"""Philox4x32-10, the counter-based generator of Salmon et al. (2011, "Parallel random numbers: as easy as 1, 2, 3").

A pure function of (key, counter): any draw of any epoch can be had without the draws before it. Written out
here because NumPy does not promise that its own streams stay the same between versions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox4x32(key: int, counters: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Four random 32-bit words per counter: uint32 (n, 4) → uint32 (n, 4); ``key`` is 64 bits."""
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        c0, c1, c2, c3 = (
            (p1 >> _HALF) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HALF) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def sample_words(seed: int, epochs: NDArray[np.int64], ids: NDArray[np.int64], purpose: int) -> NDArray[np.uint32]:
    """Four random words for each (epoch, sample id) and one purpose: int64 (n,), (n,) → uint32 (n, 4).

    ``purpose`` keeps uses apart: words drawn for the order say nothing about those drawn for the crop.
    """
    counters = np.empty((len(ids), 4), np.uint32)
    counters[:, 0] = ids & 0xFFFFFFFF
    counters[:, 1] = ids >> 32
    counters[:, 2] = epochs
    counters[:, 3] = purpose
    return philox4x32(seed, counters)
