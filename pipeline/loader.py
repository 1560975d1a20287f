"""Data set folders → iterators of ``Batch``: order, draws, DALI graph, exchange and finish put together.

Called by the command line, which hands a ``ShardedData`` to the trainer; see ``docs/decisions`` for the
library use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.augment import AUGMENTATIONS, NONE, Augmenter
from pipeline.batch import Batch, CropBatch, DataFacts, Exchange, Part, no_exchange
from pipeline.dataset import Dataset, open_dataset
from pipeline.errors import StreamError
from pipeline.finish import Finish
from pipeline.graph import Step, crop_batches
from pipeline.order import PADDING, evaluation_batch, training_batch
from sharding import layout


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedData:
    """The batches of a training run: a training split, an optional validation split, and how they are streamed.

    ``batch_size`` is that of the whole replica, ``seed`` decides order and augmentation, ``num_threads`` are
    DALI's decoding threads in each process, ``prefetch`` the batches decoded ahead. Opens nothing until asked.
    """

    train: Path
    val: Path | None = None
    batch_size: int = 128
    seed: int = 1
    augmentation: str = "paper"
    num_threads: int = 1
    prefetch: int = 2

    def facts(self) -> DataFacts:
        """Open and check both splits, and describe them.

        Raises DatasetError or StreamError if a file is missing or does not match its digest, or if the two
        splits have different classes.
        """
        train = open_dataset(self.train)
        self._stats_and_mean(train)
        val = open_dataset(self.val) if self.val is not None else None
        if val is not None and val.manifest.classes != train.manifest.classes:
            raise StreamError(
                f"{self.val} has {len(val.manifest.classes)} classes and {self.train} has "
                f"{len(train.manifest.classes)}, or in another order; labels would not mean the same: "
                "shard both from one source with: cli.py shard --src FOLDER_WITH_TRAIN_AND_VAL"
            )
        return DataFacts(
            num_train=len(train),
            num_val=len(val) if val is not None else 0,
            classes=train.manifest.classes,
            train_digest=train.manifest.digest,
            val_digest=val.manifest.digest if val is not None else "",
            augmentation=self.augmentation,
            seed=self.seed,
            batch_size=self.batch_size,
        )

    def training(
        self,
        start_step: int = 0,
        part: Part = Part(),
        exchange: Exchange = no_exchange,
        device: torch.device = torch.device("cpu"),
    ) -> Iterator[Batch]:
        """Endless training batches from step ``start_step`` on, as ``TrainingData.training``."""
        data = open_dataset(self.train)
        stats, mean = self._stats_and_mean(data)
        augmentation = AUGMENTATIONS[self.augmentation]
        augmenter = Augmenter.of(augmentation, self.seed, data.manifest.encode.size_px, stats)
        steps = training_steps(data, augmenter, self.batch_size, self.seed, part)
        crops = self._crops(data, lambda i: steps(start_step + i), part, device)
        return finished(crops, exchange, Finish(mean, device, augmentation.divisor()))

    def validation(
        self,
        part: Part = Part(),
        exchange: Exchange = no_exchange,
        device: torch.device = torch.device("cpu"),
    ) -> Iterator[Batch]:
        """One pass over the validation split, as ``TrainingData.validation``. Nothing, if there is none."""
        if self.val is None:
            return iter(())
        stats, mean = self._stats_and_mean(open_dataset(self.train))
        data = open_dataset(self.val)
        augmenter = Augmenter.of(NONE, self.seed, data.manifest.encode.size_px, stats)
        steps = evaluation_steps(data, augmenter, self.batch_size, part)
        return finished(self._crops(data, steps, part, device), exchange, Finish(mean, device))

    def _stats_and_mean(self, train: Dataset) -> tuple[layout.DatasetStats, np.ndarray]:
        stats = layout.load_stats(train.folder, train.manifest)
        return stats, layout.load_mean_image(train.folder, stats)

    def _crops(
        self, data: Dataset, source: Callable[[int], Step], part: Part, device: torch.device
    ) -> Iterator[CropBatch]:
        size = self.batch_size // part.count
        crops = crop_batches(source, size, device, self.num_threads, self.prefetch, data.manifest.encode.encoding)
        try:
            yield from crops
        except RuntimeError as error:
            raise StreamError(f"{data.folder}: {_first_line(error)}; find the damage with: cli.py verify") from error


def training_steps(
    data: Dataset, augmenter: Augmenter, batch_size: int, seed: int, part: Part
) -> Callable[[int], Step]:
    """Step number → this part's samples and draws."""
    mine = part.of(batch_size)

    def step(number: int) -> Step:
        epochs, ids = training_batch(len(data), batch_size, seed, number)
        return _samples(data, augmenter, epochs[mine], ids[mine])

    return step


def evaluation_steps(data: Dataset, augmenter: Augmenter, batch_size: int, part: Part) -> Callable[[int], Step]:
    """As ``training_steps`` for one pass in catalog order; raises StopIteration at the end."""
    mine = part.of(batch_size)

    def step(number: int) -> Step:
        if number * batch_size >= len(data):
            raise StopIteration
        ids = evaluation_batch(len(data), batch_size, number)[mine]
        return _samples(data, augmenter, np.zeros_like(ids), ids)

    return step


def finished(crops: Iterator[CropBatch], exchange: Exchange, finish: Finish) -> Iterator[Batch]:
    """Exchange and finish batches; the exchange of the next batch runs while the consumer uses this one."""
    waiting: Callable[[], CropBatch] | None = None
    for part in crops:
        started = exchange(part)
        if waiting is not None:
            yield finish(waiting())
        waiting = started
    if waiting is not None:
        yield finish(waiting())


def _samples(data: Dataset, augmenter: Augmenter, epochs: np.ndarray, ids: np.ndarray) -> Step:
    draws = augmenter.draw(epochs, ids)
    real = np.where(ids == PADDING, 0, ids)
    labels = np.where(ids == PADDING, PADDING, data.label_N[real])
    return [data.stored(i) for i in real], labels, ids, draws.yx_N2, draws.flip_N, draws.rgb_N3


def _first_line(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "ecode" in line), lines[0] if lines else "DALI failed")
