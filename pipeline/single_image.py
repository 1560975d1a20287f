"""Preprocess images that are in no shard as the validation stream does: center crop or ten views, minus the mean.

``sharding.images.decode.prepare`` scales a photograph to its standard view.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.pipeline.batch import CROP_PX, Batch, CropBatch
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.sharding.dataset_v1.manifest import load_manifest

NO_LABEL = -1


class ImagePreprocessor:
    """Turn standard views into batches for a network that was trained on a data set with a recipe."""

    def __init__(self, train: Path, augmentation: str, device: torch.device) -> None:
        """Read the mean of the training split in ``train``. Raises DatasetError if it is missing or has changed."""
        recipe = AUGMENTATIONS[augmentation].for_evaluation()
        preprocessing = Preprocessing.from_folder(train, load_manifest(train), recipe)
        self._normalize, self._device = preprocessing.make_normalizer(device), device

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
