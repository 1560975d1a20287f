"""The NumPy reference: what a sample must become, written to be read, by Pillow and float64.

The tests compare the stream with it: the uint8 crop bit for bit on a CPU, the finished image within two roundings of
float32.

Shape legend: H, W = 224, S = stored side, C = 3 channels (R, G, B).
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.augment import Augmentation
from pipeline.batch import CROP_PX
from sharding.layout import DatasetStats


def reference_decode(stored: bytes) -> NDArray[np.uint8]:
    """RGB pixels (height, width, 3) of a stored image file."""
    return np.asarray(Image.open(io.BytesIO(stored)).convert("RGB"))


def reference_crop(pixels_HWC: NDArray[np.uint8], yx: NDArray[np.int32], flip: int) -> NDArray[np.uint8]:
    """The uint8 crop (3, 224, 224) that DALI must give for the standard view (S, S, 3)."""
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
    """The paper's finish in float64: the crop, minus the mean at the same place, plus the offset (C, H, W)."""
    y, x = int(yx[0]), int(yx[1])
    window = mean_image_HWC[y : y + CROP_PX, x : x + CROP_PX]
    mean_CHW = (window[:, ::-1] if flip else window).transpose(2, 0, 1)
    finished: NDArray[np.float64] = crop_CHW.astype(np.float64) - mean_CHW + rgb.astype(np.float64)[:, None, None]
    return finished


def reference_image(
    crop_CHW: NDArray[np.uint8],
    mean_image_HWC: NDArray[np.float64],
    stats: DatasetStats,
    recipe: Augmentation,
    draw: tuple[NDArray[np.int32], int, NDArray[np.float32]],
) -> NDArray[np.float64]:
    """The finished image (C, H, W) of any recipe in float64; ``draw``: corner, flip, offset."""
    yx, flip, rgb = draw
    margin = mean_image_HWC.shape[0] - CROP_PX
    if recipe.mean == "centre":
        yx, flip = np.full(2, margin // 2, np.int32), 0
    if recipe.mean == "colour":
        mean_image_HWC = np.broadcast_to(np.array(stats.mean_rgb_255), mean_image_HWC.shape)
    divisors = recipe.divisors(stats).astype(np.float64)[:, None, None]
    finished: NDArray[np.float64] = reference_finish(crop_CHW, mean_image_HWC, yx, flip, rgb) / divisors
    return finished
