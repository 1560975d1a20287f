"""Show images of the training stream as the network sees them, with the mean added back.

``Preview`` takes batches from ``ShardedData.training``, as a training loop does; ``undo_normalization`` is pure. Called
by ``cli.py preview`` and by the report.

Shape legend: N = images, C = 3 channels (R, G, B), H = W = 224 pixels; 2 and M as in ``mean``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from alexstream.pipeline.batch import CROP_PX, Batch
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import Augmenter
from alexstream.pipeline.transforms.mean import MeanPlanes


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewImage:
    """Hold an image as the network sees it, uint8 R, G, B (H, W, C), with sample id, label and epoch (from 0)."""

    pixels_HWC: NDArray[np.uint8]
    sample: int
    label: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Take images from a training stream and undo their normalization."""

    data: ShardedData
    order: Order
    augmenter: Augmenter
    mean: MeanPlanes
    divisors_C: NDArray[np.float32]

    @classmethod
    def from_data(cls, data: ShardedData) -> Preview:
        """Open the training split of ``data``. Raises DatasetError or StreamError if it cannot be read."""
        stream = data.open()
        preprocessing = stream.preprocessing
        return cls(
            data=data,
            order=stream.order,
            augmenter=preprocessing.make_augmenter(data.seed, stream.train.manifest.encode.size_px),
            mean=preprocessing.make_mean_planes(),
            divisors_C=preprocessing.divisors_C,
        )

    def take_images(self, count: int, step: int = 0) -> list[PreviewImage]:
        """Return the first ``count`` images of the stream from step ``step`` on. Raises StreamError as the stream."""
        size = self.data.batch_size
        taken = self._take_batches(self.data, step, -(-count // size))
        return [seen for number, batch in taken for seen in self._restore_images(batch, size, number)][:count]

    def sample(self, sample: int, epochs: Iterable[int]) -> list[PreviewImage]:
        """Return the sample with id ``sample`` as it is seen in each of these epochs.

        Each image comes from a stream of batches of one, started at the sample's position. That gives the same image as
        the training's batches, since its draws depend on the epoch and the position, not on the batch.
        """
        single = replace(self.data, batch_size=1)
        return [self._take_sample_at(single, sample, epoch) for epoch in epochs]

    def _take_sample_at(self, single: ShardedData, sample: int, epoch: int) -> PreviewImage:
        place = int(np.flatnonzero(self.order.epoch(epoch) == sample)[0])
        position = epoch * self.order.num_samples + place
        ((_, batch),) = self._take_batches(single, position, 1)
        return self._restore_images(batch, 1, position)[0]

    def _take_batches(self, data: ShardedData, start: int, count: int) -> list[tuple[int, Batch]]:
        """Return ``count`` batches with their step numbers, and close the stream with its threads."""
        with closing(cast(Any, data.training(start))) as stream:
            return [(start + i, next(stream)) for i in range(count)]

    def _restore_images(self, batch: Batch, batch_size: int, step: int) -> list[PreviewImage]:
        epochs, _, places = self.order.batch(batch_size, step)
        ids = batch.ids_N.numpy()
        draws = self.augmenter.draw(epochs, ids, places)
        windows = self.mean.locate_windows(draws.yx_N2, draws.flip_N)
        pixels = undo_normalization(batch.images_NCHW.numpy(), self.mean, windows, self.divisors_C)
        rows = zip(pixels, ids.tolist(), batch.labels_N.tolist(), epochs.tolist(), strict=True)
        return [PreviewImage(pixels_HWC=one, sample=i, label=label, epoch=epoch) for one, i, label, epoch in rows]


def undo_normalization(
    images_NCHW: NDArray[np.float32], mean: MeanPlanes, windows_N3: NDArray[np.int64], divisors_C: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Undo normalization: multiply by the divisors, add the mean, round and clip to 0..255, uint8 (N, H, W, C).

    ``windows_N3`` as ``MeanPlanes.windows`` returns them. Crop, flip and lighting stay as they are.
    """
    added = [mean.planes_2CMM[flip, :, y : y + CROP_PX, x : x + CROP_PX] for flip, y, x in windows_N3.tolist()]
    pixels_NCHW = images_NCHW * divisors_C[:, None, None] + np.stack(added)
    pixels: NDArray[np.uint8] = np.rint(pixels_NCHW).clip(0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)
