"""Normalize crops on the training device: (uint8 crop − mean + lighting offset) ÷ divisor → float32.

On a CPU, one compiled pass over each image into a reused buffer; on a GPU, one gather of mean windows for the whole
batch. Both round twice (three times with a divisor), in the same order as ``fused.c``, so all three give the same bits.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.core.jit import njit
from alexstream.pipeline.batch import CROP_PX, Batch, CropBatch
from alexstream.pipeline.transforms.mean import MeanPlanes

# The five crops of the paper's ten views (section 4.1), four corners and the center, in halves of the margin (y, x).
VIEW_CORNERS = ((0, 0), (0, 2), (2, 0), (2, 2), (1, 1))
MAX_BUFFERS = 8
ALIGNMENT_BYTES = 64  # bytes, a cache line


class Normalizer:
    """Turn a ``CropBatch`` into a ``Batch``; keeps the mean's planes on the device, float32."""

    def __init__(self, mean: MeanPlanes, device: torch.device, divisors: NDArray[np.float32] | None = None) -> None:
        """Copy ``mean`` to ``device``; ``divisors``: float32 (3,), one for each channel, 1 by default."""
        self._mean = mean
        self._planes = torch.from_numpy(mean.planes_2CMM).to(device)
        self._divisors = np.ones(3, np.float32) if divisors is None else divisors
        self._buffers = BufferPool()

    def __call__(self, batch: CropBatch) -> Batch:
        """Normalize a batch. The result's memory is not reused as long as the caller refers to it."""
        images = self.normalize_on_cpu(batch) if batch.crops_NCHW.device.type == "cpu" else self.normalize_on_gpu(batch)
        return Batch(images_NCHW=images, labels_N=batch.labels_N, ids_N=batch.ids_N)

    def normalize_views(self, batch: CropBatch) -> Batch:
        """Normalize the ten views of whole images (N, C, S, S); ``images_NCHW`` is then (N, 10, C, 224, 224)."""
        margin = batch.crops_NCHW.shape[-1] - CROP_PX
        each = [
            self(self._crop_view(batch, margin * y // 2, margin * x // 2, f)) for f in (0, 1) for y, x in VIEW_CORNERS
        ]
        images = torch.stack([view.images_NCHW for view in each], dim=1)
        return Batch(images_NCHW=images, labels_N=batch.labels_N, ids_N=batch.ids_N)

    def _crop_view(self, batch: CropBatch, y: int, x: int, flip: int) -> CropBatch:
        crops = batch.crops_NCHW[..., y : y + CROP_PX, x : x + CROP_PX]
        yx = torch.tensor([y, x], dtype=torch.int32, device=crops.device).expand(len(crops), 2)
        return CropBatch(
            crops_NCHW=(crops.flip(3) if flip else crops).contiguous(), labels_N=batch.labels_N, ids_N=batch.ids_N,
            yx_N2=yx.contiguous(), flip_N=torch.full_like(batch.flip_N, flip), rgb_N3=batch.rgb_N3,
        )  # fmt: skip

    def normalize_on_cpu(self, batch: CropBatch) -> torch.Tensor:
        """Normalize on a CPU: one pass over each image, into a buffer that an earlier batch no longer needs."""
        images = self._buffers.take(tuple(batch.crops_NCHW.shape))
        windows = self._mean.locate_windows(batch.yx_N2.numpy(), batch.flip_N.numpy())
        _normalize_images(
            batch.crops_NCHW.numpy(), self._mean.planes_2CMM, windows, batch.rgb_N3.numpy(), self._divisors, images
        )
        return torch.from_numpy(images)

    def normalize_on_gpu(self, batch: CropBatch) -> torch.Tensor:
        """Normalize on a GPU: one gather of the mean windows of the whole batch."""
        views = self._planes.unfold(2, CROP_PX, 1).unfold(3, CROP_PX, 1)  # a view: (2, C, margin+1, margin+1, H, W)
        if self._mean.follows_crop:
            y, x, flip = batch.yx_N2[:, 0].long(), batch.yx_N2[:, 1].long(), batch.flip_N.long()
            mean_NCHW = views[flip, :, y, torch.where(flip.bool(), self._mean.margin_px - x, x)]
        else:
            mean_NCHW = views[0, :, self._mean.margin_px // 2, self._mean.margin_px // 2]
        images = batch.crops_NCHW.float().sub_(mean_NCHW).add_(batch.rgb_N3[:, :, None, None])
        if (self._divisors != 1.0).any():
            images.div_(torch.from_numpy(self._divisors).to(images.device)[:, None, None])
        return images


class BufferPool:
    """Reuse the memory of float32 batches that nothing refers to any more.

    Fresh memory costs a page fault every 4 KiB, which for a batch of images takes longer than normalizing it.
    """

    def __init__(self) -> None:
        # Each array with a weak reference to the view of it that was lent out. A tensor made from the view keeps the
        # view alive, so a dead reference means that neither view nor tensor is in use.
        self._lent: list[tuple[NDArray[np.float32], weakref.ref[Any]]] = []

    def take(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return a float32 array that nothing else refers to, aligned to cache lines, with undefined content."""
        kept = [(array, view) for array, view in self._lent if array.shape == shape]
        free = next((i for i, (_, view) in enumerate(kept) if view() is None), None)
        array = _allocate_aligned(shape) if free is None else kept.pop(free)[0]
        lent = array.view()
        self._lent = [*kept, (array, weakref.ref(lent))][-MAX_BUFFERS:]
        return lent


def _allocate_aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    size = int(np.prod(shape)) * 4
    memory = np.empty(size + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + size].view(np.float32).reshape(shape)


@njit(cache=True, nogil=True)
def _normalize_images(
    crops_NCHW: Any, planes_2CMM: Any, windows_N3: Any, rgb_N3: Any, divisors_C: Any, out_NCHW: Any
) -> None:
    """Write crop − mean window, then + offset, then ÷ divisor to ``out_NCHW``, float32, rounding after each."""
    count, channels, height, width = crops_NCHW.shape
    for i in range(count):
        flip, top, left = windows_N3[i]
        for c in range(channels):
            offset, divisor = rgb_N3[i, c], divisors_C[c]
            for y in range(height):
                crop, out = crops_NCHW[i, c, y], out_NCHW[i, c, y]
                mean = planes_2CMM[flip, c, top + y, left : left + width]
                for x in range(width):
                    out[x] = (np.float32(crop[x]) - mean[x]) + offset
                if divisor != np.float32(1.0):
                    for x in range(width):
                        out[x] /= divisor
