"""What is said of a machine: of this one, and of others that are put in its place."""

import errno
import json
import os

import pytest
import torch

from alexstream.pipeline import doctor
from alexstream.pipeline.decode import fused
from tests.support import forked_commands


def found_of(name, folder):
    """The one check of that name."""
    [check] = [check for check in doctor.run_checks(folder) if check.name.startswith(name)]
    return check


@pytest.fixture(autouse=True)
def little_is_written(monkeypatch):
    monkeypatch.setattr(doctor, "DISK_MIB", 2)


def test_the_command_says_what_is_here(tmp_path):
    words = ("doctor", "--data", tmp_path)
    told = forked_commands.run(words).stdout
    assert torch.__version__ in told and "what will be used" in told and str(tmp_path) in told
    checks = json.loads(forked_commands.run((*words, "--json")).stdout)["checks"]
    assert {"Python", "torch", "DALI", "cores", "memory", "open files"} <= {check["name"] for check in checks}
    assert all(set(check) == {"name", "found", "state", "advice"} for check in checks)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_bad_and_the_exit_code_says_so(tmp_path):
    done = forked_commands.run(("doctor", "--data", tmp_path / "nowhere"))
    assert done.returncode == 1 and "✗" in done.stdout and "will not work: disk" in done.stderr


def test_a_disk_that_is_only_read_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(folder):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(doctor, "measure_disk", refuse)
    check = found_of("disk", tmp_path)
    assert check.state == "note" and "Read-only file system" in check.found
    assert found_of("disk", tmp_path / "nowhere").state == "bad"


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "bad"), ((3, 11), "good"), ((3, 13), "good"), ((3, 14), "bad")]
)
def test_only_pythons_that_were_tried_are_good(monkeypatch, version, state):
    monkeypatch.setattr(doctor.sys, "version_info", (*version, 0, "final", 0))
    assert doctor._check_python().state == state


def test_a_container_is_told_by_its_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "count_cores", lambda: 3)
    monkeypatch.setattr(doctor, "memory_limit_bytes", lambda: 3 << 29)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert found_of("cores", tmp_path).found == f"3 for this process, of {os.cpu_count()}; OMP_NUM_THREADS is 2"
    memory = found_of("memory", tmp_path)
    assert memory.found.startswith("1.5 GiB for this process (limit of its control group), of ")
    assert memory.state == "note" and "--workers 1" in memory.advice


def test_compiled_code_that_is_not_kept_gets_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "IS_PERSISTENT", False)
    check = found_of("compiled code", tmp_path)
    assert check.state == "note" and "NUMBA_CACHE_DIR" in check.advice


def test_a_slow_disk_gets_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "measure_disk", lambda folder: (900.0, 40.0))
    check = found_of("disk", tmp_path)
    assert check.state == "note" and "--order grouped" in check.advice


def test_a_disk_that_is_measured_was_written_and_read(tmp_path):
    written, read = doctor.measure_disk(tmp_path, mib=8)
    assert 0 < written < 1e6 and 0 < read < 1e6


def test_without_dali_nothing_will_work(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_find_version", lambda package: "")
    check = found_of("DALI", tmp_path)
    assert check.state == "bad" and "pip install nvidia-dali" in check.advice


def test_dali_for_another_cuda_than_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(doctor, "_find_version", lambda package: "2.4" if package == "nvidia-dali-cuda130" else "")
    check = found_of("DALI", tmp_path)
    assert check.state == "note" and "nvidia-dali-cuda120" in check.advice


def test_without_the_compiled_operator(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "find_operator", lambda: fused.Operator(absence=fused.NOT_BUILT))
    check = found_of("compiled operator", tmp_path)
    assert check.state == "note" and "libjpeg" in check.advice


@pytest.mark.parametrize(
    ("count", "words"), [(0, "uses the CPU: 2 ranks"), (1, "--devices 1 uses the GPU"), (2, "uses 2 GPUs")]
)
def test_what_will_be_used(count, words, monkeypatch):
    monkeypatch.setattr(doctor, "_count_gpus", lambda: count)
    assert words in doctor._check_devices().found
