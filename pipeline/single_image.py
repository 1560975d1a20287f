"""Preprocess images that are in no shard as the validation stream does: center crop or ten views, minus the mean.

``sharding.images.decode.prepare`` scales a photograph to its standard view.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.pipeline.batch import CROP_PX, Batch, CropBatch, ImagePreprocessing
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.mean import MeanPlanes
from alexstream.pipeline.transforms.normalize import Normalizer

NO_LABEL = -1


class ImagePreprocessor:
    """Turn standard views into batches for a network that was trained with a recipe, on a data set or without it."""

    def __init__(self, preprocessing: ImagePreprocessing, augmentation: str, device: torch.device) -> None:
        """Take what the data set or the checkpoint says of the input, and the name of the recipe."""
        mean = MeanPlanes.from_plane(AUGMENTATIONS[augmentation].mean, preprocessing.mean.numpy())
        divisors_C = np.array(preprocessing.divisors, np.float32)
        self._normalize, self._device = Normalizer(mean, device, divisors_C), device

    def batch(self, pixels_NSSC: NDArray[np.uint8], views: int = 1) -> Batch:
        """Make a batch of standard views, uint8 (N, S, S, 3).

        Images are float32 (N, C, H, W), or (N, 10, C, H, W) with ten ``views``; labels are -1, ids 0 to N - 1. Raises
        ValueError if ``views`` is neither 1 nor 10.
        """
        if views not in (1, 10):
            raise ValueError(f"views: received {views}, expected 1 or 10")
        whole = torch.from_numpy(np.ascontiguousarray(pixels_NSSC.transpose(0, 3, 1, 2))).to(self._device)
        if views == 10:
            return self._normalize.normalize_views(_make_crop_batch(whole, 0))
        corner = (whole.shape[-1] - CROP_PX) // 2
        window = slice(corner, corner + CROP_PX)
        return self._normalize(_make_crop_batch(whole[..., window, window].contiguous(), corner))


def _make_crop_batch(pixels_NCHW: torch.Tensor, corner: int) -> CropBatch:
    count, device = len(pixels_NCHW), pixels_NCHW.device
    return CropBatch(
        crops_NCHW=pixels_NCHW,
        labels_N=torch.full((count,), NO_LABEL, device=device),
        ids_N=torch.arange(count, device=device),
        yx_N2=torch.full((count, 2), corner, dtype=torch.int32, device=device),
        flip_N=torch.zeros(count, dtype=torch.int32, device=device),
        rgb_N3=torch.zeros(count, 3, device=device),
    )
