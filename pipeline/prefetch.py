"""Prefetch batches in a background thread, so that drawing and reading take none of the consumer's time."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

B = TypeVar("B")
POLL_S = 0.1


def prefetch(batches: Generator[B, None, None], depth: int) -> Generator[B, None, None]:
    """Yield the items of ``batches``, of which up to ``depth`` are made before they are asked for.

    ``batches`` runs, and is closed, in a thread of its own, which ends when this generator is closed or collected. What
    ``batches`` raises is raised here, after the batches made before it.
    """
    filling = _Producer(batches, depth)
    filling.start()
    try:
        while (came := filling.ready.get()) is not None:
            if isinstance(came, _ProducerError):
                raise came.error
            filling.free_slots.put(None)
            yield came
            del came  # frees its memory for reuse while we wait for the next one
    finally:
        came = None  # break the reference cycle of an error and the frame that it refers to
        filling.stopped.set()
        # Not join(): the garbage collector may close this generator in a thread that is just being started, which holds
        # the lock that join takes.
        filling.finished.wait()


@dataclass(frozen=True, slots=True)
class _ProducerError:
    """An exception of the producer, passed through the queue."""

    error: BaseException


class _Producer(threading.Thread, Generic[B]):
    """Put each batch into a queue, then None at the end, or ``_ProducerError`` after an exception."""

    # Two SimpleQueues, one of batches and one of free slots, in place of one bounded Queue: its lock is taken in Python
    # code, where the consumer would give the interpreter to this thread, and wait a millisecond while this thread
    # starts the next batch. A SimpleQueue hands over a batch without releasing the interpreter.

    def __init__(self, batches: Generator[B, None, None], depth: int) -> None:
        super().__init__(name="alexstream-prefetch")
        self._batches = batches
        self.ready: SimpleQueue[B | _ProducerError | None] = SimpleQueue()
        self.free_slots: SimpleQueue[None] = SimpleQueue()  # one entry for each free slot
        for _ in range(depth):
            self.free_slots.put(None)
        self.stopped = threading.Event()
        self.finished = threading.Event()

    def run(self) -> None:
        try:
            self._fill()
        finally:
            self.finished.set()

    def _fill(self) -> None:
        try:
            with closing(self._batches):
                for batch in self._batches:
                    if not self._enqueue(batch):
                        return
            self._enqueue(None)
        except BaseException as error:
            # The traceback's frames refer to the DALI pipeline, which must be destroyed here and now, not when and in
            # whichever thread the traceback is collected.
            traceback.clear_frames(error.__traceback__)
            self._enqueue(_ProducerError(error))

    def _enqueue(self, came: B | _ProducerError | None) -> bool:
        """Wait for a free slot and queue ``came``; return False if the consumer has closed or the main thread ended."""
        while not self.stopped.is_set() and threading.main_thread().is_alive():
            try:
                self.free_slots.get(timeout=POLL_S)
            except Empty:
                continue
            self.ready.put(came)
            return True
        return False
