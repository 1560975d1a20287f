"""Standard streams that are full, closed or read by nobody; names that are no text; Python without docstrings."""

import json
import os
import subprocess
import sys

import pytest

from tests.support import ROOT, forked_commands

FULL = "/dev/full"
pytestmark = pytest.mark.skipif(not os.path.exists(FULL), reason="no /dev/full here")
TRAIN = ["train", "--epochs", "1", "--width", "0.125", "--batch-size", "32", "--quiet", "--device", "cpu"]


def command(*words, **streams):
    """Run a command as a fork; what it says is captured where ``streams`` names no descriptor."""
    return forked_commands.run(words, forked_ranks=True, **streams)


def command_anew(*words, **variables):
    """Run a command in a new Python, whose start reads these variables; capture what it says."""
    words = [sys.executable, str(ROOT / "cli.py"), *map(os.fspath, words)]
    return subprocess.run(words, text=True, timeout=300, env={**os.environ, **variables}, capture_output=True)


def checkpoints(folder):
    return [path.name for path in folder.glob("checkpoint-*.pt")]


def test_a_full_disk_under_the_log_costs_no_checkpoint(sample_shards, tmp_path):
    run = tmp_path / "run"
    with open(FULL, "w") as full:
        done = command(*TRAIN, "--devices", "2", "--data", sample_shards, "--run", run, stdout=full.fileno())
    assert done.returncode == 0, done.stderr
    assert done.stderr == "note: standard output cannot be written (No space left on device); going on without it\n"
    assert len(checkpoints(run)) == 1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sum("validation" in line for line in lines) == 1


def gone():
    """A pipe that nobody reads."""
    reads, writes = os.pipe()
    os.close(reads)
    return writes


def test_a_reader_that_went_away_costs_nothing(sample_shards, tmp_path):
    run, pipe = tmp_path / "run", gone()
    done = command(*TRAIN, "--devices", "1", "--data", sample_shards, "--run", run, stdout=pipe, stderr=pipe)
    os.close(pipe)
    assert done.returncode == 0 and checkpoints(run)


def test_shard_goes_on_when_nobody_reads_what_it_says(sample_images, tmp_path):
    pipe = gone()
    done = command("shard", "--src", sample_images, "--out", tmp_path / "out", stdout=pipe, stderr=pipe)
    os.close(pipe)
    assert done.returncode == 0
    assert sorted(path.parent.name for path in tmp_path.glob("out/*/manifest.json")) == ["train", "val"]


def test_closed_descriptors_are_no_files_of_the_run(sample_shards, tmp_path):
    run = tmp_path / "run"
    words = [*TRAIN, "--devices", "2", "--data", str(sample_shards), "--run", str(run)]
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, str(ROOT / "cli.py"), *words]
    assert subprocess.run(shell, timeout=300).returncode == 0
    assert checkpoints(run)


@pytest.mark.parametrize("words", [["info"], ["info", "--json"], ["verify"], ["stats"]])
def test_what_only_prints_says_that_it_could_not(sample_shards, words):
    with open(FULL, "w") as full:
        done = command(*words, sample_shards / "val", stdout=full.fileno())
    said = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert len(said) == 1 and said[0].startswith("Error: standard output: No space left on device")


@pytest.mark.parametrize("words", [["info"], ["verify", "--fast"]])
def test_what_only_prints_ends_in_silence_when_nobody_reads_it(sample_shards, words):
    pipe = gone()
    done = command(*words, sample_shards / "val", stdout=pipe)
    os.close(pipe)
    assert "Error" not in done.stderr and "Traceback" not in done.stderr and "ignored" not in done.stderr


def test_an_error_is_one_although_nobody_can_hear_it(tmp_path):
    with open(FULL, "w") as full:
        assert command("info", tmp_path / "nothing", stderr=full.fileno()).returncode == 1


def test_python_without_a_buffer_is_no_other(sample_shards):
    done = command_anew("info", sample_shards / "val", PYTHONUNBUFFERED="1")
    assert done.returncode == 0 and "samples" in done.stdout


def test_a_run_may_have_a_name_that_is_no_text(sample_shards, tmp_path):
    run = os.fsencode(tmp_path) + b"/caf\xe9-run"
    words = [*TRAIN, "--devices", "1", "--data", sample_shards, "--run", os.fsdecode(run)]
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert any(name.startswith(b"checkpoint-") for name in os.listdir(run))
    config = os.fsdecode(run + b"/config.toml")
    again = command("train", "--config", config, "--resume")
    assert again.returncode == 0 and "nothing to do: epoch 1 of 1 is finished" in again.stdout, again.stderr


def test_python_without_docstrings_works_or_says_in_a_line_what_does_not(sample_shards, tmp_path):
    words = [*TRAIN, "--devices", "1", "--data", sample_shards, "--run", tmp_path / "run"]
    done = command_anew(*words, PYTHONOPTIMIZE="2")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "PYTHONOPTIMIZE" in done.stderr
    assert not (tmp_path / "run").exists()
    assert command_anew("verify", "--fast", sample_shards / "val", PYTHONOPTIMIZE="2").returncode == 0
