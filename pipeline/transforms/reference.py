"""Reference implementation of decoding, cropping and normalization, with Pillow and float64 NumPy.

The tests compare the stream with it: the uint8 crop bit for bit on a CPU, the normalized image within two roundings of
float32.

Shape legend: H, W = 224, S = stored side, C = 3 channels (R, G, B).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from alexstream.pipeline.batch import CROP_PX
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.sharding.images.stored_sample import open_stored_image


def reference_decode(stored: bytes) -> NDArray[np.uint8]:
    """Decode a stored image file to RGB, uint8 (height, width, 3). Raises BadImageError if it is none."""
    return np.asarray(open_stored_image(stored))


def reference_crop(pixels_HWC: NDArray[np.uint8], yx: NDArray[np.int32], flip: int) -> NDArray[np.uint8]:
    """Cut the crop, uint8 (3, 224, 224), from a standard view (S, S, 3), mirrored if ``flip`` is 1."""
    y, x = int(yx[0]), int(yx[1])
    crop = pixels_HWC[y : y + CROP_PX, x : x + CROP_PX]
    return np.ascontiguousarray((crop[:, ::-1] if flip else crop).transpose(2, 0, 1))


def reference_normalize(
    crop_CHW: NDArray[np.uint8],
    mean_image_HWC: NDArray[np.float64],
    yx: NDArray[np.int32],
    flip: int,
    rgb: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Normalize a crop as in the paper, float64 (C, H, W): subtract the mean at the same place, add the offset."""
    y, x = int(yx[0]), int(yx[1])
    window = mean_image_HWC[y : y + CROP_PX, x : x + CROP_PX]
    mean_CHW = (window[:, ::-1] if flip else window).transpose(2, 0, 1)
    finished: NDArray[np.float64] = crop_CHW.astype(np.float64) - mean_CHW + rgb.astype(np.float64)[:, None, None]
    return finished


def reference_image(
    crop_CHW: NDArray[np.uint8],
    preprocessing: Preprocessing,
    draw: tuple[NDArray[np.int32], int, NDArray[np.float32]],
) -> NDArray[np.float64]:
    """Normalize a crop by any recipe, float64 (C, H, W); ``draw``: corner, flip, lighting offset."""
    yx, flip, rgb = draw
    recipe, mean_image_HWC = preprocessing.recipe, preprocessing.mean_image_HWC
    margin = mean_image_HWC.shape[0] - CROP_PX
    if recipe.mean == "centre":
        yx, flip = np.full(2, margin // 2, np.int32), 0
    if recipe.mean == "colour":
        mean_image_HWC = np.broadcast_to(np.array(preprocessing.stats.mean_rgb_255), mean_image_HWC.shape)
    divisors = preprocessing.divisors_C.astype(np.float64)[:, None, None]
    finished: NDArray[np.float64] = reference_normalize(crop_CHW, mean_image_HWC, yx, flip, rgb) / divisors
    return finished
