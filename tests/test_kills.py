"""SIGKILL at random moments of a run of two ranks, each followed by --resume: nothing changes.

Three kills of a short run take a minute; ``ALEXSTREAM_KILLS=20`` makes them twenty, in a run of 59 steps.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from tests.conftest import ROOT, children
from trainer import checkpoint as checkpoints

KILLS = int(os.environ.get("ALEXSTREAM_KILLS", "3"))
EPOCHS = 7 if KILLS >= 20 else 3
STEPS = -(-67 * EPOCHS // 8)  # of 67 images in batches of 8


def command(shards, run):
    words = ["train", "--data", shards, "--run", run, "--batch-size", 8, "--epochs", EPOCHS]
    words += ["--checkpoint-every", 4, "--quiet"]
    return [sys.executable, str(ROOT / "cli.py"), *map(str, words)]


def losses(run):
    path = run / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue  # being written
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def processes(launcher):
    """The launcher and its ranks."""
    ranks = [pid for pid in children(launcher) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [launcher, *ranks]


def is_past(run, step, started):
    """Whether a process started at a time has come so far; metrics are written anew at its start."""
    path = run / "metrics.jsonl"
    return path.is_file() and path.stat().st_mtime > started and step in losses(run)


def kill_at(process, run, step, started, chance):
    """Kill one of the run's processes a moment after ``step``; True if the run had not ended before."""
    deadline = time.monotonic() + 120
    while not is_past(run, step, started):
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, 0.2))
    if process.poll() is not None:
        return False
    os.kill(chance.choice(processes(process.pid)), signal.SIGKILL)
    process.wait(60)
    return True


def test_kills_change_no_loss_and_no_bit_of_the_final_checkpoint(sample_shards, tmp_path):
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    subprocess.run(command(sample_shards, undisturbed), check=True, capture_output=True, timeout=300)
    chance, kills = random.Random(20), 0
    for step in sorted(chance.randint(1, STEPS) for _ in range(KILLS)):
        resume, started = ["--resume"] if (run / "latest").is_file() else [], time.time()
        process = subprocess.Popen([*command(sample_shards, run), *resume], stderr=subprocess.PIPE, text=True)
        kills += kill_at(process, run, step, started, chance)
        process.communicate()
    assert kills > KILLS // 2  # the others came when the run was over
    subprocess.run([*command(sample_shards, run), "--resume"], check=True, capture_output=True, timeout=300)
    assert losses(run) == losses(undisturbed) and len(losses(run)) == STEPS
    whole, resumed = checkpoints.load(undisturbed), checkpoints.load(run)
    assert whole.step == resumed.step == STEPS
    assert torch.equal(torch.tensor(whole.errors), torch.tensor(resumed.errors))
    for name in whole.parameters:
        assert torch.equal(whole.parameters[name], resumed.parameters[name]), name
        assert torch.equal(whole.velocity[name], resumed.velocity[name]), name
