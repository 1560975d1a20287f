"""Processes of the ranks on this machine: start them, wait for them, and end all if one of them fails.

Each rank has a pipe through which it reports why it ends. A rank that only reports that it lost another one is not the
cause of a failure: the cause is the rank that died, or one that does not answer.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from alexstream.core.limits import count_oom_kills, explain_oom_kill
from alexstream.core.processes import block_interrupts
from alexstream.trainer.checkpoint import resume_advice
from alexstream.trainer.errors import TrainError

GIVE_UP_GRACE_S = 5.0  # within this time after the first failure, other ranks that wait for the same one fail too


@dataclass(slots=True)
class _RankProcess:
    index: int
    process: BaseProcess
    pipe: Connection
    message: str = field(default="", init=False)
    is_lost: bool = field(default=False, init=False)  # it ended only because another rank does not answer

    def read_message(self) -> None:
        """Read the message that the rank sent, if it sent one."""
        try:
            if self.pipe.poll():
                self.is_lost, self.message = self.pipe.recv()
        except (EOFError, OSError):
            return  # it died while sending


def run_rank_processes(
    enter: Callable[..., None], args: tuple[Any, ...], count: int, timeout_s: float, folder: Path | None = None
) -> None:
    """Run ``enter(index, pipe, *args)`` in ``count`` processes and wait for all; if one fails, end the others.

    ``folder``: the run folder, named in advice on how to continue. Raises TrainError with the message that a rank
    sent, or else with the rank that died or does not answer.
    """
    ranks: list[_RankProcess] = []
    kills = count_oom_kills()
    try:
        with block_interrupts():  # until a rank is ready for them (``restore_interrupts``)
            for index in range(count):
                ranks.append(_start_rank(enter, index, args))
        _wait_for_ranks(ranks, timeout_s, folder, kills)
    finally:
        for rank in ranks:
            rank.process.kill()  # not SIGTERM, which a stopped process (SIGSTOP) would not handle
        for rank in ranks:
            rank.process.join()
            rank.pipe.close()


def _start_rank(enter: Callable[..., None], index: int, args: tuple[Any, ...]) -> _RankProcess:
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=enter, args=(index, theirs, *args), name=f"rank {index}", daemon=True)
    process.start()
    theirs.close()
    return _RankProcess(index, process, pipe)


def restore_interrupts() -> None:
    """Let Ctrl-C end this rank silently, unless SIGINT is ignored, as under nohup. Called in the rank."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _wait_for_ranks(ranks: list[_RankProcess], timeout_s: float, folder: Path | None, kills_before: int) -> None:
    """Wait until all ranks have ended. Raises TrainError if one fails.

    ``kills_before``: the value of ``count_oom_kills`` before the ranks started.
    """
    left = list(ranks)
    while left:
        wait([rank.process.sentinel for rank in left])
        ended, left = _split_ended(left)
        failed = [rank for rank in ended if rank.process.exitcode]
        if failed:
            if all(rank.is_lost for rank in failed):
                failed += _collect_late_failures(left)
            silent = [rank for rank in ranks if rank.process.exitcode is None]
            raise _find_cause(failed, silent, timeout_s, resume_advice(folder), explain_oom_kill(kills_before))


def _collect_late_failures(left: list[_RankProcess]) -> list[_RankProcess]:
    deadline, failed = time.monotonic() + GIVE_UP_GRACE_S, []
    while left and time.monotonic() < deadline:
        wait([rank.process.sentinel for rank in left], timeout=deadline - time.monotonic())
        ended, left = _split_ended(left)
        failed += [rank for rank in ended if rank.process.exitcode]
    return failed


def _split_ended(ranks: list[_RankProcess]) -> tuple[list[_RankProcess], list[_RankProcess]]:
    """Split ranks into those that have ended, whose messages are read, and the others."""
    ended = [rank for rank in ranks if rank.process.exitcode is not None]
    for rank in ended:
        rank.read_message()
    return ended, [rank for rank in ranks if rank not in ended]


def _find_cause(
    failed: list[_RankProcess], silent: list[_RankProcess], timeout_s: float, remedy: str, short: str = ""
) -> TrainError:
    """Return the error that names the cause; ``short``: how memory was short, if a process was ended for that."""
    for rank in failed:
        if rank.message and not rank.is_lost:
            return TrainError(rank.message)
    for rank in failed:
        code = rank.process.exitcode
        if not rank.message and code is not None:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if short and code == -signal.SIGKILL:
                how, remedy = short, f"give it more, or a smaller `batch_size` or `devices` 1, and {remedy}"
            return TrainError(f"rank {rank.index} died ({how}), so the run was stopped; {remedy}")
    if silent:
        names = " and ".join(f"rank {rank.index}" for rank in silent)
        return TrainError(f"{names} did not answer for {timeout_s:g} s (`timeout_s`), so the run was stopped; {remedy}")
    return TrainError(failed[0].message)
