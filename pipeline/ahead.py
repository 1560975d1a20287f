"""Batches made ahead of their use, in a thread: draws, reading and hand-over take none of the consumer's time."""

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


def ahead(batches: Generator[B, None, None], depth: int) -> Generator[B, None, None]:
    """The same batches, of which up to ``depth`` wait. Whatever ``batches`` raises is raised in its place.

    ``batches`` runs, and is closed, in a thread of its own, which ends when this generator is closed or given up.
    """
    filling = _Filling(batches, depth)
    filling.start()
    try:
        while (came := filling.waiting.get()) is not None:
            if isinstance(came, _Failed):
                raise came.error
            filling.places.put(None)
            yield came
            del came  # its memory may be used again while the next one is waited for
    finally:
        came = None  # an error must not hold the frame that holds it
        filling.unwanted.set()
        filling.join()


@dataclass(frozen=True, slots=True)
class _Failed:
    """Why no more come."""

    error: BaseException


class _Filling(threading.Thread, Generic[B]):
    """Puts batches into a queue, and at last None, or what went wrong.

    Two queues without a lock in Python: who takes a batch holds the interpreter until it is handed over, where one
    bounded queue would let this thread in between, for the millisecond that it takes to start the next batch.
    """

    def __init__(self, batches: Generator[B, None, None], depth: int) -> None:
        super().__init__(name="alexstream-ahead")
        self._batches = batches
        self.waiting: SimpleQueue[B | _Failed | None] = SimpleQueue()
        self.places: SimpleQueue[None] = SimpleQueue()  # one entry for each batch that may wait
        for _ in range(depth):
            self.places.put(None)
        self.unwanted = threading.Event()

    def run(self) -> None:
        try:
            with closing(self._batches):
                for batch in self._batches:
                    if not self._put(batch):
                        return
            self._put(None)
        except BaseException as error:
            # Its frames hold a pipeline, which must end here: not whenever, and in whatever thread, it is forgotten.
            traceback.clear_frames(error.__traceback__)
            self._put(_Failed(error))

    def _put(self, came: B | _Failed | None) -> bool:
        """Whether anybody still wants it; the main thread may have ended without a word."""
        while not self.unwanted.is_set() and threading.main_thread().is_alive():
            try:
                self.places.get(timeout=POLL_S)
            except Empty:
                continue
            self.waiting.put(came)
            return True
        return False
