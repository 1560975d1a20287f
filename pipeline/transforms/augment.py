"""Draw each sample's crop, flip and lighting offset from (seed, epoch, sample id), by a named recipe. Pure.

Every draw is a function of (seed, epoch, sample id), so it is the same for any batch size, thread count, number of
ranks and backend, and any batch can be made without those before it. Where a recipe lets a block of images share one
crop, the crop is a function of (seed, epoch, position in the epoch's order ÷ block), still independent of the batches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alexstream.pipeline.sampling.philox import sample_words
from alexstream.pipeline.transforms.lighting import Lighting

PURPOSE_CROP, PURPOSE_LIGHTING, PURPOSE_BLOCK = 1, 2, 5  # 0, 3 and 4 are the order's
PURPOSE_BOX = 16  # and the ATTEMPTS - 1 numbers after it
BOX_ATTEMPTS = 10
BOX_AREA = (0.08, 1.0)  # fraction of the image's area
BOX_RATIO = (3 / 4, 4 / 3)  # width ÷ height

CropMode = Literal["centre", "random", "resized"]
MeanMode = Literal["window", "centre", "colour"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Hold the random draws for n samples.

    ``yx_N2``: int32, top-left corner of the crop; ``flip_N``: int32, 1 = mirror left-right;
    ``rgb_N3``: float32, offset of every pixel in R, G, B on the 0..255 scale.
    """

    yx_N2: NDArray[np.int32]
    flip_N: NDArray[np.int32]
    rgb_N3: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Define a recipe: how a training image is augmented, and what is subtracted from it.

    ``crop``: ``random``, one of 33 × 33 windows of the standard 256 × 256 view; ``resized``, a random box of the whole
    image scaled to the crop's size; or ``centre``. ``block``: number of consecutive images that share one crop and
    flip. ``mean``: the mean image at the crop's ``window``, the mean image at its ``centre`` wherever the crop is, or
    the mean ``colour``. ``unit_variance``: divide by the standard deviation of each channel.
    """

    crop: CropMode = "random"
    flip: bool = True
    lighting: Lighting = "paper"
    block: int = 1
    mean: MeanMode = "window"
    unit_variance: bool = False

    def for_evaluation(self) -> Augmentation:
        """Return this recipe for evaluation: the center of the standard view, no flip, no lighting."""
        return replace(self, crop="centre", flip=False, lighting="none", block=1)


PAPER = Augmentation()
NONE = PAPER.for_evaluation()
# As in the 2012 program: one crop and flip for 32 images, the mean image's center, √λ and ÷ 1.1 (see ``lighting``).
ORIGINAL = Augmentation(lighting="original", block=32, mean="centre")
# Szegedy et al. (2015), section 6: 8 to 100 % of the area, ratio 3/4 to 4/3; with the paper's lighting, as He et al.
# (2016, section 3.4) trained residual networks. For shards made with --encode keep.
INCEPTION = Augmentation(crop="resized", mean="colour", unit_variance=True)
AUGMENTATIONS = {"paper": PAPER, "original": ORIGINAL, "inception": INCEPTION, "none": NONE}
# Ablations: each without one of the two forms of augmentation of section 4.1, or without both. All combinations exist,
# since a later phase of a run without crops may also turn the lighting off.
for _name in ("paper", "original"):
    AUGMENTATIONS[f"{_name}-no-crops"] = replace(AUGMENTATIONS[_name], crop="centre", flip=False, block=1)
for _name in ("paper", "original", "inception", "paper-no-crops", "original-no-crops"):
    AUGMENTATIONS[f"{_name}-no-lighting"] = replace(AUGMENTATIONS[_name], lighting="none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmenter:
    """Draw augmentations for one data set with one recipe and one seed; made by ``Preprocessing.make_augmenter``.

    ``margin_px``: stored size minus crop size (32); crop offsets are uniform on 0..margin_px inclusive, 33 × 33
    positions. ``matrix_CC``: float64 (3, 3), turns three N(0, 1) numbers into an RGB offset.
    """

    augmentation: Augmentation
    seed: int
    margin_px: int
    matrix_CC: NDArray[np.float64]

    def draw(self, epochs: NDArray[np.int64], ids: NDArray[np.int64], places: NDArray[np.int64] | None = None) -> Draws:
        """Draw crop, flip and lighting for samples ``ids`` in ``epochs``, int64 (n,) each.

        ``places``: their positions in the epoch's order, int64 (n,). Raises ValueError if they are missing and the
        recipe lets several images share a crop.
        """
        words = self._draw_crop_words(epochs, ids, places)
        centre = np.full((len(ids), 2), self.margin_px // 2, np.int32)
        random_crop = self.augmentation.crop == "random"
        yx = uniform_below(words[:, :2], self.margin_px + 1) if random_crop else centre
        flip = (words[:, 2] >> 31) if self.augmentation.flip else np.zeros(len(ids))
        z = standard_normals(sample_words(self.seed, epochs, ids, PURPOSE_LIGHTING))
        return Draws(yx_N2=yx, flip_N=flip.astype(np.int32), rgb_N3=(z @ self.matrix_CC.T).astype(np.float32))

    def _draw_crop_words(
        self, epochs: NDArray[np.int64], ids: NDArray[np.int64], places: NDArray[np.int64] | None
    ) -> NDArray[np.uint32]:
        block = self.augmentation.block
        if block == 1:
            return sample_words(self.seed, epochs, ids, PURPOSE_CROP)
        if places is None:
            raise ValueError(
                f"places: received None, expected positions in the epoch's order: {block} images share a crop"
            )
        return sample_words(self.seed, epochs, places // block, PURPOSE_BLOCK)

    def boxes(
        self, epochs: NDArray[np.int64], ids: NDArray[np.int64], sizes_N2: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Draw the box of each image that becomes the crop: int32 (n, 4), y, x, height, width in pixels.

        ``sizes_N2``: int64, height and width of each image. Area, logarithm of the aspect ratio, and position are
        uniform. The first of ten attempts that fits into the image is used, else the largest centered box of an
        allowed ratio.
        """
        height, width = sizes_N2[:, 0], sizes_N2[:, 1]
        chosen, found = _center_boxes(height, width), np.zeros(len(ids), bool)
        for attempt in range(BOX_ATTEMPTS):
            words = sample_words(self.seed, epochs, ids, PURPOSE_BOX + attempt)
            tall, wide = _draw_box_sizes(words, height * width)
            fits = ~found & (tall >= 1) & (wide >= 1) & (tall <= height) & (wide <= width)
            y = _uniform_below_each(words[:, 2], height - tall + 1)
            x = _uniform_below_each(words[:, 3], width - wide + 1)
            chosen[fits] = np.stack([y, x, tall, wide], axis=1)[fits]
            found |= fits
        return chosen.astype(np.int32)


def _draw_box_sizes(words: NDArray[np.uint32], area: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    u = (words[:, :2].astype(np.float64) + 0.5) / 2.0**32
    target = area * (BOX_AREA[0] + (BOX_AREA[1] - BOX_AREA[0]) * u[:, 0])
    ratio = BOX_RATIO[0] * (BOX_RATIO[1] / BOX_RATIO[0]) ** u[:, 1]
    tall, wide = np.rint(np.sqrt(target / ratio)), np.rint(np.sqrt(target * ratio))
    return tall.astype(np.int64), wide.astype(np.int64)


def _center_boxes(height: NDArray[np.int64], width: NDArray[np.int64]) -> NDArray[np.int64]:
    wide = np.minimum(width, np.rint(height * BOX_RATIO[1]).astype(np.int64))
    tall = np.minimum(height, np.rint(width / BOX_RATIO[0]).astype(np.int64))
    return np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], axis=1)


def _uniform_below_each(words: NDArray[np.uint32], stop: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return integers uniform on 0..stop-1, int64 (n,), with a stop for each word; stops below 1 count as 1."""
    return ((words.astype(np.uint64) * np.maximum(stop, 1).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)


def uniform_below(words: NDArray[np.uint32], stop: int) -> NDArray[np.int32]:
    """Map 32-bit words to integers uniform on 0..stop-1, int32 (fixed-point multiply, bias below stop / 2^32)."""
    return ((words.astype(np.uint64) * np.uint64(stop)) >> np.uint64(32)).astype(np.int32)


def standard_normals(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Map four random words to three independent N(0, 1) numbers, uint32 (n, 4) → float64 (n, 3), by Box–Muller."""
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
