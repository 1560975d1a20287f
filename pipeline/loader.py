"""Data set folders → iterators of ``Batch``: order, draws, graph, exchange and finish put together.

Five lines feed any training loop::

    from pipeline.loader import ShardedData

    data = ShardedData(train="shards/train", val="shards/val", batch_size=128, num_threads=8)
    for batch in data.training():      # endless; the state of the stream is the number of batches taken
        loss = criterion(model(batch.images_NCHW), batch.labels_N)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import fused
from pipeline.ahead import ahead
from pipeline.augment import AUGMENTATIONS, Augmenter
from pipeline.batch import Batch, CropBatch, DataFacts, Exchange, Part, Stages, no_exchange
from pipeline.damage import Damaged, damaged, named
from pipeline.dataset import Dataset, open_dataset
from pipeline.epochs import EpochLoader
from pipeline.errors import OUTCOMES, StreamError, UndecodedError
from pipeline.finish import Finish
from pipeline.graph import Engine, crop_batches, fused_batches
from pipeline.mean import MeanPlanes
from pipeline.order import Order
from pipeline.remote.staging import Staging
from pipeline.steps import Given, Skipped, Steps, evaluation_steps, training_steps, upcoming_shards
from sharding import layout
from sharding.storage import location

B = TypeVar("B")
CPU = torch.device("cpu")
AHEAD = 1  # batches that wait for the consumer, beside those that DALI decodes ahead
CHOICES = {
    "augmentation": tuple(AUGMENTATIONS),
    "order": ("global", "grouped"),
    "on_bad_sample": ("fail", "skip"),
    "decoder": ("auto", "dali"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedData:
    """The batches of a training run: a training split, an optional validation split, and how they are streamed.

    ``batch_size`` is that of the whole replica, ``seed`` decides order and augmentation, ``augmentation`` is a recipe
    (paper, original, inception, none). ``order``: ``global``, or ``grouped`` for disks and object stores that want
    long reads: a few shards are mixed at a time. ``num_threads`` are DALI's threads in each process, ``prefetch`` the
    batches decoded ahead. ``on_bad_sample``: ``fail`` at a sample that no longer decodes, or ``skip`` it (logged; the
    next one takes its place, validation leaves it out). ``decoder``: ``dali`` keeps the compiled operator out.
    ``train`` and ``val`` are folders, or places in an object store (``s3://bucket/train``), whose shards come through
    ``cache`` (default: ``~/.cache/alexstream``), a folder that holds at most ``cache_bytes``.
    Opens nothing until asked. Raises StreamError for a choice that does not exist.
    """

    train: Path | str
    val: Path | str | None = None
    batch_size: int = 128
    seed: int = 1
    augmentation: str = "paper"
    order: str = "global"
    num_threads: int = 1
    prefetch: int = 2
    on_bad_sample: str = "fail"
    decoder: str = "auto"
    cache: Path | str | None = None
    cache_bytes: int = 64 << 30

    def __post_init__(self) -> None:
        """Check the choices."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise StreamError(f"{name}: received {getattr(self, name)!r}, expected one of {', '.join(allowed)}")

    def facts(self) -> DataFacts:
        """Open and check both splits, and describe them.

        Raises DatasetError or StreamError if a file is missing or does not match its digest, or if the two
        splits have different classes.
        """
        train = self._open(self.train)
        _Statistics.of(train)
        val = self._open(self.val) if self.val is not None else None
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
            order=self.order,
        )

    def training(
        self,
        start_step: int = 0,
        part: Part = Part(),
        exchange: Exchange = no_exchange,
        device: torch.device = CPU,
        augmentation: str | None = None,
    ) -> Iterator[Batch]:
        """Endless training batches from step ``start_step`` on, as ``TrainingData.training``."""
        if augmentation not in (None, self.augmentation):
            return replace(self, augmentation=augmentation).training(start_step, part, exchange, device)
        data, recipe = self._open(self.train), AUGMENTATIONS[self.augmentation]
        self._check_cache(data)
        statistics = _Statistics.of(data)
        augmenter = Augmenter.of(recipe, self.seed, data.manifest.encode.size_px, statistics.stats)
        skipped = Skipped()
        steps = training_steps(data, augmenter, self._order(data), self.batch_size, part, skipped)
        stream = _Stream(self, data, augmenter, statistics, skipped, self._engine(part, device))
        return stream.batches(lambda i: steps(start_step + i), exchange)

    def loader(self, part: Part = Part(), device: torch.device = CPU) -> EpochLoader:
        """The training batches as pairs of images and labels, in epochs, with a state: for loops of your own.

        ``part``: this process's of ``count`` replicas, which share every batch of ``batch_size``. Raises StreamError
        if the data set does not fill one batch.
        """
        data = self._open(self.train)
        if len(data) < self.batch_size:
            raise StreamError(
                f"{self.train} has {len(data)} samples, fewer than one batch of {self.batch_size}; "
                "give a smaller batch_size"
            )
        names = ("seed", "batch_size", "augmentation", "order")
        identity = {"train_digest": data.manifest.digest, **{name: getattr(self, name) for name in names}}

        def stream(step: int) -> Iterator[Batch]:
            return self.training(step, part, device=device)

        return EpochLoader(stream, len(data) // self.batch_size, identity)

    def validation(
        self, part: Part = Part(), exchange: Exchange = no_exchange, device: torch.device = CPU, views: int = 1
    ) -> Iterator[Batch]:
        """One pass over the validation split, as ``TrainingData.validation``. Nothing, if there is none.

        ``views``: 1, the centre, or 10, from one decode: ``images_NCHW`` is then (N, 10, C, H, W), the four corners
        and the centre, then the same mirrored (paper, section 4.1). Raises ValueError for another number.
        """
        if views not in (1, 10):
            raise ValueError(f"views: received {views}, expected 1 or 10")
        if self.val is None:
            return iter(())
        recipe = AUGMENTATIONS[self.augmentation].evaluation()
        statistics, data = _Statistics.of(self._open(self.train)), self._open(self.val)
        augmenter = Augmenter.of(recipe, self.seed, data.manifest.encode.size_px, statistics.stats)
        skipped = Skipped()
        steps = evaluation_steps(data, augmenter, self.batch_size, part, skipped)
        stream = _Stream(self, data, augmenter, statistics, skipped, self._engine(part, device))
        return stream.batches(steps, exchange, views=views)

    def decode_path(self, device: torch.device = CPU, exchanged: bool = False) -> str:
        """Which way the images of ``training`` take on ``device``, in a sentence for people."""
        encoding = layout.load_manifest(_place(self.train)).encode.encoding
        if device.type == "cuda":
            return f"{encoding} shards, decoded on the GPU by nvJPEG (its hardware decoder where there is one)"
        if self._operator(encoding, CPU, exchanged) is not None:
            return f"{encoding} shards, decoded and finished in one compiled operator, {self.num_threads} thread(s)"
        return f"{encoding} shards, decoded by DALI on the CPU, {self.num_threads} thread(s)"

    def _open(self, place: Path | str) -> Dataset:
        cache = Path.home() / ".cache" / "alexstream" if self.cache is None else Path(self.cache)
        staging = Staging(cache=cache, limit_bytes=self.cache_bytes)
        return open_dataset(_place(place), staging, keep_steps=self.prefetch + AHEAD + 4)

    def _check_cache(self, data: Dataset) -> None:
        """A global order needs all shards all the time. Raises StreamError if the cache does not hold them."""
        total = sum(record.num_bytes for record in data.manifest.shards)
        if not isinstance(data.folder, Path) and self.order == "global" and total > self.cache_bytes:
            raise StreamError(
                f"{data.folder} has {total} bytes, the cache may hold {self.cache_bytes}, and the global order needs "
                f"all of them at once; give --cache-size {total} or more, or --order grouped"
            )

    def _order(self, data: Dataset) -> Order:
        sizes = tuple(record.num_samples for record in data.manifest.shards)
        return Order(num_samples=len(data), seed=self.seed, kind=self.order, shard_sizes=sizes)

    def _engine(self, part: Part, device: torch.device) -> Engine:
        part.of(self.batch_size)
        size = self.batch_size // part.count
        return Engine(batch_size=size, device=device, num_threads=self.num_threads, prefetch=self.prefetch)

    def _operator(self, encoding: str, device: torch.device, exchanged: bool) -> int | None:
        """The compiled operator where it can be used: standard views, whole batches, on a CPU."""
        boxed = AUGMENTATIONS[self.augmentation].crop == "resized"
        if self.decoder == "dali" or encoding == "keep" or boxed or exchanged or device.type != "cpu":
            return None
        return fused.operator()


def _place(place: Path | str) -> Path:
    return location(place) if isinstance(place, str) else place


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statistics:
    """What the finish needs of the training split."""

    stats: layout.DatasetStats
    mean_image_HWC: NDArray[np.float64]

    @classmethod
    def of(cls, train: Dataset) -> _Statistics:
        stats = layout.load_stats(train.folder, train.manifest)
        return cls(stats=stats, mean_image_HWC=layout.load_mean_image(train.folder, stats))


@dataclass(frozen=True, slots=True)
class _Stream:
    """One run over steps: which graph, and what happens at a sample that gives no image."""

    options: ShardedData
    data: Dataset
    augmenter: Augmenter
    statistics: _Statistics
    skipped: Skipped
    engine: Engine

    def batches(self, steps: Steps, exchange: Exchange, views: int = 1) -> Iterator[Batch]:
        """Finished batches."""
        recipe, stats = self.augmenter.augmentation, self.statistics.stats
        mean = MeanPlanes.of(recipe.mean, self.statistics.mean_image_HWC, stats)
        divisors = recipe.divisors(stats)
        exchanged = exchange is not no_exchange or views > 1
        operator = self.options._operator(self.data.manifest.encode.encoding, self.engine.device, exchanged)
        if operator is not None:
            compiled = operator

            def run(given: Steps) -> Generator[Batch, None, None]:
                return fused_batches(self.data, given, self.engine, mean, divisors, compiled)

            return self._unfailing(steps, run)
        finish = Finish(mean, self.engine.device, divisors)

        def crops(given: Steps) -> Generator[CropBatch, None, None]:
            return crop_batches(self.data, given, self.engine, self.augmenter, whole=views > 1)

        return finished(self._unfailing(steps, crops), exchange, finish.views if views > 1 else finish)

    def _unfailing(self, steps: Steps, run: Callable[[Steps], Generator[B, None, None]]) -> Iterator[B]:
        """``run``'s batches. It gives up at a bad sample: that is found, and named or passed over, and on it goes."""
        done = 0
        try:
            while True:
                given = Given(steps, done, keep=self.engine.prefetch + AHEAD + 3)
                self.data.shards.expect(upcoming_shards(self.data, steps, done))
                try:
                    with closing(ahead(run(given), AHEAD)) as batches:  # its threads end before the files are closed
                        for batch in batches:
                            done += 1
                            yield batch
                            del batch  # freed later, its tensors would let other threads run during the hand-over
                    return
                except (RuntimeError, ValueError, OSError) as error:
                    self._pass_over(error, given)
        finally:
            self.data.shards.close()

    def _pass_over(self, error: Exception, given: Given) -> None:
        """Skip what made the graph give up, if that may be. Raises StreamError if not, or if it was no sample."""
        found = self._bad(error, given)
        if not found:
            remedy = "find the damage with: cli.py verify"
            raise StreamError(f"{self.data.folder}: {_first_line(error)}; {remedy}") from error
        if self.options.on_bad_sample == "fail":
            raise found[0].error(self.data) from error
        self.skipped.add(found)

    def _bad(self, error: Exception, given: Given) -> list[Damaged]:
        if not isinstance(error, UndecodedError):
            return damaged(self.data, given.samples())
        changed = {one.sample: one for one in damaged(self.data, error.outcomes)}
        return [
            changed.get(sample) or named(self.data, sample, OUTCOMES[outcome])
            for sample, outcome in sorted(error.outcomes.items())
        ]


def finished(crops: Iterator[CropBatch], exchange: Exchange, finish: Callable[[CropBatch], Batch]) -> Iterator[Batch]:
    """Exchange and finish batches; the exchange of the next batch runs while the consumer uses this one."""
    started: tuple[CropBatch, Callable[[], CropBatch]] | None = None
    for part in crops:
        waiting, started = started, (part, exchange(part))
        if waiting is not None:
            yield _finished(*waiting, finish)
    if started is not None:
        yield _finished(*started, finish)


def _finished(part: CropBatch, exchanged: Callable[[], CropBatch], finish: Callable[[CropBatch], Batch]) -> Batch:
    start = time.perf_counter()
    whole = exchanged()
    there = time.perf_counter()
    batch = finish(whole)
    took = Stages(exchange_s=there - start, finish_s=time.perf_counter() - there)
    return replace(batch, stages=part.stages + took)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "ecode" in line), lines[0] if lines else "DALI failed")
