"""Run independent jobs in worker processes and tell how far they are.

Whatever moment a worker is killed at, the others and the parent go on or end: nothing is shared that a dead process
could keep. Each worker has a pipe of its own, whose end is seen even in the middle of a message (the queues of
``concurrent.futures`` are common to all workers: a half-written result, or a worker that dies while the next one is
started, makes their reader wait for ever). Progress is one number a job, which only the worker that has the job
writes, in shared memory without a lock.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.abc import MetaPathFinder
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Self, TypeVar, cast

from sharding.errors import AlexstreamError

Job = TypeVar("Job")
Result = TypeVar("Result")
Work = Callable[[Job, Callable[[int], None]], Result]

AHEAD = 2  # jobs for each worker that may be done or under way before the one whose result is due


def default_workers() -> int:
    """One worker per core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    work: Work[Job, Result], jobs: Sequence[Job], num_workers: int, tick: Callable[[int], None]
) -> Iterator[Result]:
    """Yield ``work(job, progress)`` of every job, in the order of ``jobs``; a job is made when its turn comes.

    ``tick`` is called several times a second with the number of items done since the last call. Raises
    AlexstreamError if a worker process dies, and whatever a job raises.
    """
    if len(jobs) == 1:  # a process of its own would take longer to start than most single jobs to run
        yield work(jobs[0], tick)
        return
    results: dict[int, Result] = {}  # of jobs that were done before their turn
    seen = submitted = due = 0
    with _Team(work, len(jobs), num_workers) as team:
        while due < len(jobs):
            while team.idle and submitted < len(jobs) and submitted - due < num_workers * (1 + AHEAD):
                team.give(submitted, jobs[submitted])
                submitted += 1
            if due in results:
                yield results.pop(due)
                due += 1
            else:
                results.update(team.take(timeout_s=0.2))
                seen = _report(team.done, seen, tick)


class _Team:
    """Worker processes that wait for jobs. Used with ``with``: at its end all of them have ended."""

    def __init__(self, work: Work[Job, Result], num_jobs: int, num_workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.done, self._stop = context.RawArray("q", num_jobs), context.RawValue("b", 0)
        self.idle: list[Connection] = []  # the pipes to the workers ...
        self._busy: dict[Connection, int] = {}  # ... which have a job, with its index
        self._processes = []
        resource_tracker.ensure_running()  # now: its start lets interrupts through
        with interrupts_held_back():  # Ctrl-C is the parent's to handle; workers inherit the mask for good
            for _ in range(num_workers):
                ours, theirs = context.Pipe()
                self.idle.append(ours)
                process = context.Process(target=_serve, args=(work, theirs, self.done, self._stop, os.getpid()))
                process.start()
                theirs.close()  # so that the pipe ends when the worker does
                self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def give(self, index: int, job: Any) -> None:
        """Send a job to an idle worker. Raises AlexstreamError if it died."""
        pipe = self.idle.pop()
        self._busy[pipe] = index
        with self._deaths_told():
            pipe.send((index, job))

    def take(self, timeout_s: float) -> dict[int, Any]:
        """Index and result of the jobs that end meanwhile. Raises what a job raised, AlexstreamError if one died."""
        results = {}
        for pipe in cast("list[Connection]", wait(self._busy, timeout_s)):
            with self._deaths_told():
                result, error = pipe.recv()
            if error is not None:
                raise error
            results[self._busy.pop(pipe)] = result
            self.idle.append(pipe)
        return results

    @contextmanager
    def _deaths_told(self) -> Iterator[None]:
        """A pipe that ends, be it in the middle of a message, is a worker that died."""
        try:
            yield
        except (EOFError, OSError) as error:
            raise AlexstreamError(
                "a worker process died (out of memory, or killed); what is finished stays; run the same command "
                f"again, with fewer --workers than {len(self._processes)} if memory was short"
            ) from error

    def __exit__(self, *_: object) -> None:
        self._stop.value = 1
        for pipe in [*self.idle, *self._busy]:
            pipe.close()
        for process in self._processes:
            process.join()


def _report(done: Any, seen: int, tick: Callable[[int], None]) -> int:
    now = int(sum(done))
    tick(now - seen)
    return now


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits; processes that are started here begin like that, until they say what becomes of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _StoppedError(Exception):
    """The parent needs no more results."""


def _serve(work: Work[Job, Result], pipe: Connection, done: Any, stop: Any, parent: int) -> None:
    """The worker: do the jobs that come, until no more can come."""
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()
    without_pandas()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent needs no more results
        while True:
            index, job = pipe.recv()
            pipe.send(_answer(work, job, partial(_advance, done, stop, index)))


def _answer(
    work: Work[Job, Result], job: Job, advance: Callable[[int], None]
) -> tuple[Result | None, Exception | None]:
    try:
        return work(job, advance), None
    except Exception as error:
        error.add_note("In the worker:\n" + traceback.format_exc())
        return None, error


def _advance(done: Any, stop: Any, index: int, count: int) -> None:
    done[index] += count
    if stop.value:
        raise _StoppedError


def without_pandas() -> None:
    """Let pyarrow find no pandas: it imports it where it is installed, a second a process, and nothing here uses it.

    pyarrow asks once and remembers. For processes that are our own; a library must not do so to its caller.
    """
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow

        pyarrow.array([0])
    finally:
        sys.meta_path.remove(finder)


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("left out", name=name)


def _die_with_parent(parent: int) -> None:
    """A worker whose parent was killed must not go on writing beside the run that comes next."""
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)
