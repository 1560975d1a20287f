"""Signals to processes of a training at random moments, each followed by --resume: nothing changes."""

import os
import signal
import sys
import time

import pytest

from tests.faults import training
from tests.support.processes import children

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGKILL)
VICTIMS = ("rank 0", "rank 1", "both ranks", "launcher")


def processes(launcher, victim):
    """Process numbers of a rank, of both, or of the launcher."""
    ranks = training.ranks(launcher)
    return {"rank 0": ranks[:1], "rank 1": ranks[1:], "both ranks": ranks, "launcher": [launcher]}[victim]


def struck(process, run, chance, sent, victim):
    """Whether a training was still at work when the signal came; it must end at once, all of it, with one line."""
    time.sleep(chance.uniform(0.0, 0.5))
    family = training.tree(process.pid)
    if process.poll() is not None:
        return False
    for pid in processes(process.pid, victim):
        os.kill(pid, sent)
    begun = time.monotonic()
    done = training.wait_for(process)
    training.require_gone(family)
    assert time.monotonic() - begun < 60
    if (victim, sent) == ("launcher", signal.SIGKILL):
        assert done.code == -signal.SIGKILL and not done.lines
    elif done.code != 0:  # a signal may come after the last step
        stopped = victim == "launcher" or sent == signal.SIGINT  # which a terminal sends to all of them
        assert stopped == ("interrupted" in done.error), done.error
        assert training.says_how_to_go_on(done.error, run), done.error
        assert stopped or "rank" in done.error, done.error
    return True


@pytest.mark.promise(
    "a training that is stopped ends at once with one line, leaves no process, and after --resume has every loss "
    "and bit of the undisturbed one",
    fault="SIGKILL, SIGTERM or SIGINT to a rank, to both, to the launcher",
    short=2,
    long=30,
)
def test_signals_change_no_loss_and_no_bit_of_the_final_checkpoint(trials, sample_shards, tmp_path):
    """One run of two ranks that is stopped again and again: 27 steps, or 59 if there are many trials."""
    epochs = 7 if trials.count >= 20 else 3
    steps = -(-training.IMAGES * epochs // 8)
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    words = training.command(sample_shards, run, epochs=epochs, batch=8, every=4)
    training.finish(training.command(sample_shards, undisturbed, epochs=epochs, batch=8, every=4))
    strikes = 0
    for number, chance in enumerate(trials):
        process = training.start_anew([*words, "--resume"] if list(run.glob("checkpoint-*.pt")) else words)
        if training.reach(process, run, 1 + steps * number // trials.count):
            strikes += struck(process, run, chance, SIGNALS[number % len(SIGNALS)], chance.choice(VICTIMS))
        else:
            training.wait_for(process)
    assert strikes > trials.count // 2  # the others came when the run was over
    training.resume(words, run, undisturbed)


@pytest.mark.promise(
    "under torchrun a process that dies ends all, and the run goes on from its last checkpoint",
    fault="SIGKILL, SIGTERM or SIGINT to one of four processes, or to torchrun",
    short=0,
    long=6,
)
def test_a_signal_under_torchrun_ends_all_processes(trials, sample_shards, tmp_path):
    """Two replicas of two columns; what goes on is compared with such a run that nothing disturbed."""
    undisturbed = tmp_path / "undisturbed"
    training.finish(torchrun(sample_shards, undisturbed))
    for number, chance in enumerate(trials):
        run = tmp_path / str(number)
        process = training.start(torchrun(sample_shards, run))
        assert training.reach(process, run, chance.randint(4, 7))
        family, workers = training.tree(process.pid), children(process.pid)
        assert len(workers) == 4
        os.kill(chance.choice([process.pid, *workers]), SIGNALS[number % len(SIGNALS)])
        done = training.wait_for(process)
        training.require_gone(family)
        said = [line for line in done.lines if line.startswith("Error: ")]
        assert all(training.says_how_to_go_on(line, run) for line in said), said
        training.finish([*torchrun(sample_shards, run), "--resume"])
        training.require_same(run, undisturbed)


def torchrun(shards, run):
    words = training.command(shards, run)[1:]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "--", *words]
