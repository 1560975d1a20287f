"""Pure: (seed, epoch, sample) → crop, flip and lighting offset, as one of the named recipes says.

Every draw is a function of (seed, epoch, sample id), so it is the same for any batch size, thread count, number of
ranks and backend, and any batch can be had without those before it. Where a recipe lets a block of images share one
crop, it is a function of (seed, epoch, place in the epoch's order ÷ block): no more dependent on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import CROP_PX
from pipeline.lighting import Lighting, divisor, offset_matrix
from pipeline.philox import sample_words
from sharding.layout import DatasetStats

PURPOSE_CROP, PURPOSE_LIGHTING, PURPOSE_BLOCK = 1, 2, 5  # 0, 3 and 4 are the order's
PURPOSE_BOX = 16  # and the ATTEMPTS - 1 numbers after it
ATTEMPTS = 10
BOX_AREA = (0.08, 1.0)  # share of the image's area
BOX_RATIO = (3 / 4, 4 / 3)  # width ÷ height

Crop = Literal["centre", "random", "resized"]
Mean = Literal["window", "centre", "colour"]


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
    """A recipe: what is done to a training image, and what is subtracted from it.

    ``crop``: ``random``, one of 33 × 33 windows of the standard 256 × 256 view; ``resized``, a box of the whole image
    scaled to the crop's size; ``centre``. ``block``: how many consecutive images share one crop and flip.
    ``mean``: the mean image at the crop's ``window``, at the ``centre`` whatever the crop, or the mean ``colour``.
    ``unit_variance``: divide by the standard deviation of each channel.
    """

    crop: Crop = "random"
    flip: bool = True
    lighting: Lighting = "paper"
    block: int = 1
    mean: Mean = "window"
    unit_variance: bool = False

    def evaluation(self) -> Augmentation:
        """The same without chance: the centre of the standard view, no lighting."""
        return replace(self, crop="centre", flip=False, lighting="none", block=1)

    def divisors(self, stats: DatasetStats) -> NDArray[np.float32]:
        """What each channel is divided by at the end, float32 (3,): 1, if not 1.1 or the standard deviations."""
        spread = np.sqrt(np.diag(np.array(stats.covariance_255))) if self.unit_variance else np.ones(3)
        return (spread * divisor(self.lighting)).astype(np.float32)


PAPER = Augmentation()
NONE = PAPER.evaluation()
# As the program of 2012 did: one crop and flip for 32 images, the mean's centre, √λ and ÷ 1.1 (see ``lighting``).
ORIGINAL = Augmentation(lighting="original", block=32, mean="centre")
# Szegedy et al. (2015), section 6: 8 to 100 % of the area, ratio 3/4 to 4/3; with the paper's lighting, as He et al.
# (2016, section 3.4) trained residual networks. For shards made with --encode keep.
INCEPTION = Augmentation(crop="resized", mean="colour", unit_variance=True)
AUGMENTATIONS = {"paper": PAPER, "original": ORIGINAL, "inception": INCEPTION, "none": NONE}
# The same without one of the two forms of augmentation of section 4.1.
for _name in ("paper", "original", "inception"):
    AUGMENTATIONS[f"{_name}-no-lighting"] = replace(AUGMENTATIONS[_name], lighting="none")
for _name in ("paper", "original"):
    AUGMENTATIONS[f"{_name}-no-crops"] = replace(AUGMENTATIONS[_name], crop="centre", flip=False, block=1)


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

    def draw(self, epochs: NDArray[np.int64], ids: NDArray[np.int64], places: NDArray[np.int64] | None = None) -> Draws:
        """The draws for samples ``ids`` in ``epochs``; int64 (n,) each, as ``places``, theirs in the epoch's order.

        Only recipes whose images share a crop need the places. Raises ValueError if such a one gets none.
        """
        words = self._crop_words(epochs, ids, places)
        centre = np.full((len(ids), 2), self.margin_px // 2, np.int32)
        random_crop = self.augmentation.crop == "random"
        yx = uniform_below(words[:, :2], self.margin_px + 1) if random_crop else centre
        flip = (words[:, 2] >> 31) if self.augmentation.flip else np.zeros(len(ids))
        z = standard_normals(sample_words(self.seed, epochs, ids, PURPOSE_LIGHTING))
        return Draws(yx_N2=yx, flip_N=flip.astype(np.int32), rgb_N3=(z @ self.matrix_CC.T).astype(np.float32))

    def _crop_words(
        self, epochs: NDArray[np.int64], ids: NDArray[np.int64], places: NDArray[np.int64] | None
    ) -> NDArray[np.uint32]:
        block = self.augmentation.block
        if block == 1:
            return sample_words(self.seed, epochs, ids, PURPOSE_CROP)
        if places is None:
            raise ValueError(f"{block} images share a crop: their places in the epoch's order are needed")
        return sample_words(self.seed, epochs, places // block, PURPOSE_BLOCK)

    def boxes(
        self, epochs: NDArray[np.int64], ids: NDArray[np.int64], sizes_N2: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Which box of each image becomes the crop: int32 (n, 4), y, x, height, width; ``sizes_N2``: height, width.

        Area and logarithm of the ratio are uniform, the place too; of ten attempts the first that fits is taken, else
        the largest centred box of an allowed ratio.
        """
        height, width = sizes_N2[:, 0], sizes_N2[:, 1]
        chosen, found = _centred_boxes(height, width), np.zeros(len(ids), bool)
        for attempt in range(ATTEMPTS):
            words = sample_words(self.seed, epochs, ids, PURPOSE_BOX + attempt)
            tall, wide = _box_sizes(words, height * width)
            fits = ~found & (tall >= 1) & (wide >= 1) & (tall <= height) & (wide <= width)
            y = _scaled(words[:, 2], height - tall + 1)
            x = _scaled(words[:, 3], width - wide + 1)
            chosen[fits] = np.stack([y, x, tall, wide], axis=1)[fits]
            found |= fits
        return chosen.astype(np.int32)


def _box_sizes(words: NDArray[np.uint32], area: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    u = (words[:, :2].astype(np.float64) + 0.5) / 2.0**32
    target = area * (BOX_AREA[0] + (BOX_AREA[1] - BOX_AREA[0]) * u[:, 0])
    ratio = BOX_RATIO[0] * (BOX_RATIO[1] / BOX_RATIO[0]) ** u[:, 1]
    tall, wide = np.rint(np.sqrt(target / ratio)), np.rint(np.sqrt(target * ratio))
    return tall.astype(np.int64), wide.astype(np.int64)


def _centred_boxes(height: NDArray[np.int64], width: NDArray[np.int64]) -> NDArray[np.int64]:
    wide = np.minimum(width, np.rint(height * BOX_RATIO[1]).astype(np.int64))
    tall = np.minimum(height, np.rint(width / BOX_RATIO[0]).astype(np.int64))
    return np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], axis=1)


def _scaled(words: NDArray[np.uint32], stop: NDArray[np.int64]) -> NDArray[np.int64]:
    """Integers uniform on 0..stop-1, each with a stop of its own (at least 1 is taken)."""
    return ((words.astype(np.uint64) * np.maximum(stop, 1).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


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
