"""Jobs in worker processes: their order, their errors, and that a killed worker never leaves anybody waiting."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from alexstream.core.errors import AlexstreamError, SourceError
from alexstream.sharding.executors.local import run_jobs
from tests.support import ROOT
from tests.support.processes import children

LARGE = 16 << 20  # bytes of a result: far more than a pipe holds, so that a worker must wait for its reader


@dataclass
class Job:
    name: int
    fate: str = ""
    num_bytes: int = 0


def work(job, progress):
    if job.fate == "refuse":
        raise SourceError(f"job {job.name} refuses")
    if job.fate == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.fate == "wait":
        time.sleep(1)
    progress(2)
    return job.name, b"x" * job.num_bytes


def none_left():
    return [p for p in multiprocessing.active_children() if p.is_alive()] == []


def test_results_come_in_the_order_of_the_jobs_and_all_items_are_counted():
    counts = []
    jobs = [Job(i, "wait" if i == 0 else "", LARGE if i % 3 == 0 else 0) for i in range(9)]
    results = list(run_jobs(work, jobs, 3, counts.append))
    assert [name for name, _ in results] == list(range(9))
    assert [len(data) for _, data in results] == [job.num_bytes for job in jobs]
    assert sum(counts) == 18
    assert none_left()


def test_an_error_keeps_its_class_and_says_where_it_arose():
    with pytest.raises(SourceError, match="job 1 refuses") as caught:
        list(run_jobs(work, [Job(0), Job(1, "refuse"), Job(2, "wait")], 2, lambda count: None))
    assert "in work" in caught.value.__notes__[0]
    assert none_left()


def test_a_worker_that_dies_at_its_job_ends_the_run():
    with pytest.raises(AlexstreamError, match="a worker process died"):
        list(run_jobs(work, [Job(0), Job(1, "die"), Job(2, "wait")], 2, lambda count: None))
    assert none_left()


def test_a_worker_killed_in_the_middle_of_its_result_ends_the_run():
    """The parent must not wait for the rest of a message whose sender is dead."""
    results = run_jobs(work, [Job(i, num_bytes=LARGE) for i in range(9)], 2, lambda count: None)
    assert next(results)[0] == 0  # the last ones are not even given to a worker yet
    time.sleep(1)  # time to fill their pipes, which nobody reads meanwhile
    for worker in children(os.getpid())[-2:]:
        os.kill(worker, signal.SIGKILL)
    with pytest.raises(AlexstreamError, match="a worker process died"):
        list(results)
    assert none_left()


def test_results_nobody_wants_any_more_hold_nobody_up():
    results = run_jobs(work, [Job(i, num_bytes=LARGE) for i in range(6)], 3, lambda count: None)
    next(results)
    results.close()
    assert none_left()


RUN = """
import sys
from alexstream.core.errors import AlexstreamError
from alexstream.sharding.executors.local import run_jobs
from tests.sharding.test_workers import Job, work
if __name__ == "__main__":
    try:
        list(run_jobs(work, [Job(i, num_bytes=1 << 20) for i in range(12)], 3, lambda count: None))
    except AlexstreamError:
        sys.exit(3)
"""


@pytest.mark.parametrize(
    ("nth", "after_s"),
    [
        pytest.param(nth, after_s, marks=() if (nth, after_s) in ((0, 0.01), (1, 0.0), (2, 0.1)) else pytest.mark.soak)
        for nth in (0, 1, 2)
        for after_s in (0.0, 0.01, 0.1)
    ],
)
def test_a_worker_killed_while_the_others_start_ends_the_run(tmp_path, nth, after_s):
    """Also between two starts: whoever is started after the death is noticed must end too."""
    program = tmp_path / "run.py"
    program.write_text(RUN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(program)], env=environment, start_new_session=True)
    while process.poll() is None and len(children(process.pid)) < 2 + nth:  # the first is multiprocessing's tracker
        pass
    time.sleep(after_s)
    os.kill(children(process.pid)[1 + nth], signal.SIGKILL)
    assert process.wait(timeout=60) == 3
