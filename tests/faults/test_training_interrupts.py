"""Ctrl-C and SIGTERM save a training where it stands; a second one does not wait. Nothing changes by it."""

import os
import re
import signal
import time

import pytest

from tests.faults import training
from tests.support.comparisons import losses_of

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def never_saves(shards, run, *words):
    """A training that saves at the ends of epochs only: of 67 images in batches of 8, after 9 and 17 steps."""
    return training.command(shards, run, *words, batch=8, every=0)


@pytest.mark.parametrize(("devices", "number"), [(1, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_signal_saves_the_step_and_says_it(sample_shards, tmp_path, devices, number):
    run = tmp_path / "run"
    words = never_saves(sample_shards, run, "--devices", devices)
    process = (training.start if devices == 1 else training.start_anew)(words)
    assert training.reach(process, run, 2)
    # As a terminal does it: to every process of the foreground.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    done = training.wait_for(process)
    assert done.code == CODES[number]
    (path,) = run.glob("checkpoint-*.pt")
    step = int(path.stem[-8:])
    assert 2 <= step < 9, "in the middle of an epoch"
    assert re.fullmatch(
        rf"Error: interrupted; what was finished is kept; step {step} is kept: continue with: python cli.py train "
        rf"--resume --run {re.escape(str(run))}",
        done.error,
    )
    assert max(losses_of(run)) == step
    undisturbed = tmp_path / "undisturbed"
    training.finish(never_saves(sample_shards, undisturbed, "--devices", devices))
    training.finish([*words[:2], "train", "--resume", "--run", str(run), "--quiet"])
    training.require_same(run, undisturbed)


def test_a_second_signal_does_not_wait(sample_shards, tmp_path):
    """One rank is stopped (SIGSTOP), so that no step ends."""
    run = tmp_path / "run"
    process = training.start(never_saves(sample_shards, run))
    assert training.reach(process, run, 2)
    family = training.tree(process.pid)
    os.kill(training.ranks(process.pid)[1], signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None, "it waits for the step to end"
    process.send_signal(signal.SIGINT)
    done = training.wait_for(process)
    assert done.code == 130 and "start it again" in done.error
    training.require_gone(family)
