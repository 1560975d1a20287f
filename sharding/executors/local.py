"""Run independent jobs in worker processes and report their progress.

Whenever a worker is killed, the others and the parent continue or end: nothing is shared that a dead process could
hold. Each worker has its own pipe, whose end is noticed even in the middle of a message. The queues of
``concurrent.futures`` are shared by all workers: a half-written result, or a worker that dies while the next one is
started, blocks their reader for ever. Progress is one number per job in shared memory, without a lock, since only the
worker that runs the job writes it.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.abc import MetaPathFinder
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Self, TypeVar, cast

from alexstream.core.errors import AlexstreamError
from alexstream.core.limits import count_oom_kills, explain_oom_kill, raise_oom_score
from alexstream.core.processes import block_interrupts, exit_with_parent

Job = TypeVar("Job")
Result = TypeVar("Result")
Work = Callable[[Job, Callable[[int], None]], Result]

PREFETCH_JOBS = 2  # jobs per worker that may be done or running ahead of the job whose result is due


def run_jobs(
    work: Work[Job, Result], jobs: Sequence[Job], num_workers: int, tick: Callable[[int], None]
) -> Iterator[Result]:
    """Yield ``work(job, progress)`` of every job, in the order of ``jobs``; each job is made when it is due.

    ``tick`` is called several times a second with the number of items done since the last call. Raises AlexstreamError
    if a worker process dies, and whatever a job raises.
    """
    if len(jobs) == 1:  # starting a process takes longer than most single jobs
        yield work(jobs[0], tick)
        return
    results: dict[int, Result] = {}  # of jobs that finished early
    seen = submitted = due = 0
    with _WorkerPool(work, len(jobs), num_workers) as team:
        while due < len(jobs):
            while team.idle and submitted < len(jobs) and submitted - due < num_workers * (1 + PREFETCH_JOBS):
                team.submit(submitted, jobs[submitted])
                submitted += 1
            if due in results:
                yield results.pop(due)
                due += 1
            else:
                results.update(team.take(timeout_s=0.2))
                seen = _report_progress(team.done, seen, tick)


class _WorkerPool:
    """Worker processes that wait for jobs; a context manager that ends all of them on exit."""

    def __init__(self, work: Work[Job, Result], num_jobs: int, num_workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.done, self._stop = context.RawArray("q", num_jobs), context.RawValue("b", 0)
        self.idle: list[Connection] = []  # pipes to workers without a job
        self._busy: dict[Connection, int] = {}  # pipes to workers with a job → its index
        self._processes = []
        self._kills = count_oom_kills()
        resource_tracker.ensure_running()  # before blocking SIGINT: its start unblocks it
        with block_interrupts():  # the parent handles Ctrl-C; workers inherit the mask
            for _ in range(num_workers):
                ours, theirs = context.Pipe()
                self.idle.append(ours)
                process = context.Process(target=_run_worker, args=(work, theirs, self.done, self._stop, os.getpid()))
                process.start()
                theirs.close()  # so that our end sees EOF when the worker dies
                self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def submit(self, index: int, job: Any) -> None:
        """Send a job to an idle worker. Raises AlexstreamError if the worker has died."""
        pipe = self.idle.pop()
        self._busy[pipe] = index
        with self._detect_deaths():
            pipe.send((index, job))

    def take(self, timeout_s: float) -> dict[int, Any]:
        """Return index → result of the jobs that end within ``timeout_s``. Raises what a job raised.

        Raises AlexstreamError if a worker has died.
        """
        results = {}
        for pipe in cast("list[Connection]", wait(self._busy, timeout_s)):
            with self._detect_deaths():
                result, error = pipe.recv()
            if error is not None:
                raise error
            results[self._busy.pop(pipe)] = result
            self.idle.append(pipe)
        return results

    @contextmanager
    def _detect_deaths(self) -> Iterator[None]:
        """Translate a pipe that ends, even in the middle of a message, into AlexstreamError."""
        try:
            yield
        except (EOFError, OSError) as error:
            why = explain_oom_kill(self._kills) or "out of memory, or killed"
            raise AlexstreamError(
                f"a worker process died ({why}); what is finished stays; run the same command "
                f"again, with fewer `num_workers` than {len(self._processes)} if memory was short"
            ) from error

    def __exit__(self, *_: object) -> None:
        self._stop.value = 1
        for pipe in [*self.idle, *self._busy]:
            pipe.close()
        for process in self._processes:
            process.join()


def _report_progress(done: Any, seen: int, tick: Callable[[int], None]) -> int:
    now = int(sum(done))
    tick(now - seen)
    return now


class _StoppedError(Exception):
    """The parent needs no more results."""


def _run_worker(work: Work[Job, Result], pipe: Connection, done: Any, stop: Any, parent: int) -> None:
    """Run the jobs that arrive on ``pipe`` in this worker process, until it is closed."""
    raise_oom_score()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent needs no more results
        try:
            exit_with_parent(parent)
            hide_pandas()
        except RuntimeError as error:  # the user's limit on threads is reached
            pipe.recv()
            pipe.send((None, error))
            return
        while True:
            index, job = pipe.recv()
            pipe.send(_run_job(work, job, partial(_report_items, done, stop, index)))


def _run_job(
    work: Work[Job, Result], job: Job, advance: Callable[[int], None]
) -> tuple[Result | None, Exception | None]:
    try:
        return work(job, advance), None
    except Exception as error:
        error.add_note("In the worker:\n" + traceback.format_exc())
        return None, error


def _report_items(done: Any, stop: Any, index: int, count: int) -> None:
    done[index] += count
    if stop.value:
        raise _StoppedError


def hide_pandas() -> None:
    """Prevent pyarrow from importing pandas, which takes a second per process and is not used here.

    pyarrow tries once and remembers. Call it in processes of our own only; a library must not do this to its caller.
    """
    finder = _PandasBlocker()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow

        pyarrow.array([0])
    finally:
        sys.meta_path.remove(finder)


class _PandasBlocker(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("left out", name=name)
