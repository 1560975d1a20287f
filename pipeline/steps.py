"""Step number → the samples of a batch with their draws; the samples that are passed over."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from pipeline.augment import Augmenter, Draws
from pipeline.batch import Part
from pipeline.damage import Damaged
from pipeline.dataset import Dataset
from pipeline.errors import StreamError
from pipeline.order import PADDING, Order, evaluation_batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One process's part of a batch: n samples, all fields int64 (n,).

    ``ids_N`` and ``labels_N`` are -1 in padding, where ``read_N`` is some sample that exists.
    """

    epochs_N: NDArray[np.int64]
    ids_N: NDArray[np.int64]
    read_N: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    draws: Draws


Steps = Callable[[int], Step]


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
    data: Dataset, augmenter: Augmenter, order: Order, batch_size: int, part: Part, skipped: Skipped | None = None
) -> Steps:
    """Step number → this part's samples and draws."""
    mine, left_out = part.of(batch_size), Skipped() if skipped is None else skipped

    def step(number: int) -> Step:
        epochs, ids, places = (values[mine] for values in order.batch(batch_size, number))
        ids = left_out.replaced(ids, len(data))
        draws = augmenter.draw(epochs, ids, places)
        return Step(epochs_N=epochs, ids_N=ids, read_N=ids, labels_N=data.label_N[ids], draws=draws)

    return step


def evaluation_steps(data: Dataset, augmenter: Augmenter, batch_size: int, part: Part, skipped: Skipped) -> Steps:
    """As ``training_steps`` for one pass in catalog order; raises StopIteration at the end."""
    mine = part.of(batch_size)

    def step(number: int) -> Step:
        if number * batch_size >= len(data):
            raise StopIteration
        ids = evaluation_batch(len(data), batch_size, number)[mine]
        ids = np.where([int(i) in skipped for i in ids], PADDING, ids)
        read = np.where(ids == PADDING, skipped.replaced(np.zeros(1, np.int64), len(data)), ids)
        labels, epochs = np.where(ids == PADDING, PADDING, data.label_N[read]), np.zeros_like(ids)
        draws = augmenter.draw(epochs, ids, np.zeros_like(ids))
        return Step(epochs_N=epochs, ids_N=ids, read_N=read, labels_N=labels, draws=draws)

    return step


def upcoming_shards(data: Dataset, steps: Steps, begin: int) -> Iterator[NDArray[np.int64]]:
    """The shards of step ``begin`` and of those after it, as long as there are steps."""
    for number in count(begin):
        try:
            step = steps(number)
        except StopIteration:
            return
        yield data.shard_N[step.read_N]


class Given:
    """Steps from number ``begin`` on, and the last ones that were asked for: DALI names no sample that it refuses."""

    def __init__(self, steps: Steps, begin: int, keep: int) -> None:
        """``keep``: how many steps may be under way at once."""
        self._steps, self._begin = steps, begin
        self._recent: deque[Step] = deque(maxlen=keep)

    def __call__(self, number: int) -> Step:
        """Step ``begin + number``."""
        self._recent.append(self._steps(self._begin + number))
        return self._recent[-1]

    def samples(self) -> set[int]:
        """Ids of the samples in the steps that may have failed."""
        return {int(sample) for step in self._recent for sample in step.ids_N}
