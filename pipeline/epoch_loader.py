"""Iterate over the stream epoch by epoch, with a length and a state, as a PyTorch training loop expects.

::

    for epoch in range(90):
        for images, labels in data.loader():      # or data.loader(BatchSlice(index=rank, count=world_size))
            ...

``data`` remembers how far its loaders came, so that each goes on where the last one stopped.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import get_worker_info

from alexstream.core.text import quote_value
from alexstream.pipeline.batch import Batch
from alexstream.pipeline.errors import StreamError

_MAX_WORKERS = 255


class LoaderPosition:
    """Count the batches that the loaders of one stream have given, also those in forked workers of a DataLoader.

    Each worker counts for itself, in memory that it shares with the process it was forked from: the workers of the next
    epoch are forked anew from there.
    """

    def __init__(self, steps: int = 0) -> None:
        self._steps = np.frombuffer(mmap.mmap(-1, 8 * (1 + _MAX_WORKERS)), np.int64)
        self._steps[0] = steps

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the number of batches alone."""
        return LoaderPosition, (int(self._steps[0]),)

    def read(self, worker: int | None = None) -> int:
        """Return the step at which the next loader begins; in a worker, at which its next epoch does."""
        return int(self._steps[0] if worker is None else max(self._steps[0], self._steps[1 + worker]))

    def write(self, step: int, worker: int | None = None) -> None:
        """Record the step at which the next loader, or the worker's next epoch, begins."""
        self._steps[0 if worker is None else 1 + worker] = step


class EpochLoader:
    """Yield pairs of images (N, C, H, W) float32 and labels (N,) int64, one epoch per iteration.

    An epoch is ``len(loader)`` full batches; samples left over begin the next epoch, so none is lost. A loop that stops
    in the middle of an epoch continues there when it iterates again, as after ``load_state_dict``.

    Within the workers of a PyTorch DataLoader (an ``IterableDataset`` of yours that iterates over a loader) each worker
    yields its share of the batches, in such turns that the DataLoader gives all of them in order.
    """

    def __init__(
        self,
        stream: Callable[[int, int], Iterator[Batch]],
        steps_per_epoch: int,
        identity: dict[str, Any],
        position: LoaderPosition,
    ) -> None:
        """Take the parts of a loader.

        ``stream`` yields every n-th batch from a step on, called as ``stream(step, n)``; ``identity`` is what a state
        must agree with; ``position`` is where to begin, and is kept up to date.
        """
        self._stream, self._steps, self._identity, self._position = stream, steps_per_epoch, identity, position
        self._step = position.read()
        self._running: Iterator[Batch] | None = None
        self._pid = os.getpid()

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return self._steps

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the rest of the current epoch: all of it, unless a loop stopped or a state was loaded in the middle.

        Raises StreamError in a process that was forked while the loader was in use.
        """
        worker = get_worker_info()
        if worker is not None:
            yield from self._iter_share(worker.id, worker.num_workers)
            return
        if self._running is not None and self._pid != os.getpid():
            raise StreamError(
                "this loader was in use when the process was forked, and its threads are not in this one; make the "
                "loader in the process that iterates over it"
            )
        for _ in range(self._steps - self._step % self._steps):
            if self._running is None:
                self._running, self._pid = self._stream(self._step, 1), os.getpid()
            batch = next(self._running)
            self._move_to(self._step + 1)
            yield batch.images_NCHW, batch.labels_N

    def __getitem__(self, index: object) -> NoReturn:
        """Raise StreamError: batches come in their order. A DataLoader that is given this loader asks for one."""
        raise StreamError(
            "this is the loader itself: iterate over it, and leave DataLoader out; batch_size, num_threads, seed and "
            "prefetch are options of ShardedData"
        )

    @property
    def epoch(self) -> int:
        """The number of complete epochs."""
        return self._step // self._steps

    def state_dict(self) -> dict[str, Any]:
        """Return the state: the number of batches taken, and the data and options that they depend on."""
        return {"step": self._step, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, on any number of replicas.

        Raises StreamError if it was taken from other data or with other options.

        Args:
            state: What ``state_dict`` gave, of a loader with the same data and options.
        """
        for name, mine in self._identity.items():
            if state.get(name) != mine:
                raise StreamError(
                    f"the loader's state was taken with {name} = {quote_value(state.get(name))}, but this loader has "
                    f"{quote_value(mine)}; use the same data and options, or start from the beginning"
                )
        self._running = None
        self._move_to(int(state["step"]))

    def _move_to(self, step: int) -> None:
        self._step = step
        self._position.write(step)

    def _iter_share(self, worker: int, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield every ``count``-th batch of the epoch, from number ``worker`` on."""
        if count > _MAX_WORKERS:
            raise StreamError(f"DataLoader has {count} workers, expected at most {_MAX_WORKERS}; give a smaller number")
        begin = self._position.read(worker)
        end = (begin // self._steps + 1) * self._steps
        if begin + worker < end:
            batches = self._stream(begin + worker, count)
            for _ in range(begin + worker, end, count):
                batch = next(batches)
                yield batch.images_NCHW, batch.labels_N
        self._position.write(end, worker)
