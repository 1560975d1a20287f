"""Pure: (seed, epoch, sample) → crop, flip and lighting offset; and the NumPy reference of the whole sample path.

Every draw is a function of (seed, epoch, sample id), so it is the same for any batch size, thread count,
number of ranks and backend, and any batch can be had without those before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import CROP_PX
from pipeline.lighting import Lighting, divisor, offset_matrix
from pipeline.philox import sample_words
from sharding.layout import DatasetStats

PURPOSE_CROP, PURPOSE_LIGHTING = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """The random choices for n samples.

    ``yx_N2``: int32, top-left corner of the crop; ``flip_N``: int32, 1 = mirror left-right;
    ``rgb_N3``: float32, offset of every pixel in R, G, B on the 0..255 scale.
    """

    yx_N2: NDArray[np.int32]
    flip_N: NDArray[np.int32]
    rgb_N3: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is done to a training image: random crop, flip, lighting. ``NONE`` is the evaluation view."""

    random_crop: bool = True
    flip: bool = True
    lighting: Lighting = "paper"

    def divisor(self) -> float:
        """What the finished image is divided by (1 except for the original program's lighting)."""
        return divisor(self.lighting)


PAPER = Augmentation()
NONE = Augmentation(random_crop=False, flip=False, lighting="none")
AUGMENTATIONS = {"paper": PAPER, "none": NONE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmenter:
    """Draws for one data set: the augmentation, its seed, and the two numbers that the data set decides.

    ``margin_px`` is stored size minus crop size (32): offsets are uniform on 0..margin_px inclusive, 33 × 33
    positions. ``matrix_CC`` turns three normals into an RGB offset.
    """

    augmentation: Augmentation
    seed: int
    margin_px: int
    matrix_CC: NDArray[np.float64]

    @classmethod
    def of(cls, augmentation: Augmentation, seed: int, size_px: int, stats: DatasetStats) -> Augmenter:
        """The augmenter for stored images of ``size_px`` with these statistics."""
        matrix = offset_matrix(stats, augmentation.lighting)
        return cls(augmentation=augmentation, seed=seed, margin_px=size_px - CROP_PX, matrix_CC=matrix)

    def draw(self, epochs: NDArray[np.int64], ids: NDArray[np.int64]) -> Draws:
        """The draws for samples ``ids`` (int64, (n,)) in ``epochs`` (int64, (n,))."""
        words = sample_words(self.seed, epochs, ids, PURPOSE_CROP)
        centre = np.full((len(ids), 2), self.margin_px // 2, np.int32)
        yx = uniform_below(words[:, :2], self.margin_px + 1) if self.augmentation.random_crop else centre
        flip = (words[:, 2] >> 31) if self.augmentation.flip else np.zeros(len(ids))
        z = standard_normals(sample_words(self.seed, epochs, ids, PURPOSE_LIGHTING))
        return Draws(yx_N2=yx, flip_N=flip.astype(np.int32), rgb_N3=(z @ self.matrix_CC.T).astype(np.float32))


def uniform_below(words: NDArray[np.uint32], stop: int) -> NDArray[np.int32]:
    """Integers uniform on 0..stop-1 from 32-bit words (fixed-point multiply; the bias is below stop / 2^32)."""
    return ((words.astype(np.uint64) * np.uint64(stop)) >> np.uint64(32)).astype(np.int32)


def standard_normals(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Three independent N(0, 1) numbers from four words: uint32 (n, 4) → float64 (n, 3), by Box and Muller."""
    u = (words.astype(np.float64) + 0.5) / 2.0**32
    radius, angle = np.sqrt(-2.0 * np.log(u[:, :2])), 2.0 * np.pi * u[:, 2:]
    return np.stack(
        [
            radius[:, 0] * np.cos(angle[:, 0]),
            radius[:, 0] * np.sin(angle[:, 0]),
            radius[:, 1] * np.cos(angle[:, 1]),
        ],
        axis=1,
    )


def reference_crop(pixels_HWC: NDArray[np.uint8], yx: NDArray[np.int32], flip: int) -> NDArray[np.uint8]:
    """The uint8 crop (3, 224, 224) that DALI must give for stored pixels (H, W, 3)."""
    y, x = int(yx[0]), int(yx[1])
    crop = pixels_HWC[y : y + CROP_PX, x : x + CROP_PX]
    return np.ascontiguousarray((crop[:, ::-1] if flip else crop).transpose(2, 0, 1))


def reference_finish(
    crop_CHW: NDArray[np.uint8],
    mean_image_HWC: NDArray[np.float64],
    yx: NDArray[np.int32],
    flip: int,
    rgb: NDArray[np.float32],
) -> NDArray[np.float64]:
    """The finished image in float64: the crop, minus the mean at the same place, plus the offset (C, H, W)."""
    y, x = int(yx[0]), int(yx[1])
    window = mean_image_HWC[y : y + CROP_PX, x : x + CROP_PX]
    mean_CHW = (window[:, ::-1] if flip else window).transpose(2, 0, 1)
    finished: NDArray[np.float64] = crop_CHW.astype(np.float64) - mean_CHW + rgb.astype(np.float64)[:, None, None]
    return finished
