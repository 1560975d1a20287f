"""The finish, on the training device: uint8 crops − mean window + lighting offset (÷ divisor) → float32.

The mean is subtracted where it was measured: the window of the mean image at the crop's place, mirrored when
the crop is (paper, section 2: "subtracting the mean activity over the training set from each pixel").
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.batch import CROP_PX, Batch, CropBatch


class Finish:
    """Turns ``CropBatch`` into ``Batch``; holds the mean image and its mirror on the device, float32."""

    def __init__(self, mean_image_HWC: NDArray[np.float64], device: torch.device, divisor: float = 1.0) -> None:
        """Prepare for one data set's mean image (256, 256, 3), 0..255."""
        mean_CHW = torch.from_numpy(mean_image_HWC.astype(np.float32)).permute(2, 0, 1).contiguous()
        self._means_2CHW = torch.stack([mean_CHW, mean_CHW.flip(2)]).to(device)
        self._margin = mean_CHW.shape[-1] - CROP_PX
        self._divisor = divisor

    def __call__(self, batch: CropBatch) -> Batch:
        """Finish a batch; the result is a fresh tensor."""
        images = self._one_by_one(batch) if batch.crops_NCHW.device.type == "cpu" else self._at_once(batch)
        if self._divisor != 1.0:
            images.div_(self._divisor)
        return Batch(images_NCHW=images, labels_N=batch.labels_N, ids_N=batch.ids_N)

    def _one_by_one(self, batch: CropBatch) -> torch.Tensor:
        """On a CPU: an image stays in the cache through all three operations."""
        images = torch.empty(batch.crops_NCHW.shape, dtype=torch.float32)
        rgb = batch.rgb_N3[:, :, None, None]
        for i, (yx, flip) in enumerate(zip(batch.yx_N2.tolist(), batch.flip_N.tolist(), strict=True)):
            y, x = yx[0], self._margin - yx[1] if flip else yx[1]
            window = self._means_2CHW[flip, :, y : y + CROP_PX, x : x + CROP_PX]
            torch.sub(batch.crops_NCHW[i], window, out=images[i])
            images[i].add_(rgb[i])
        return images

    def _at_once(self, batch: CropBatch) -> torch.Tensor:
        """On a GPU: one gather of the mean windows for the whole batch."""
        windows = self._means_2CHW.unfold(2, CROP_PX, 1).unfold(3, CROP_PX, 1)  # a view: (2, C, 33, 33, H, W)
        y, x, flip = batch.yx_N2[:, 0].long(), batch.yx_N2[:, 1].long(), batch.flip_N.long()
        mean_NCHW = windows[flip, :, y, torch.where(flip.bool(), self._margin - x, x)]
        return batch.crops_NCHW.float().sub_(mean_NCHW).add_(batch.rgb_N3[:, :, None, None])
