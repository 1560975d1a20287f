"""Checkpoints and metrics while they are written: kills, full and failing disks at every call."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from alexstream.pipeline.batch import StageTimes
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.errors import TrainError
from alexstream.trainer.metrics import METRICS_FILE, Metrics, Recorder, StepResult
from alexstream.trainer.recipe import Phase
from alexstream.trainer.run_setup import clear_leftovers
from tests.faults import save_in_child, syscall_faults, training
from tests.support import ROOT

FAULTS = {"SIGKILL": "signal 9", "a full disk": "errno 28", "a failing disk": "errno 5", "half a write": "short"}


@pytest.fixture(scope="module")
def save():
    """``save(folder, step, environment)``: the exit code of a process that does it."""
    environment = {**os.environ, "LD_PRELOAD": str(syscall_faults.build_library()), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.faults.save_in_child"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1, "cwd": ROOT}
    with subprocess.Popen(command, env=environment, **pipes) as process:

        def do(folder, step, environment):
            told = {"folder": str(folder), "step": step, "environment": environment}
            process.stdin.write(json.dumps(told) + "\n")
            return int(process.stdout.readline())

        yield do
        process.stdin.close()


def saved_until(folder, step):
    folder.mkdir(parents=True)
    for number in range(1, step + 1):
        checkpoints.save_checkpoint(folder, save_in_child.state(number))
    return folder


def calls_of_a_save(save, tmp_path):
    """What the third save of a folder calls that changes it, which makes the first one go."""
    folder = saved_until(tmp_path / "counted" / "run", 2)
    counted = syscall_faults.SyscallFault(tmp_path / "notes", folder)
    assert save(folder, 3, counted.environment) == 0
    names = [call.name for call in counted.calls()]
    assert names.count("rename") == 2 and names.count("unlink") == 3 and names.count("fsync") == 4
    return len(names)


def test_a_file_system_whose_folders_know_no_fsync_takes_checkpoints(save, tmp_path):
    folder = saved_until(tmp_path / "run", 2)
    fault = syscall_faults.SyscallFault(tmp_path / "notes", folder, "errno 22", 1, 10**6, "fsync", folders=True)
    assert save(folder, 3, fault.environment) == 0
    assert len(fault.calls()) == 2 and checkpoints.find_latest(folder).name == "checkpoint-00000003.pt"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.promise(
    "a save that fails loses nothing: the checkpoint before it loads, and the next save goes well",
    fault="{fault} at each call of a save",
    short=4,
    long=30,
)
def test_a_save_that_fails_at_any_call_loses_nothing(trials, save, tmp_path, fault):
    """More trials than there are calls try all of them."""
    count = calls_of_a_save(save, tmp_path)
    for number, chance in enumerate(trials):
        at = 1 + number if trials.count >= count else chance.randint(1, count)
        folder = saved_until(tmp_path / str(number) / "run", 2)
        code = save(
            folder, 3, syscall_faults.SyscallFault(tmp_path / "notes", folder, do=FAULTS[fault], at=at).environment
        )
        if at > count or fault == "half a write":
            assert code == 0
        elif fault == "SIGKILL":
            assert code == -signal.SIGKILL
        else:
            said = (folder.parent / "error").read_text()
            assert code == 1 and "cannot write" in said and "\n" not in said and "--resume" in said
            assert not list(folder.glob("*.tmp"))
        found = checkpoints.restore_checkpoint(folder)
        assert (
            not found.skipped
            and save_in_child.same(found.state, save_in_child.state(found.state.step))
            and found.state.step >= 2
        )
        assert save_in_child.same(checkpoints.load_checkpoint(folder), found.state)  # what ``latest`` names
        clear_leftovers(folder)
        assert save(folder, 3, {}) == 0 and save_in_child.same(
            checkpoints.load_checkpoint(folder), save_in_child.state(3)
        )
        kept = sorted(path.name for path in folder.iterdir())
        assert kept == ["checkpoint-00000002.pt", "checkpoint-00000003.pt", "latest"]


@contextmanager
def small_disk(folder, size):
    """A file system of its own, so that it is the kernel who says no."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here (needs the right to mount)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.promise(
    "a full disk ends a training with one line, and after --resume it is as if it had not been full",
    fault="a disk with room for {checkpoints} checkpoints",
    short=1,
    long=4,
)
@pytest.mark.parametrize("checkpoints", [2])
def test_a_full_disk_ends_a_run_with_one_line_and_it_goes_on_later(
    trials, sample_shards, short_run, tmp_path, checkpoints
):
    for number, _ in enumerate(trials):
        with small_disk(tmp_path / f"disk-{number}", f"{checkpoints * 8}m") as disk:
            words = training.command(sample_shards, disk / "run")
            error = training.wait_for(training.start(words)).error
            assert "No space left" in error and training.says_how_to_go_on(error, disk / "run")
            assert not list((disk / "run").glob("*.tmp"))
            subprocess.run(["mount", "-o", "remount,size=300m", disk], check=True)
            training.resume(words, disk / "run", short_run)


def step(number):
    """A step that was taken."""
    phase = Phase(start=0, rate=0.01, conv1_rate=0.01, bias_rate=0.01)
    return StepResult(
        step=number, epoch=1, phase=phase, images=4, measured=torch.zeros(2), start_s=0.0, start_cpu_s=0.0,
        wait_s=0.0, stages=StageTimes(),
    )  # fmt: skip


@pytest.mark.promise("metrics keep every whole line", fault="a disk that is full within a line", short=5, long=100)
def test_metrics_on_a_full_disk_keep_whole_lines_and_go_on(trials, tmp_path):
    values = {"loss": 1.0, "accuracy": 0.0, "elapsed_s": 1.0, "busy_s": 1.0}
    with small_disk(tmp_path / "disk", "256k") as disk:
        for number, chance in enumerate(trials):
            folder = disk / str(number)
            folder.mkdir()
            recorder, taken = Recorder(folder, quiet=True), 0
            (disk / "ballast").write_bytes(bytes(chance.randrange(150_000, 200_000)))
            with pytest.raises(TrainError, match=r"No space left on device; make room and start it again"):
                for taken in range(1, 10_000):
                    recorder.step(step(taken), **values)
                    recorder.require_written()
            recorder.close()
            (disk / "ballast").unlink()
            assert list(Metrics.read(folder).steps["step"]) == list(range(1, taken))
            recorder = Recorder(folder, quiet=True, start_step=taken - 1)
            recorder.step(step(taken), **values)
            recorder.close()
            assert list(Metrics.read(folder).steps["step"]) == list(range(1, taken + 1))
            assert (folder / METRICS_FILE).read_text().endswith("\n")
            for path in folder.iterdir():
                path.unlink()


def test_a_line_that_lost_its_end_is_not_joined_with_the_next(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{"step": 2}')
    recorder = Recorder(tmp_path, quiet=True, start_step=2)
    recorder.close()
    assert (tmp_path / METRICS_FILE).read_text() == '{"step": 1}\n'
