"""Data set folders → iterators of ``Batch``: order, draws, DALI graph, exchange and finish put together.

Called by the command line, which hands a ``ShardedData`` to the trainer; see ``docs/decisions`` for the
library use.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment import AUGMENTATIONS, NONE, Augmenter
from pipeline.batch import Batch, CropBatch, DataFacts, Exchange, Part, no_exchange
from pipeline.damage import Damaged, damaged
from pipeline.dataset import Dataset, open_dataset
from pipeline.errors import StreamError
from pipeline.finish import Finish
from pipeline.graph import Step, crop_batches
from pipeline.order import PADDING, evaluation_batch, training_batch
from sharding import layout

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedData:
    """The batches of a training run: a training split, an optional validation split, and how they are streamed.

    ``batch_size`` is that of the whole replica, ``seed`` decides order and augmentation, ``num_threads`` are
    DALI's decoding threads in each process, ``prefetch`` the batches decoded ahead. ``on_bad_sample``: ``fail`` at a
    sample that no longer decodes, or ``skip`` it (logged; the next one takes its place, validation leaves it out).
    Opens nothing until asked.
    """

    train: Path
    val: Path | None = None
    batch_size: int = 128
    seed: int = 1
    augmentation: str = "paper"
    num_threads: int = 1
    prefetch: int = 2
    on_bad_sample: str = "fail"

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
        skipped = Skipped()
        steps = training_steps(data, augmenter, self.batch_size, self.seed, part, skipped)
        crops = self._crops(data, lambda i: steps(start_step + i), skipped, part, device)
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
        skipped = Skipped()
        steps = evaluation_steps(data, augmenter, self.batch_size, part, skipped)
        return finished(self._crops(data, steps, skipped, part, device), exchange, Finish(mean, device))

    def _stats_and_mean(self, train: Dataset) -> tuple[layout.DatasetStats, np.ndarray]:
        stats = layout.load_stats(train.folder, train.manifest)
        return stats, layout.load_mean_image(train.folder, stats)

    def _crops(
        self, data: Dataset, source: Callable[[int], Step], skipped: Skipped, part: Part, device: torch.device
    ) -> Iterator[CropBatch]:
        """The graph's batches. DALI gives up at a damaged sample: it is found, and named or passed over."""
        size, done = self.batch_size // part.count, 0
        while True:
            given = _Given(source, done, keep=self.prefetch + 2)
            crops = crop_batches(given, size, device, self.num_threads, self.prefetch, data.manifest.encode.encoding)
            try:
                for batch in crops:
                    done += 1
                    yield batch
                return
            except RuntimeError as error:
                found = damaged(data, given.samples())
                if not found:
                    remedy = "find the damage with: cli.py verify"
                    raise StreamError(f"{data.folder}: {_first_line(error)}; {remedy}") from error
                if self.on_bad_sample == "fail":
                    raise found[0].error(data) from error
                skipped.add(found)


class _Given:
    """A source of steps from number ``begin`` on, which remembers the last ones it gave: DALI names no sample."""

    def __init__(self, source: Callable[[int], Step], begin: int, keep: int) -> None:
        self._source, self._begin = source, begin
        self._recent: deque[Step] = deque(maxlen=keep)

    def __call__(self, number: int) -> Step:
        self._recent.append(self._source(self._begin + number))
        return self._recent[-1]

    def samples(self) -> set[int]:
        """Ids of the samples in the steps that may have failed."""
        return {int(sample) for step in self._recent for sample in step[2]}


class Skipped:
    """Samples that are passed over, since they no longer decode; each is logged once as it is found."""

    def __init__(self) -> None:
        """None yet."""
        self._samples: set[int] = set()

    def add(self, found: Sequence[Damaged]) -> None:
        """Pass these over from now on."""
        self._samples.update(one.sample for one in found)
        for one in found:
            logger.warning("sample %s in %s.tar is damaged; passed over (%d so far)", one.key, one.shard, len(self))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._samples)

    def __contains__(self, sample: int) -> bool:
        """Whether a sample is passed over."""
        return sample in self._samples

    def replaced(self, ids_N: NDArray[np.int64], num_samples: int) -> NDArray[np.int64]:
        """Each skipped id becomes the next one that is not: batches stay full, whatever the number of ranks."""
        if not self._samples:
            return ids_N
        if len(self) >= num_samples:
            raise StreamError(f"all {num_samples} samples are damaged; restore the shards or shard the source again")
        return np.array([next(j % num_samples for j in count(int(i)) if j % num_samples not in self) for i in ids_N])


def training_steps(
    data: Dataset, augmenter: Augmenter, batch_size: int, seed: int, part: Part, skipped: Skipped | None = None
) -> Callable[[int], Step]:
    """Step number → this part's samples and draws."""
    mine, left_out = part.of(batch_size), Skipped() if skipped is None else skipped

    def step(number: int) -> Step:
        epochs, ids = training_batch(len(data), batch_size, seed, number)
        return _samples(data, augmenter, epochs[mine], left_out.replaced(ids[mine], len(data)))

    return step


def evaluation_steps(
    data: Dataset, augmenter: Augmenter, batch_size: int, part: Part, skipped: Skipped
) -> Callable[[int], Step]:
    """As ``training_steps`` for one pass in catalog order; raises StopIteration at the end."""
    mine = part.of(batch_size)

    def step(number: int) -> Step:
        if number * batch_size >= len(data):
            raise StopIteration
        ids = evaluation_batch(len(data), batch_size, number)[mine]
        ids = np.where([int(i) in skipped for i in ids], PADDING, ids)
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
