"""Single pictures → a batch as the stream makes them for validation: the centre or ten views, minus the mean.

For pictures that are in no shard. What scales a photograph to its standard view is ``sharding.image.prepare``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment import AUGMENTATIONS
from pipeline.batch import CROP_PX, Batch, CropBatch
from pipeline.finish import Finish
from pipeline.mean import MeanPlanes
from sharding import layout

NO_LABEL = -1


class Stills:
    """Turns standard views into batches for a network that was trained on a data set with a recipe."""

    def __init__(self, train: Path, augmentation: str, device: torch.device) -> None:
        """Read the mean of the training split in ``train``. Raises DatasetError if it is missing or not its own."""
        recipe = AUGMENTATIONS[augmentation].evaluation()
        stats = layout.load_stats(train, layout.load_manifest(train))
        mean = MeanPlanes.of(recipe.mean, layout.load_mean_image(train, stats), stats)
        self._finish, self._device = Finish(mean, device, recipe.divisors(stats)), device

    def batch(self, pixels_NSSC: NDArray[np.uint8], views: int = 1) -> Batch:
        """A batch of standard views, uint8 (N, S, S, 3): images (N, C, H, W), or (N, 10, C, H, W) with ten ``views``.

        Labels are -1, ids 0, 1, 2. Raises ValueError for another number of views.
        """
        if views not in (1, 10):
            raise ValueError(f"views: received {views}, expected 1 or 10")
        whole = torch.from_numpy(np.ascontiguousarray(pixels_NSSC.transpose(0, 3, 1, 2))).to(self._device)
        if views == 10:
            return self._finish.views(_crops(whole, 0))
        corner = (whole.shape[-1] - CROP_PX) // 2
        window = slice(corner, corner + CROP_PX)
        return self._finish(_crops(whole[..., window, window].contiguous(), corner))


def _crops(pixels_NCHW: torch.Tensor, corner: int) -> CropBatch:
    count, device = len(pixels_NCHW), pixels_NCHW.device
    return CropBatch(
        crops_NCHW=pixels_NCHW,
        labels_N=torch.full((count,), NO_LABEL, device=device),
        ids_N=torch.arange(count, device=device),
        yx_N2=torch.full((count, 2), corner, dtype=torch.int32, device=device),
        flip_N=torch.zeros(count, dtype=torch.int32, device=device),
        rgb_N3=torch.zeros(count, 3, device=device),
    )
