"""Run independent jobs in worker processes and tell how far they are.

Progress is one number a job, which only the worker that has the job writes, in shared memory without a lock: a lock
would stay closed for ever if a worker were killed while it holds it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any, TypeVar

from sharding.errors import AlexstreamError

Job = TypeVar("Job")
Result = TypeVar("Result")
Work = Callable[[Job, Callable[[int], None]], Result]

WAITING_JOBS = 2  # for each worker, ready beside those that run, so that none waits for its next

_done: Any = None  # in a worker: the shared counts of finished items, one a job ...
_stop: Any = None  # ... and the shared flag that ends a job before its time


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
    context = multiprocessing.get_context("spawn")
    done, stop = context.RawArray("q", len(jobs)), context.RawValue("b", 0)
    shared = (done, stop, os.getpid())
    futures: deque[Future[Result]] = deque()
    seen = submitted = 0
    with ProcessPoolExecutor(num_workers, context, initializer=_attach, initargs=shared) as pool:
        try:
            for _ in range(len(jobs)):
                while submitted < len(jobs) and len(futures) <= num_workers * WAITING_JOBS:
                    job = jobs[submitted]
                    with _interrupts_held_back():  # Ctrl-C is the parent's to handle; workers inherit the mask for good
                        futures.append(pool.submit(_call, work, job, submitted))
                    submitted += 1
                while not futures[0].done():
                    wait([futures[0]], timeout=0.2, return_when=FIRST_COMPLETED)
                    seen = _report(done, seen, tick)
                yield futures.popleft().result()
            _report(done, seen, tick)
        except BrokenProcessPool as error:
            raise AlexstreamError(
                f"a worker process died (out of memory, or killed); what is finished stays; "
                f"run the same command again, with fewer --workers than {num_workers} if memory was short"
            ) from error
        finally:
            stop.value = 1
            pool.shutdown(wait=True, cancel_futures=True)


def _report(done: Any, seen: int, tick: Callable[[int], None]) -> int:
    now = int(sum(done))
    tick(now - seen)
    return now


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _StoppedError(Exception):
    """The parent needs no more results."""


def _attach(done: Any, stop: Any, parent: int) -> None:
    global _done, _stop
    without_pandas()
    _done, _stop = done, stop
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()


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


def _call(work: Work[Job, Result], job: Job, index: int) -> Result:
    def advance(count: int) -> None:
        _done[index] += count
        if _stop.value:
            raise _StoppedError

    return work(job, advance)
