"""Stop a run on Ctrl-C or SIGTERM after the same step on every rank of this machine, so that it can be saved there.

A rank cannot stop where it is: the others would wait for it. So the first signal chooses a step that no rank has begun,
and every rank stops after it. Progress and the chosen step lie in memory that the processes share. A second signal, or
ranks that make no progress for ``STALL_S`` seconds, end the run at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

STALL_S = 20.0  # without progress after the first signal; a step, or a save, of a large network on a CPU takes seconds
STEPS_AHEAD = 2  # ranks exchange activations in every step, so that none is more than one step ahead of another
_NOT_BEGUN = -1
_POLL_S = 0.2
T = TypeVar("T")


class StopRequest:
    """The steps that the ranks of one machine have taken, and the step after which all of them are to stop.

    Can be passed to a process that is being started, as its argument.
    """

    def __init__(self, num_ranks: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop_step = context.RawValue("q", 0)  # 0: there is no request
        self._steps = context.RawArray("q", [_NOT_BEGUN] * num_ranks)
        self._ticks = context.RawArray("q", num_ranks)

    def advance(self, rank: int, step: int) -> bool:
        """Record that a rank has taken ``step`` steps; return whether it is to stop now."""
        self._steps[rank] = step
        self._ticks[rank] += 1
        return 0 < int(self._stop_step.value) <= step

    def count(self, rank: int, values: Iterable[T]) -> Iterator[T]:
        """Yield the same values, each of which counts as progress of a rank."""
        for value in values:
            self._ticks[rank] += 1
            yield value

    def request(self) -> bool:
        """Choose the step after which to stop, unless that was done before.

        Returns False if a rank has not begun to train: then there is nothing to save, and nobody would stop.
        """
        if min(self._steps) == _NOT_BEGUN:
            return False
        if not self._stop_step.value:
            self._stop_step.value = max(self._steps) + STEPS_AHEAD
        return True

    @property
    def is_requested(self) -> bool:
        """True after ``request``, in whichever process."""
        return bool(self._stop_step.value)

    def progress(self) -> int:
        """Return a number that grows with everything that a rank does."""
        return sum(self._ticks)


@contextmanager
def stop_on_interrupt(stop: StopRequest, *, quiet: bool) -> Iterator[None]:
    """While a run goes on, turn the first Ctrl-C or SIGTERM into a request to stop.

    The handlers that are in place are called as well; what they raise (KeyboardInterrupt) is raised at the end, when
    the run has stopped and saved. Does nothing outside the main thread, where no handlers can be set.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # Not those that are ignored, as under nohup, or the system's own.
    before = {number: handler for number, handler in before.items() if callable(handler)}
    interrupts = _Interrupts(stop, before, quiet=quiet)
    for number in before:
        signal.signal(number, interrupts.handle)
    try:
        yield
    finally:
        interrupts.ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupts.caught is not None:
        raise interrupts.caught
    if stop.is_requested:
        raise KeyboardInterrupt  # a rank had the signal, and this process not


class _Interrupts:
    """The handler of a run's signals: ``caught`` is what the first one would have raised."""

    def __init__(self, stop: StopRequest, before: Mapping[signal.Signals, Any], *, quiet: bool) -> None:
        self.caught: KeyboardInterrupt | None = None
        self.ended = threading.Event()
        self._stop, self._before, self._quiet = stop, before, quiet

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Request a stop at the first signal; raise KeyboardInterrupt at the second, or where nobody would stop."""
        try:
            self._before[signal.Signals(number)](number, frame)
        except KeyboardInterrupt as error:
            if self.caught is not None or not self._stop.request():
                raise
            self.caught = error
            if not self._quiet:
                text = "stopping after the step or validation in progress, which is saved; again: stop at once"
                print(text, file=sys.stderr, flush=True)  # noqa: T201
            threading.Thread(target=self._await_progress, args=(number,), name="alexstream-stop", daemon=True).start()

    def _await_progress(self, number: int) -> None:
        """Send this process the signal again once no rank has made progress for ``STALL_S`` seconds."""
        seen, since = self._stop.progress(), time.monotonic()
        while time.monotonic() < since + STALL_S:
            if self.ended.wait(_POLL_S):
                return
            if (now := self._stop.progress()) != seen:
                seen, since = now, time.monotonic()
        os.kill(os.getpid(), number)


def stop_rank_on_interrupt(stop: StopRequest) -> None:
    """In a rank that was started: let Ctrl-C, which the terminal sends to all processes, request the same stop."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return

    def handle(number: int, _: FrameType | None) -> None:
        if not stop.request():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGINT, handle)
