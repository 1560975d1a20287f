"""What is said of a machine: of this one, and of others that are put in its place."""

import json
import subprocess
import sys

import pytest
import torch

from pipeline import doctor, fused
from tests.conftest import ROOT


def found_of(name, folder):
    """The one check of that name."""
    [check] = [check for check in doctor.examine(folder) if check.name.startswith(name)]
    return check


@pytest.fixture(autouse=True)
def little_is_written(monkeypatch):
    monkeypatch.setattr(doctor, "DISK_MIB", 2)


def test_the_command_says_what_is_here(tmp_path):
    words = [sys.executable, str(ROOT / "cli.py"), "doctor", "--data", str(tmp_path)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert torch.__version__ in told and "what will be used" in told and str(tmp_path) in told
    checks = json.loads(subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout)["checks"]
    assert {"Python", "torch", "DALI", "cores", "memory", "open files"} <= {check["name"] for check in checks}
    assert all(set(check) == {"name", "found", "state", "advice"} for check in checks)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_bad_and_the_exit_code_says_so(tmp_path):
    words = [sys.executable, str(ROOT / "cli.py"), "doctor", "--data", str(tmp_path / "nowhere")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "✗" in done.stdout and "will not work: disk" in done.stderr


def test_a_slow_disk_gets_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "disk_speed", lambda folder: (900.0, 40.0))
    check = found_of("disk", tmp_path)
    assert check.state == "note" and "--order grouped" in check.advice


def test_a_disk_that_is_measured_was_written_and_read(tmp_path):
    written, read = doctor.disk_speed(tmp_path, mib=8)
    assert 0 < written < 1e6 and 0 < read < 1e6


def test_without_dali_nothing_will_work(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: "")
    check = found_of("DALI", tmp_path)
    assert check.state == "bad" and "pip install nvidia-dali" in check.advice


def test_dali_for_another_cuda_than_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(doctor, "_version", lambda package: "2.4" if package == "nvidia-dali-cuda130" else "")
    check = found_of("DALI", tmp_path)
    assert check.state == "note" and "nvidia-dali-cuda120" in check.advice


def test_without_the_compiled_operator(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "operator", lambda: None)
    check = found_of("compiled operator", tmp_path)
    assert check.state == "note" and "libjpeg" in check.advice


@pytest.mark.parametrize(
    ("count", "words"), [(0, "uses the CPU: 2 ranks"), (1, "--devices 1 uses the GPU"), (2, "uses 2 GPUs")]
)
def test_what_will_be_used(count, words, monkeypatch):
    monkeypatch.setattr(doctor, "_num_gpus", lambda: count)
    assert words in doctor._used().found
