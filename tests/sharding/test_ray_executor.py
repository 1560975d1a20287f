"""Jobs on a private Ray: the contract of ``run_jobs``, with small real jobs."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from alexstream.core.errors import AlexstreamError, SourceError
from alexstream.sharding.executors.local import run_jobs
from alexstream.sharding.executors.ray import run_jobs_on_ray
from alexstream.sharding.pack import shard_split
from alexstream.sharding.split_plans import ShardRequest
from tests.support import ROOT

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (extra: ray)"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def sigterm():
    """What this process does at SIGTERM before Ray is started."""
    return signal.getsignal(signal.SIGTERM)


@pytest.fixture(scope="module")
def ray(sigterm):
    """One Ray for the tests of this module: it takes seconds to start."""
    from alexstream.sharding.executors import ray as ray_module

    ray = ray_module._load_ray()
    with ray_module._connect(ray, 2):
        yield ray


@dataclass(frozen=True)
class Job:
    number: int
    what: str = "square"


def work(job, progress):
    if job.what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.what == "refuse":
        raise SourceError(f"job {job.number} is refused")
    time.sleep(0.3 if job.number % 2 == 0 else 0)  # later jobs end before earlier ones
    for _ in range(job.number):
        progress(1)
    return job.number**2


def test_results_and_counts_are_those_of_worker_processes_in_the_order_of_the_jobs(ray):
    jobs = [Job(i) for i in range(7)]
    counts = {run_jobs: [], run_jobs_on_ray: []}
    results = [list(run(work, jobs, 2, ticks.append)) for run, ticks in counts.items()]
    assert results[0] == results[1] == [i**2 for i in range(7)]
    assert [sum(ticks) for ticks in counts.values()] == [21, 21]


def test_the_callers_answer_to_sigterm_stays(ray, sigterm):
    assert signal.getsignal(signal.SIGTERM) == sigterm


def test_no_jobs_give_no_results(ray):
    assert list(run_jobs_on_ray(work, [], 2, lambda count: None)) == []


def test_what_a_job_raises_arrives_as_it_was_raised(ray):
    results = run_jobs_on_ray(work, [Job(1), Job(2, "refuse"), Job(3)], 2, lambda count: None)
    assert next(results) == 1
    with pytest.raises(SourceError, match=r"^job 2 is refused$"):
        next(results)


def test_a_task_whose_process_is_killed_ends_the_run_with_one_line(ray):
    with pytest.raises(AlexstreamError, match="a Ray task died"):
        list(run_jobs_on_ray(work, [Job(1), Job(2, "die")], 2, lambda count: None))


def test_shards_made_by_ray_are_those_of_worker_processes(ray, sample_images, sample_shards, tmp_path):
    request = ShardRequest(source=sample_images / "train", folder=tmp_path, executor="ray", num_workers=2)
    shard_split(request, quiet=True)
    made, expected = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        for folder in (tmp_path, sample_shards / "train")
    )
    assert made == expected


SLOW = """
import sys, time
sys.path.insert(0, {root!r})
from alexstream.sharding.executors.ray import run_jobs_on_ray
def work(job, progress):
    time.sleep(600)
def tick(count):
    print("running", flush=True)
try:
    list(run_jobs_on_ray(work, range(4), 2, tick))
except KeyboardInterrupt:
    sys.exit(130)
"""


def processes_with(variable):
    """Process ids of all whose environment holds ``variable``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def test_ctrl_c_ends_a_private_ray_quietly_and_leaves_no_process_and_no_file():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # short: Ray makes sockets below it
        env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"TMPDIR": folder}
        command = [sys.executable, "-c", SLOW.format(root=str(ROOT))]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A test run that was started in the background may ignore Ctrl-C, and would hand that on.
        answer = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        with subprocess.Popen(command, start_new_session=True, env=env, preexec_fn=answer, **pipes) as process:
            assert process.stdout.readline() == "running\n"
            time.sleep(1)
            os.killpg(process.pid, signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        assert (process.returncode, stderr) == (130, "")
        end = time.monotonic() + 15
        while processes_with(f"TMPDIR={folder}") and time.monotonic() < end:
            time.sleep(0.2)
        assert not processes_with(f"TMPDIR={folder}")
        assert not os.listdir(folder)
