"""The soak: one cycle of it, and that it sees what it looks for."""

import json
import subprocess
import sys

import pytest

from tests.faults.cycle import is_free, untold
from tests.faults.disturbed import Broken, Ended, Runner, answers
from tests.support import ROOT


@pytest.mark.soak
def test_a_cycle_under_faults_keeps_every_promise(sample_images, tmp_path):
    words = ["--quick", "--cycles", "1", "--seed", "4", "--images", sample_images, "--work", tmp_path]
    words += ["--json", tmp_path / "json"]
    command = [sys.executable, ROOT / "tests" / "faults" / "soak.py", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "json").read_text())
    assert seen["cycles"] == 1 and not seen["broken"] and sum(seen["faults"].values()) > 0 and seen["stream"]


@pytest.fixture
def runner(tmp_path):
    return Runner(tmp_path, f"test of {tmp_path}")


def test_processes_and_files_that_were_left_are_seen(runner):
    assert not [line for line in runner.left_behind(0) if "/dev/shm" not in line]
    (runner.temporary / "forgotten").touch()
    with subprocess.Popen(["sleep", "600"], env=runner.environment()) as process:
        left = runner.left_behind(0)
        process.kill()
    assert f"process {process.pid}" in left and any(line.endswith("forgotten") for line in left)


def test_an_end_without_its_one_line_is_a_broken_promise():
    Ended("train", 1, "", "Error: why\n").require_one_line()
    for killed in (-9, -15, -2):
        Ended("train", killed, "", "").require_one_line()
    for stderr in ("", "Error: one\nError: two\n", "Traceback (most recent call last):\nError: why\n"):
        with pytest.raises(Broken):
            Ended("train", 1, "", stderr).require_one_line()


def test_a_signal_waits_for_a_command_that_answers(runner):
    code = "import signal, sys; {}print('x', flush=True); sys.stdin.read()"
    for handler, answered in (("", False), ("signal.signal(15, lambda *_: None); ", True)):
        words = [sys.executable, "-c", code.format(handler)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.read(1)
            assert answers(process.pid, 15) is answered
            process.kill()


def test_a_lock_that_is_held_is_seen(tmp_path):
    from alexstream.trainer.distributed.run_lock import RunLock

    with RunLock.acquire(tmp_path):
        assert not is_free(tmp_path)
    assert is_free(tmp_path)


def test_where_and_how_long_is_no_difference():
    assert untold('{"folder": "/a", "n": 1, "x_s": 2}', "/a") == untold('{\n"folder": "/b", "n": 1, "x_s": 3\n}', "/b")
    assert untold('{"n": 1}', "/a") != untold('{"n": 2}', "/a")


def test_a_stream_that_grows_is_seen():
    sys.path[:0] = [str(ROOT / "benchmarks")]
    from tests.faults.soak import growth

    rows = [{"s": 2.0 * i, "mib": 300.0 + i, "files": 5, "threads": 11 + (i > 150)} for i in range(200)]
    assert growth(rows)["mib"] > 100 and growth(rows)["threads"] == 1 and growth(rows)["files"] == 0
    assert growth(rows[:40]) is None
