"""What every contender of ``stream.py`` reads, and what it hands back: stored samples, statistics, a running stream.

Imported in the environments of all peers, so it needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

BATCH, CROP, SIZE, MARGIN = 128, 224, 256, 32
THREADS = 2
EPOCH = 1_281_167  # ImageNet's: who stops at the end of an epoch does so as seldom as there


@dataclass(frozen=True)
class Stream:
    """Endless batches of ``BATCH`` images, what is stored of one on average, and versions that no package names."""

    batches: Iterator[Any]
    bytes_per_image: float
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """The samples of one encoding as they lie in our shards, and the statistics that are subtracted and added.

    ``mean_HWC`` float32 (256, 256, 3) and ``colour_C`` (3,) on 0..255; ``matrix_CC`` turns three normals into a
    lighting offset; ``deviation`` is about what a finished batch must show. Peers keep their own formats in ``folder``.
    """

    folder: Path
    encoding: str
    shards: Path
    tars: tuple[Path, ...]
    shard_N: np.ndarray
    offset_N: np.ndarray
    size_N: np.ndarray
    label_N: np.ndarray
    mean_HWC: np.ndarray
    colour_C: np.ndarray
    matrix_CC: np.ndarray
    deviation: float

    @classmethod
    def load(cls, folder: Path, encoding: str) -> Stored:
        """What ``save`` wrote."""
        with np.load(folder / f"{encoding}.npz", allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        shards, tars = Path(str(arrays.pop("shards"))), tuple(Path(str(tar)) for tar in arrays.pop("tars"))
        deviation = float(arrays.pop("deviation"))
        return cls(folder=folder, encoding=encoding, shards=shards, tars=tars, deviation=deviation, **arrays)

    def save(self) -> None:
        """Write it where workers find it."""
        texts = {"shards": str(self.shards), "tars": [str(tar) for tar in self.tars], "deviation": self.deviation}
        names = ("shard_N", "offset_N", "size_N", "label_N", "mean_HWC", "colour_C", "matrix_CC")
        np.savez(self.folder / f"{self.encoding}.npz", **texts, **{name: getattr(self, name) for name in names})

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.label_N)

    @cached_property
    def _maps(self) -> tuple[np.ndarray, ...]:
        return tuple(np.memmap(tar, np.uint8, "r") for tar in self.tars)

    def content(self, sample: int) -> np.ndarray:
        """The stored bytes of a sample, uint8; a view of the mapped shard."""
        start = self.offset_N[sample]
        return self._maps[self.shard_N[sample]][start : start + self.size_N[sample]]

    def pixels(self, sample: int) -> np.ndarray:
        """A raw sample, uint8 (256, 256, 3)."""
        return self.content(sample).reshape(SIZE, SIZE, 3)

    def bytes_per_image(self) -> float:
        """What the shards hold of one image."""
        return float(self.size_N.mean())

    def lighting(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Offsets for ``count`` images: float32 (count, 3)."""
        return (rng.standard_normal((count, 3)) @ self.matrix_CC.T).astype(np.float32)


def endless_orders(count: int, rng: np.random.Generator) -> Iterator[int]:
    """Samples in a new random order each time all have been."""
    while True:
        yield from rng.permutation(count).tolist()
