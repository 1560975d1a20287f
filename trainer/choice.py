"""Pure: some of n samples, chosen by hashing: the same on every machine and in every version of every library."""

from __future__ import annotations

import hashlib


def chosen(num_samples: int, count: int, seed: str) -> list[int]:
    """``count`` (or all) of the numbers 0 to ``num_samples`` - 1 in random order: those with the least hashes.

    ``seed`` goes into the hash. A larger ``count`` adds to the choice of a smaller one.
    """
    return sorted(range(num_samples), key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())[:count]
