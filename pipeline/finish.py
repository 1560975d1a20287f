"""The finish, on the training device: uint8 crops − mean window + lighting offset (÷ divisor) → float32.

The mean is subtracted where it was measured: the window of the mean image at the crop's place, mirrored when
the crop is (paper, section 2: "subtracting the mean activity over the training set from each pixel").
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from numba import njit
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
        self._buffers = _Buffers()

    def __call__(self, batch: CropBatch) -> Batch:
        """Finish a batch; the result is the caller's for as long as it is kept."""
        images = self._one_by_one(batch) if batch.crops_NCHW.device.type == "cpu" else self._at_once(batch)
        if self._divisor != 1.0:
            images.div_(self._divisor)
        return Batch(images_NCHW=images, labels_N=batch.labels_N, ids_N=batch.ids_N)

    def _one_by_one(self, batch: CropBatch) -> torch.Tensor:
        """On a CPU: one pass over each image, into a buffer that an earlier batch has left."""
        images = self._buffers.take(tuple(batch.crops_NCHW.shape))
        _subtract_and_light(
            batch.crops_NCHW.numpy(), self._means_2CHW.numpy(), batch.yx_N2.numpy(), batch.flip_N.numpy(),
            batch.rgb_N3.numpy(), self._margin, images,
        )  # fmt: skip
        return torch.from_numpy(images)

    def _at_once(self, batch: CropBatch) -> torch.Tensor:
        """On a GPU: one gather of the mean windows for the whole batch."""
        windows = self._means_2CHW.unfold(2, CROP_PX, 1).unfold(3, CROP_PX, 1)  # a view: (2, C, 33, 33, H, W)
        y, x, flip = batch.yx_N2[:, 0].long(), batch.yx_N2[:, 1].long(), batch.flip_N.long()
        mean_NCHW = windows[flip, :, y, torch.where(flip.bool(), self._margin - x, x)]
        return batch.crops_NCHW.float().sub_(mean_NCHW).add_(batch.rgb_N3[:, :, None, None])


class _Buffers:
    """Float batches that are used again once nobody holds them: fresh memory costs a page fault every 4 KiB."""

    def __init__(self) -> None:
        # Each array with a weak reference to the view of it that was lent: tensors made of a view keep it alive.
        self._lent: list[tuple[NDArray[np.float32], weakref.ref[Any]]] = []

    def take(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 array that nobody else refers to; its content is whatever was there."""
        kept = [(array, view) for array, view in self._lent if array.shape == shape]
        free = next((i for i, (_, view) in enumerate(kept) if view() is None), None)
        array = np.empty(shape, np.float32) if free is None else kept.pop(free)[0]
        lent = array.view()
        self._lent = [*kept, (array, weakref.ref(lent))][-MAX_BUFFERS:]
        return lent


MAX_BUFFERS = 8


@njit(cache=True, nogil=True)
def _subtract_and_light(
    crops_NCHW: Any, means_2CHW: Any, yx_N2: Any, flip_N: Any, rgb_N3: Any, margin: int, out_NCHW: Any
) -> None:
    """float32: crop − mean window, then + offset, two roundings as in the reference."""
    count, channels, height, width = crops_NCHW.shape
    for i in range(count):
        flip = 1 if flip_N[i] else 0
        top = yx_N2[i, 0]
        left = margin - yx_N2[i, 1] if flip else yx_N2[i, 1]
        for c in range(channels):
            offset = rgb_N3[i, c]
            for y in range(height):
                crop, out = crops_NCHW[i, c, y], out_NCHW[i, c, y]
                mean = means_2CHW[flip, c, top + y, left : left + width]
                for x in range(width):
                    out[x] = (np.float32(crop[x]) - mean[x]) + offset
