"""What the network will see: images of the real training stream as pictures, the mean put back.

``Preview`` takes batches from ``ShardedData.training``, as a training loop does; ``restored`` is pure. Called by
``cli.py preview`` and by the report.

Shape legend: N = images, C = 3 channels (R, G, B), H = W = 224 pixels; 2 and M as in ``mean``.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.augment import AUGMENTATIONS, Augmenter
from pipeline.batch import CROP_PX, Batch
from pipeline.loader import ShardedData
from pipeline.mean import MeanPlanes
from pipeline.order import Order
from sharding import layout
from sharding.storage import location


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """An image as the network sees it in an epoch (0: the first): uint8 R, G, B (H, W, C), and whose it is."""

    pixels_HWC: NDArray[np.uint8]
    sample: int
    label: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A training stream, and what is needed to undo its subtraction and division."""

    data: ShardedData
    order: Order
    augmenter: Augmenter
    mean: MeanPlanes
    divisors_C: NDArray[np.float32]

    @classmethod
    def of(cls, data: ShardedData) -> Preview:
        """For the training split of ``data``. Raises DatasetError if its manifest or statistics cannot be read."""
        folder = location(data.train) if isinstance(data.train, str) else data.train
        manifest = layout.load_manifest(folder)
        stats = layout.load_stats(folder, manifest)
        recipe = AUGMENTATIONS[data.augmentation]
        sizes = tuple(shard.num_samples for shard in manifest.shards)
        return cls(
            data=data,
            order=Order(num_samples=manifest.num_samples, seed=data.seed, kind=data.order, shard_sizes=sizes),
            augmenter=Augmenter.of(recipe, data.seed, manifest.encode.size_px, stats),
            mean=MeanPlanes.of(recipe.mean, layout.load_mean_image(folder, stats), stats),
            divisors_C=recipe.divisors(stats),
        )

    def batches(self, count: int, step: int = 0) -> list[Seen]:
        """The first ``count`` images of the stream from step ``step`` on. Raises StreamError as the stream does."""
        size = self.data.batch_size
        taken = self._taken(self.data, step, -(-count // size))
        return [seen for number, batch in taken for seen in self._seen(batch, size, number)][:count]

    def sample(self, sample: int, epochs: Iterable[int]) -> list[Seen]:
        """One sample, by its id, as it is seen in each of these epochs.

        Its position in the stream is found and a stream of single images sought to it: nothing that a batch shares is
        lost, since a draw depends on the epoch and the position alone.
        """
        return [self._at(sample, epoch) for epoch in epochs]

    def _at(self, sample: int, epoch: int) -> Seen:
        place = int(np.flatnonzero(self.order.epoch(epoch) == sample)[0])
        position = epoch * self.order.num_samples + place
        ((_, batch),) = self._taken(replace(self.data, batch_size=1), position, 1)
        return self._seen(batch, 1, position)[0]

    def _taken(self, data: ShardedData, start: int, count: int) -> list[tuple[int, Batch]]:
        """``count`` batches with their step numbers; the stream is closed, with its threads, when they are there."""
        with closing(cast(Any, data.training(start))) as stream:
            return [(start + i, next(stream)) for i in range(count)]

    def _seen(self, batch: Batch, batch_size: int, step: int) -> list[Seen]:
        epochs, _, places = self.order.batch(batch_size, step)
        ids = batch.ids_N.numpy()
        draws = self.augmenter.draw(epochs, ids, places)
        windows = self.mean.windows(draws.yx_N2, draws.flip_N)
        pixels = restored(batch.images_NCHW.numpy(), self.mean, windows, self.divisors_C)
        rows = zip(pixels, ids.tolist(), batch.labels_N.tolist(), epochs.tolist(), strict=True)
        return [Seen(pixels_HWC=one, sample=i, label=label, epoch=epoch) for one, i, label, epoch in rows]


def restored(
    images_NCHW: NDArray[np.float32], mean: MeanPlanes, windows_N3: NDArray[np.int64], divisors_C: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Pixels on 0..255, uint8 (N, H, W, C), of a finished batch: multiplied, the mean added, rounded and clipped.

    ``windows_N3`` as ``MeanPlanes.windows`` gives them. Crop, flip and lighting stay as they are.
    """
    added = [mean.planes_2CMM[flip, :, y : y + CROP_PX, x : x + CROP_PX] for flip, y, x in windows_N3.tolist()]
    pixels_NCHW = images_NCHW * divisors_C[:, None, None] + np.stack(added)
    pixels: NDArray[np.uint8] = np.rint(pixels_NCHW).clip(0, 255).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)
