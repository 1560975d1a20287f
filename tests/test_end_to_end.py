"""shard → stats → train → evaluate as a user calls them, in processes of their own: two gloo ranks, one device, resume.

The first training is started as a user does; what comes after it is forked (tests/support/forked_commands.py).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from alexstream.trainer import checkpoint as checkpoints
from tests.support import ROOT, forked_commands
from tests.support.processes import children

SMALL = ("--width", "0.125")  # what is tried here is not the arithmetic


def alexstream(*words):
    done = forked_commands.run(words, forked_ranks=True)
    assert done.returncode == 0, done.stderr
    return done


def training(shards, run, *words):
    return ("train", "--data", shards, "--run", run, "--batch-size", 32, "--log-every", 1, *SMALL, *words)


def train(shards, run, *words):
    return alexstream(*training(shards, run, *words))


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run):
    return [row["loss"] for row in metrics(run) if "loss" in row]


@pytest.fixture(scope="module")
def two_ranks(sample_shards, tmp_path_factory):
    """Two epochs (67 images in batches of 32: 5 steps) on two ranks."""
    run = tmp_path_factory.mktemp("runs") / "two"
    words = [sys.executable, ROOT / "cli.py", *training(sample_shards, run, "--epochs", 2)]
    return run, subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True, timeout=300)


def test_a_step_line_has_loss_speed_and_data_wait(two_ranks):
    lines = [line for line in two_ranks[1].stderr.splitlines() if line.startswith("epoch")]
    assert len(lines) == 5
    assert all(all(word in line for word in ("loss", "top-1", "images/s", "data-wait", "ETA")) for line in lines)
    assert "fp32; recipe paper, width 0.125; " in two_ranks[1].stderr  # what of it was changed


def test_validation_is_printed_to_stdout(two_ranks):
    lines = two_ranks[1].stdout.splitlines()
    assert len(lines) == 2 and all("top-1" in line and "top-5" in line for line in lines)


def test_a_run_that_is_resumed_has_the_numbers_of_the_undisturbed_one(two_ranks, sample_shards, tmp_path):
    train(sample_shards, tmp_path / "run", "--epochs", 1)
    train(sample_shards, tmp_path / "run", "--epochs", 2, "--resume")
    assert losses(tmp_path / "run") == losses(two_ranks[0])
    whole, resumed = (checkpoints.load_checkpoint(run) for run in (two_ranks[0], tmp_path / "run"))
    for name in whole.parameters:
        assert torch.equal(whole.parameters[name], resumed.parameters[name]), name
        assert torch.equal(whole.velocity[name], resumed.velocity[name]), name


def test_one_device_has_the_losses_of_two_ranks_and_continues_their_checkpoint(two_ranks, sample_shards, tmp_path):
    train(sample_shards, tmp_path / "run", "--epochs", 1, "--devices", 1)
    assert losses(tmp_path / "run") == pytest.approx(losses(two_ranks[0])[:3], rel=1e-4)
    train(sample_shards, tmp_path / "run", "--epochs", 2, "--devices", 2, "--resume")
    assert losses(tmp_path / "run") == pytest.approx(losses(two_ranks[0]), rel=1e-3)


def test_evaluation_of_the_checkpoint_gives_the_validation_of_the_run(two_ranks, sample_shards):
    run, _ = two_ranks
    result = alexstream("evaluate", "--data", sample_shards, "--checkpoint", run, "--json")
    score, last = json.loads(result.stdout), [r for r in metrics(run) if "validation" in r][-1]["validation"]
    assert score["num_images"] == last["num_images"] == 16
    assert score["loss"] == pytest.approx(last["loss"], rel=1e-4)
    assert score["top1"] == last["top1"]


def runs(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_ranks_end_with_their_launcher_even_where_interrupts_are_ignored(sample_shards, tmp_path, sent):
    """As under nohup, where SIGINT, torch's own way to end ranks, has no effect."""
    command = ["nohup", sys.executable, str(ROOT / "cli.py"), "train", "--data", str(sample_shards)]
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command, *SMALL, "--run", str(tmp_path / "run")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    ranks = children(process.pid)
    assert len(ranks) >= 2
    process.send_signal(sent)
    assert process.wait(30) == (-signal.SIGKILL if sent == signal.SIGKILL else 143)
    while any(map(runs, ranks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(runs, ranks))


def run_processes(count, *words):
    """Run so many processes as torchrun does, which tells each its rank; exit codes, and what the first said.

    tests/faults/test_training_kills.py has torchrun itself, at length.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in range(count):
        told = shared | {"RANK": rank, "LOCAL_RANK": rank}
        environment = os.environ | {name: str(value) for name, value in told.items()}
        streams = {} if rank == 0 else {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(forked_commands.Forked(words, environment, **streams))
    _, said = started[0].communicate(300)
    return [process.wait(300) for process in started], said


def test_two_replicas_of_two_columns_have_the_losses_of_one_and_their_checkpoint_goes_on(
    two_ranks, sample_shards, tmp_path
):
    """Four processes as under torchrun; then 2 x 1; then evaluation on one device."""
    run = tmp_path / "run"
    options = ("--run", run, "--batch-size", 32, "--log-every", 1, *SMALL)
    codes, said = run_processes(4, "train", "--data", sample_shards, "--epochs", 1, *options)
    assert codes == [0, 0, 0, 0] and "2 replicas (2 ranks, one column each)" in said, said
    assert losses(run) == pytest.approx(losses(two_ranks[0])[:3], rel=1e-4)
    first, second = (next(r["validation"] for r in metrics(f) if "validation" in r) for f in (run, two_ranks[0]))
    assert first == pytest.approx(second, rel=1e-3)
    train(sample_shards, run, "--epochs", 2, "--resume")
    assert losses(run) == pytest.approx(losses(two_ranks[0]), rel=1e-3)
    result = alexstream("evaluate", "--data", sample_shards, "--checkpoint", run, "--json")
    assert json.loads(result.stdout)["num_images"] == 16


def test_processes_that_make_up_no_whole_replica_are_refused(sample_shards, tmp_path):
    codes, said = run_processes(3, "train", "--data", sample_shards, "--run", tmp_path / "run")
    assert codes == [1, 1, 1]
    assert "--devices 2 under torchrun with 3 processes" in said
    assert not (tmp_path / "run").exists()
