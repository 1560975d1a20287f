"""Make the batches of one pass over planned steps: decode, restart after a bad sample, exchange, and normalize."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from weakref import WeakSet

import torch

from alexstream.core.program import program_name
from alexstream.pipeline.batch import Batch, CropBatch, Exchange, StageTimes
from alexstream.pipeline.batch_plan import BatchPlanner, RecentPlans, SkippedSamples, upcoming_shards
from alexstream.pipeline.decode import fused
from alexstream.pipeline.decode.dali import Engine, find_seam_fault, run_crop_graph, run_fused_graph
from alexstream.pipeline.decode.threads import run_fused_threads
from alexstream.pipeline.errors import OUTCOME_MESSAGES, StreamError, UndecodedError
from alexstream.pipeline.prefetch import prefetch
from alexstream.pipeline.reading.damage import DamagedSample, find_damaged, locate_damaged
from alexstream.pipeline.reading.dataset import Dataset
from alexstream.pipeline.transforms.augment import Augmentation, Augmenter
from alexstream.pipeline.transforms.preprocessing import Preprocessing

B = TypeVar("B")
PREFETCH_DEPTH = 1  # finished batches that wait for the consumer, in addition to those that DALI decodes ahead


_streaming_pid = 0  # the process that has made batches


def _check_fork() -> None:
    """Raise StreamError if this process is a fork of one that has made batches: DALI would wait for ever in it."""
    global _streaming_pid
    if _streaming_pid not in (0, os.getpid()):
        raise StreamError(
            "this process was forked from one that has read batches, whose threads it lacks; start processes by the "
            "method spawn, or before the first batch is read"
        )
    _streaming_pid = os.getpid()


_open_streams: WeakSet[Generator[Any, None, None]] = WeakSet()


def _close_at_exit(stream: Generator[B, None, None]) -> Generator[B, None, None]:
    """Return the generator, which is closed when Python ends if nobody did: later its modules are gone."""
    _open_streams.add(stream)
    return stream


@atexit.register
def _close_open_streams() -> None:
    if _streaming_pid == os.getpid():  # the threads of a parent are not here to be ended
        for stream in list(_open_streams):
            with suppress(ValueError):  # running in another thread
                stream.close()


def choose_operator(
    decoder: str, encoding: str, recipe: Augmentation, device: torch.device, needs_crops: bool
) -> int | None:
    """Return the compiled operator's address where it can be used: standard views, whole batches, on a CPU."""
    boxed = recipe.crop == "resized"
    if decoder == "dali" or encoding == "keep" or boxed or needs_crops or device.type != "cpu":
        return None
    return fused.find_operator_address()


def uses_own_threads(decoder: str) -> bool:
    """Return whether the compiled operator runs in our own threads: on request, or where this DALI cannot call it."""
    return decoder == "threads" or find_seam_fault() != ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSource:
    """Run one sequence of steps: choose the graph, and skip or report samples that cannot be decoded.

    Args:
        data: The split; its shards are closed at the end.
        preprocessing: The recipe and the statistics by which crops are normalized.
        augmenter: Draws the boxes of images that are stored in their original size.
        engine: What the graph is run with.
        skipped: Receives samples that cannot be decoded.
        skips_bad: Whether they may be skipped; if not, the first raises StreamError.
        decoder: ``auto``; ``dali`` to do without the compiled operator; ``threads`` to run it in our own threads.
    """

    data: Dataset
    preprocessing: Preprocessing
    augmenter: Augmenter
    engine: Engine
    skipped: SkippedSamples
    skips_bad: bool
    decoder: str = "auto"

    def read_batches(self, steps: BatchPlanner, exchange: Exchange | None, views: int = 1) -> Iterator[Batch]:
        """Yield normalized batches of ``steps``. Raises StreamError in a fork of a process that has made batches."""
        _check_fork()
        needs_crops = exchange is not None or views > 1
        encoding, device = self.data.manifest.encode.encoding, self.engine.device
        operator = choose_operator(self.decoder, encoding, self.preprocessing.recipe, device, needs_crops)
        if operator is not None:
            compiled, run_fused = operator, run_fused_threads if uses_own_threads(self.decoder) else run_fused_graph

            def run(given: BatchPlanner) -> Generator[Batch, None, None]:
                return run_fused(self.data, given, self.engine, self.preprocessing, compiled)

            return _close_at_exit(self._run_with_restarts(steps, run))
        normalize = self.preprocessing.make_normalizer(self.engine.device)

        def iter_crops(given: BatchPlanner) -> Generator[CropBatch, None, None]:
            return run_crop_graph(self.data, given, self.engine, self.augmenter, whole=views > 1)

        crops = _close_at_exit(self._run_with_restarts(steps, iter_crops))
        return exchange_and_normalize(crops, exchange, normalize.normalize_views if views > 1 else normalize)

    def _run_with_restarts(
        self, steps: BatchPlanner, run: Callable[[BatchPlanner], Generator[B, None, None]]
    ) -> Generator[B, None, None]:
        """Yield ``run``'s batches, restarting the graph after a sample that cannot be decoded.

        The graph ends at such a sample: raise StreamError naming it, or skip it and build the graph anew from the first
        batch that has not been yielded.
        """
        done = 0
        try:
            while True:
                given = RecentPlans(steps, done, keep=self.engine.prefetch + PREFETCH_DEPTH + 3)
                self.data.shards.expect(upcoming_shards(self.data, steps, done))
                try:
                    # Closing ends the threads of the graph before the files that they read are closed.
                    with closing(prefetch(run(given), PREFETCH_DEPTH)) as batches:
                        for batch in batches:
                            done += 1
                            yield batch
                            del batch  # freed later, its tensors would let other threads run during the hand-over
                    return
                except (RuntimeError, ValueError, OSError) as error:
                    self._skip_or_raise(error, given)
        finally:
            self.data.shards.close()

    def _skip_or_raise(self, error: Exception, given: RecentPlans) -> None:
        """Skip the samples that ended the graph. Raises StreamError if that is not allowed, or none of them is bad."""
        found = self._find_damaged(error, given)
        if not found:
            remedy = f"find the damage with: {program_name()} verify"
            raise StreamError(f"{self.data.folder}: {_first_line(error)}; {remedy}") from error
        if not self.skips_bad:
            raise found[0].error(self.data) from error
        self.skipped.add(found)

    def _find_damaged(self, error: Exception, given: RecentPlans) -> list[DamagedSample]:
        if not isinstance(error, UndecodedError):
            return find_damaged(self.data, given.samples())
        changed = {one.sample: one for one in find_damaged(self.data, error.outcomes)}
        return [
            changed.get(sample) or locate_damaged(self.data, sample, OUTCOME_MESSAGES[outcome])
            for sample, outcome in sorted(error.outcomes.items())
        ]


def exchange_and_normalize(
    crops: Iterator[CropBatch], exchange: Exchange | None, finish: Callable[[CropBatch], Batch]
) -> Iterator[Batch]:
    """Exchange and normalize batches; the exchange of the next batch runs while the consumer uses this one.

    Without an ``exchange`` a process normalizes the crops that it decoded.
    """
    started: tuple[CropBatch, Callable[[], CropBatch] | None] | None = None
    for part in crops:
        waiting, started = started, (part, exchange(part) if exchange is not None else None)
        if waiting is not None:
            yield _normalize_batch(*waiting, finish)
    if started is not None:
        yield _normalize_batch(*started, finish)


def _normalize_batch(
    part: CropBatch, wait: Callable[[], CropBatch] | None, finish: Callable[[CropBatch], Batch]
) -> Batch:
    start = time.perf_counter()
    whole = part if wait is None else wait()
    there = time.perf_counter()
    batch = finish(whole)
    took = StageTimes(exchange_s=there - start, finish_s=time.perf_counter() - there)
    return replace(batch, stages=part.stages + took)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "ecode" in line), lines[0] if lines else "DALI failed")
