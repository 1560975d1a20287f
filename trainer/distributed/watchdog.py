"""Watchdog of a rank: log what it is waiting for when that takes long, and end waits for other ranks after a limit.

Its clock does not count time for which the process is paused (SIGSTOP, a frozen container, a suspended machine): the
other ranks may have been paused together with it, and could not have answered.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
FIRST_REPORT_S = 30.0
_POLL_S = 0.5
_MIN_PAUSE_S = 3.0  # a poll that is this late was delayed by a pause, not by other work
_EXIT_GRACE_S = 4.0  # time for a loop that checks ``is_over`` to end by itself, before ``give_up`` ends the process


@dataclass(slots=True)
class Wait:
    """A wait for ``what`` since ``since_s`` on the watchdog's clock, ``limit_s`` seconds at most (None: no limit)."""

    what: str
    since_s: float
    limit_s: float | None
    is_over: bool = False  # the limit is reached; set by the watchdog's thread


class StallWatchdog:
    """Logs what this rank is blocked on: a line to stderr after ``long_s`` seconds, and each time that has doubled."""

    def __init__(self, who: str, long_s: float = FIRST_REPORT_S, give_up: Callable[[str], None] | None = None) -> None:
        """Start the watchdog's thread; ``who`` is the name of the waiting rank in messages (``rank 1``).

        ``give_up`` is called in that thread, with what was waited for and for how long, if a wait has reached its
        limit and does not end, because it blocks in a library that does not return to Python. It must end the process.
        """
        self._who, self._long_s, self._give_up = who, long_s, give_up
        self._wait: Wait | None = None
        self._paused_s = 0.0
        self._ended = threading.Event()
        threading.Thread(target=self._poll, name="alexstream-waiting", daemon=True).start()

    @contextmanager
    def watch(self, what: str, limit_s: float | None = None) -> Iterator[Wait]:
        """Watch the code inside this context as a wait for ``what``; the wait's ``what`` may be updated meanwhile."""
        before, self._wait = self._wait, Wait(what, self._now_s(), limit_s)
        try:
            yield self._wait
        finally:
            self._wait = before

    def each(self, values: Iterable[T], what: str) -> Iterator[T]:
        """Yield the same values, and watch the time until each arrives."""
        iterator = iter(values)
        while True:
            with self.watch(what):
                try:
                    value = next(iterator)
                except StopIteration:
                    return
            yield value

    def close(self) -> None:
        """Stop the watchdog."""
        self._ended.set()

    def _now_s(self) -> float:
        """Return the seconds of a monotonic clock that does not count pauses of this process."""
        return time.monotonic() - self._paused_s

    def _poll(self) -> None:
        said, due_s, looked_s = None, self._long_s, time.monotonic()
        while not self._ended.wait(_POLL_S):
            late_s = time.monotonic() - looked_s - _POLL_S
            looked_s = time.monotonic()
            if late_s > _MIN_PAUSE_S:
                self._paused_s += late_s
            wait = self._wait
            if wait is not said:
                said, due_s = wait, self._long_s
            if wait is None:
                continue
            waited_s = self._now_s() - wait.since_s
            if waited_s >= due_s:
                self._print_line(f"{self._who} has waited {due_s:g} s for {wait.what}")
                due_s *= 2
            self._enforce_limit(wait, waited_s)

    def _enforce_limit(self, wait: Wait, waited_s: float) -> None:
        if wait.limit_s is None or waited_s < wait.limit_s:
            return
        wait.is_over = True
        if self._give_up is not None and waited_s >= wait.limit_s + _EXIT_GRACE_S:
            self._give_up(f"{wait.what} for {wait.limit_s:g} s")

    @staticmethod
    def _print_line(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201
