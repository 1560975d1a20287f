"""Says what a rank waits for when that takes long: a disk, a store or another rank that does not answer."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pipeline.batch import CropBatch, Exchange, no_exchange

T = TypeVar("T")
LONG_S = 30.0
_LOOK_S = 0.5


class Waiting:
    """What is being waited for, and since when. A line to stderr after ``long_s``, and whenever that has doubled."""

    def __init__(self, who: str, long_s: float = LONG_S) -> None:
        """``who`` waits, as in ``rank 1``; begins to look."""
        self._who, self._long_s = who, long_s
        self._what: tuple[str, float] | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._look, name="alexstream-waiting", daemon=True).start()

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Something is waited for."""
        before, self._what = self._what, (what, time.monotonic())
        try:
            yield
        finally:
            self._what = before

    def each(self, values: Iterable[T], what: str) -> Iterator[T]:
        """The same values, each of which is waited for."""
        iterator = iter(values)
        while True:
            with self.on(what):
                try:
                    value = next(iterator)
                except StopIteration:
                    return
            yield value

    def exchange(self, exchange: Exchange) -> Exchange:
        """The same exchange, whose other part is waited for."""
        if exchange is no_exchange:
            return exchange

        def start(part: CropBatch) -> Callable[[], CropBatch]:
            arrives = exchange(part)

            def whole() -> CropBatch:
                with self.on("another rank's part of a batch"):
                    return arrives()

            return whole

        return start

    def close(self) -> None:
        """Look no more."""
        self._ended.set()

    def _look(self) -> None:
        said, due_s = None, self._long_s
        while not self._ended.wait(_LOOK_S):
            now = self._what
            if now != said:
                said, due_s = now, self._long_s
            if now is None or time.monotonic() - now[1] < due_s:
                continue
            print(f"{self._who} has waited {due_s:g} s for {now[0]}", file=sys.stderr, flush=True)  # noqa: T201
            due_s *= 2
