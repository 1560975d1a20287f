"""The ranks' processes on this machine: started, watched, and ended together, whatever becomes of one of them.

Each has a pipe by which it says why it ends. One that says that it lost the others is no cause: the cause is the one
that died, or that says nothing because it stands still.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from sharding.workers import interrupts_held_back
from trainer.errors import TrainError

GRACE_S = 5.0  # in which ranks that wait for the same one give up too
REMEDY = "so the run was stopped; continue from its last checkpoint with --resume"


@dataclass(slots=True)
class _Process:
    index: int
    process: BaseProcess
    pipe: Connection
    said: str = field(default="", init=False)
    is_lost: bool = field(default=False, init=False)  # it ended only because another does not answer

    def hear(self) -> None:
        """Take what it said, if it said anything."""
        try:
            if self.pipe.poll():
                self.is_lost, self.said = self.pipe.recv()
        except (EOFError, OSError):
            return  # died on the way


def run_ranks(enter: Callable[..., None], args: tuple[Any, ...], count: int, timeout_s: float) -> None:
    """Run ``enter(index, pipe, *args)`` in ``count`` processes and wait for all; if one fails, end the others.

    Raises TrainError: what a rank said, or which one died or stands still.
    """
    ranks: list[_Process] = []
    try:
        with interrupts_held_back():  # until a rank takes them (``take_interrupts``)
            for index in range(count):
                ranks.append(_start(enter, index, args))
        _watch(ranks, timeout_s)
    finally:
        for rank in ranks:
            rank.process.kill()  # SIGTERM would wait for one that is stopped
        for rank in ranks:
            rank.process.join()
            rank.pipe.close()


def _start(enter: Callable[..., None], index: int, args: tuple[Any, ...]) -> _Process:
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=enter, args=(index, theirs, *args), name=f"rank {index}", daemon=True)
    process.start()
    theirs.close()
    return _Process(index, process, pipe)


def take_interrupts() -> None:
    """In a rank: end at Ctrl-C without a word, unless it is ignored here, as under nohup."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _watch(ranks: list[_Process], timeout_s: float) -> None:
    """Wait until all have ended well, or one has not."""
    left = list(ranks)
    while left:
        wait([rank.process.sentinel for rank in left])
        ended, left = _parted(left)
        failed = [rank for rank in ended if rank.process.exitcode]
        if failed:
            if all(rank.is_lost for rank in failed):
                failed += _failed_later(left)
            raise _cause(failed, [rank for rank in ranks if rank.process.exitcode is None], timeout_s)


def _failed_later(left: list[_Process]) -> list[_Process]:
    deadline, failed = time.monotonic() + GRACE_S, []
    while left and time.monotonic() < deadline:
        wait([rank.process.sentinel for rank in left], timeout=deadline - time.monotonic())
        ended, left = _parted(left)
        failed += [rank for rank in ended if rank.process.exitcode]
    return failed


def _parted(ranks: list[_Process]) -> tuple[list[_Process], list[_Process]]:
    """Those that have ended, and heard; the others."""
    ended = [rank for rank in ranks if rank.process.exitcode is not None]
    for rank in ended:
        rank.hear()
    return ended, [rank for rank in ranks if rank not in ended]


def _cause(failed: list[_Process], silent: list[_Process], timeout_s: float) -> TrainError:
    for rank in failed:
        if rank.said and not rank.is_lost:
            return TrainError(rank.said)
    for rank in failed:
        code = rank.process.exitcode
        if not rank.said and code is not None:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return TrainError(f"rank {rank.index} died ({how}), {REMEDY}")
    if silent:
        names = " and ".join(f"rank {rank.index}" for rank in silent)
        return TrainError(f"{names} did not answer for {timeout_s:g} s (--timeout), {REMEDY}")
    return TrainError(failed[0].said)
