"""Plan batches: compute the samples of a step and their draws, replacing samples that are skipped."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.damage import DamagedSample
from alexstream.pipeline.reading.dataset import Dataset
from alexstream.pipeline.sampling.order import PADDING, Order, evaluation_batch
from alexstream.pipeline.transforms.augment import Augmenter, Draws

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """Plan one process's part of a batch: n samples, all arrays int64 (n,).

    ``ids_N`` and ``labels_N`` are -1 in padding. ``read_N`` are the samples to read: as ``ids_N``, but in padding some
    sample that can be decoded.
    """

    epochs_N: NDArray[np.int64]
    ids_N: NDArray[np.int64]
    read_N: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    draws: Draws


BatchPlanner = Callable[[int], BatchPlan]


class SkippedSamples:
    """Collect samples that are skipped since they no longer decode; log each as it is added."""

    def __init__(self) -> None:
        self._samples: set[int] = set()

    def add(self, found: Sequence[DamagedSample]) -> None:
        """Skip these samples from now on."""
        self._samples.update(one.sample for one in found)
        for one in found:
            logger.warning("sample %s in %s.tar is damaged; skipped (%d so far)", one.key, one.shard, len(self))

    def __len__(self) -> int:
        return len(self._samples)

    def __contains__(self, sample: int) -> bool:
        return sample in self._samples

    def replaced(self, ids_N: NDArray[np.int64], num_samples: int) -> NDArray[np.int64]:
        """Return ``ids_N`` with each skipped id replaced by the next id that is not skipped.

        Batches stay full, and the same for any number of ranks. Raises StreamError if all samples are skipped.
        """
        if not self._samples:
            return ids_N
        if len(self) >= num_samples:
            raise StreamError(f"all {num_samples} samples are damaged; restore the shards or shard the source again")
        return np.array([next(j % num_samples for j in count(int(i)) if j % num_samples not in self) for i in ids_N])


def make_training_planner(
    data: Dataset,
    augmenter: Augmenter,
    order: Order,
    batch_size: int,
    part: BatchSlice,
    skipped: SkippedSamples | None = None,
) -> BatchPlanner:
    """Return a function from a step's number to this part's samples and draws, endless over epochs."""
    mine, left_out = part.to_slice(batch_size), SkippedSamples() if skipped is None else skipped

    def step(number: int) -> BatchPlan:
        epochs, ids, places = (values[mine] for values in order.batch(batch_size, number))
        ids = left_out.replaced(ids, len(data))
        draws = augmenter.draw(epochs, ids, places)
        return BatchPlan(epochs_N=epochs, ids_N=ids, read_N=ids, labels_N=data.label_N[ids], draws=draws)

    return step


def make_evaluation_planner(
    data: Dataset, augmenter: Augmenter, batch_size: int, part: BatchSlice, skipped: SkippedSamples
) -> BatchPlanner:
    """Return a function from a step's number to this part's samples, for one pass in catalog order.

    The function raises StopIteration for a step after the last one, which is how DALI's ``external_source`` ends.
    """
    mine = part.to_slice(batch_size)

    def step(number: int) -> BatchPlan:
        if number * batch_size >= len(data):
            raise StopIteration
        ids = evaluation_batch(len(data), batch_size, number)[mine]
        ids = np.where([int(i) in skipped for i in ids], PADDING, ids)
        read = np.where(ids == PADDING, skipped.replaced(np.zeros(1, np.int64), len(data)), ids)
        labels, epochs = np.where(ids == PADDING, PADDING, data.label_N[read]), np.zeros_like(ids)
        draws = augmenter.draw(epochs, ids, np.zeros_like(ids))
        return BatchPlan(epochs_N=epochs, ids_N=ids, read_N=read, labels_N=labels, draws=draws)

    return step


def upcoming_shards(data: Dataset, steps: BatchPlanner, begin: int) -> Iterator[NDArray[np.int64]]:
    """Yield the shards of each sample, int64 (n,), of step ``begin`` and of all steps after it."""
    for number in count(begin):
        try:
            step = steps(number)
        except StopIteration:
            return
        yield data.shard_N[step.read_N]


class RecentPlans:
    """Plan steps from ``begin`` on, and remember the latest ones, since DALI does not say which sample failed."""

    def __init__(self, steps: BatchPlanner, begin: int, keep: int) -> None:
        """Remember the last ``keep`` steps, at least as many as may be in flight at once."""
        self._steps, self._begin = steps, begin
        self._recent: deque[BatchPlan] = deque(maxlen=keep)

    def __call__(self, number: int) -> BatchPlan:
        """Return the plan of step ``begin + number``."""
        self._recent.append(self._steps(self._begin + number))
        return self._recent[-1]

    def samples(self) -> set[int]:
        """Return the ids of all samples in the remembered steps."""
        return {int(sample) for step in self._recent for sample in step.ids_N}
