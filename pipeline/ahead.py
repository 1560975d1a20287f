"""Batches made ahead of their use, in a thread: draws, reading and hand-over take none of the consumer's time."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing
from queue import Full, Queue
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
        while True:
            batch, end = filling.waiting.get()
            if end is not None:
                raise end
            assert batch is not None
            yield batch
            del batch  # its memory may be used again while the next one is waited for
    except _Over:
        return
    finally:
        filling.unwanted.set()
        filling.join()


class _Over(Exception):
    """There are no more batches."""


class _Filling(threading.Thread, Generic[B]):
    """Puts batches into a queue, and at last the reason why no more come."""

    def __init__(self, batches: Generator[B, None, None], depth: int) -> None:
        super().__init__(name="alexstream-ahead")
        self._batches = batches
        self.waiting: Queue[tuple[B | None, BaseException | None]] = Queue(depth)
        self.unwanted = threading.Event()

    def run(self) -> None:
        try:
            with closing(self._batches):
                for batch in self._batches:
                    if not self._put(batch, None):
                        return
            self._put(None, _Over())
        except BaseException as error:
            self._put(None, error)

    def _put(self, batch: B | None, end: BaseException | None) -> bool:
        """Whether anybody still wants it; the main thread may have ended without a word."""
        while not self.unwanted.is_set() and threading.main_thread().is_alive():
            try:
                self.waiting.put((batch, end), timeout=POLL_S)
                return True
            except Full:
                continue
        return False
