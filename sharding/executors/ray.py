"""Run independent jobs as Ray tasks, with the contract of ``sharding.executors.local.run_jobs``, on one machine or
many.

With ``RAY_ADDRESS`` set, the jobs go to that cluster; its machines must see the same files and have alexstream
installed. Otherwise a private Ray is started for the jobs and ended after them: no dashboard, no usage reports, its
files in a temporary folder. Its ports are open on all addresses of the machine, to holders of this run's key only.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from alexstream.core.errors import AlexstreamError
from alexstream.sharding.executors.local import Work

Job = TypeVar("Job")
Result = TypeVar("Result")

_POLL_S = 0.2
_OBJECT_STORE_BYTES = 256 * 2**20  # results are small: a shard's bytes are written by its task


def run_jobs_on_ray(
    work: Work[Job, Result], jobs: Iterable[Job], num_workers: int, tick: Callable[[int], None]
) -> Iterator[Result]:
    """Yield ``work(job, progress)`` of every job, in the order of ``jobs``; at most ``num_workers`` run at a time.

    ``tick`` is called several times a second with the number of items done since the last call. Raises
    AlexstreamError if Ray is not installed or a task's process dies, and whatever a job raises.
    """
    ray = _load_ray()
    with _connect(ray, num_workers):
        counter = ray.remote(num_cpus=0)(_ProgressCounter).remote()
        # No retries: what killed a task (lack of memory) would kill its repetition too.
        call = ray.remote(num_cpus=1, max_retries=0)(_run_job)
        waiting = iter(jobs)
        running: list[Any] = []  # in the order of the jobs; some may be done already
        try:
            _start_jobs(ray, running, waiting, lambda job: call.remote(work, job, counter), num_workers)
            while running:
                done, _ = ray.wait(running[:1], timeout=_POLL_S)
                _start_jobs(ray, running, waiting, lambda job: call.remote(work, job, counter), num_workers)
                tick(ray.get(counter.take.remote()))
                if done:
                    yield ray.get(running.pop(0))
            tick(ray.get(counter.take.remote()))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise AlexstreamError(
                f"a Ray task died ({type(error).__name__}: out of memory, or killed); what is finished stays; "
                f"run the same command again, with fewer `num_workers` than {num_workers} if memory was short"
            ) from error
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def _start_jobs(
    ray: Any, running: list[Any], waiting: Iterator[Any], start: Callable[[Any], Any], num_workers: int
) -> None:
    """Start jobs until ``num_workers`` are unfinished."""
    unfinished = len(ray.wait(running, num_returns=len(running), timeout=0)[1]) if running else 0
    for _ in range(num_workers - unfinished):
        try:
            running.append(start(next(waiting)))
        except StopIteration:
            return


def _load_ray() -> Any:
    """Import ray; its environment variables are set first, since it reads them on import."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not {"RAY_ADDRESS", "RAY_AUTH_MODE"} & set(os.environ) and "ray" not in sys.modules:
        # A token of our own keeps other users of the machine from submitting tasks to our private Ray; ray's
        # default would leave one in the home folder for good.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    try:
        import ray
    except ImportError as error:
        raise AlexstreamError("Ray is not installed; pip install alexstream[ray]") from error
    return ray


@contextmanager
def _connect(ray: Any, num_workers: int) -> Iterator[None]:
    """Connect to Ray: the instance already running here, that of ``RAY_ADDRESS``, or a private one."""
    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            if os.environ.get("RAY_ADDRESS"):
                ray.init(**quiet)
            else:
                ray.init(
                    address="local", _temp_dir=folder, include_dashboard=False,
                    num_cpus=num_workers, num_gpus=0, object_store_memory=_OBJECT_STORE_BYTES, **quiet,
                )  # fmt: skip
        except (RuntimeError, OSError, ValueError) as error:
            raise AlexstreamError(f"Ray does not start: {str(error).splitlines()[0]}") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has replaced the caller's handler
        try:
            yield
        finally:
            ray.shutdown()


class _ProgressCounter:
    """Counts finished items of all tasks."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, count: int) -> None:
        self.count += count

    def take(self) -> int:
        count, self.count = self.count, 0
        return count


def _run_job(work: Work[Job, Result], job: Job, counter: Any) -> Result:
    """Run one job in a task; report progress to the counter a few times a second instead of for every item."""
    pending, told = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal pending, told
        pending += count
        if time.monotonic() - told > _POLL_S:
            counter.add.remote(pending)
            pending, told = 0, time.monotonic()

    result = work(job, advance)
    if pending:
        import ray

        ray.get(counter.add.remote(pending))
    return result
