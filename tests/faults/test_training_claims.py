"""One training a run folder; and a run that goes on with other numbers of processes."""

import os
import signal
import sys

import pytest

from alexstream.trainer import checkpoint as checkpoints
from tests.faults import training
from tests.support.comparisons import losses_of


@pytest.mark.promise(
    "one training a run folder: the second is refused, and does not disturb the first",
    fault="two trainings started into a folder at once",
    short=1,
    long=6,
)
def test_of_two_trainings_into_a_folder_one_is_refused(trials, sample_shards, short_run, tmp_path):
    for number, chance in enumerate(trials):
        run = tmp_path / str(number)
        words = training.command(sample_shards, run)
        first = training.start(words)
        if chance.random() < 0.5:  # the second comes while the first is at work, and stays there until it has gone
            assert training.reach(first, run, 1)
            stopped = chance.choice(training.ranks(first.pid))
            os.kill(stopped, signal.SIGSTOP)
            resumed = ["--resume"] if list(run.glob("checkpoint-*.pt")) else []
            assert "in use by another training" in training.wait_for(training.start([*words, *resumed])).error
            os.kill(stopped, signal.SIGCONT)
            assert training.wait_for(first).code == 0
        else:
            done = sorted(
                (training.wait_for(training.start(words)), training.wait_for(first)), key=lambda one: one.code
            )
            # On a busy machine one may be through before the other has loaded its modules.
            assert done[0].code == 0 and ("in use by another" in done[1].error or "holds a run" in done[1].error)
        training.require_same(run, short_run)


@pytest.mark.promise(
    "a folder is free when the last process of a killed training has ended, and no sooner",
    fault="SIGKILL of the launcher, and --resume at once",
    short=1,
    long=6,
)
def test_the_folder_of_a_killed_launcher_is_free_when_its_ranks_have_ended(trials, sample_shards, short_run, tmp_path):
    for number, chance in enumerate(trials):
        run = tmp_path / str(number)
        words = training.command(sample_shards, run)
        process = training.start(words)
        assert training.reach(process, run, chance.randint(4, 6))
        ranks = training.ranks(process.pid)
        stopped = chance.choice(ranks)
        os.kill(stopped, signal.SIGSTOP)  # it cannot end yet
        process.kill()
        process.wait()
        process.stderr.close()
        assert "in use by another training" in training.wait_for(training.start([*words, "--resume"])).error
        os.kill(stopped, signal.SIGCONT)
        training.require_gone(ranks)
        training.resume(words, run, short_run)


@pytest.mark.promise(
    "a run goes on with other numbers of processes, with the losses of one that kept its own",
    fault="1, 2 or 4 processes, changed at each of two checkpoints",
    short=0,
    long=4,
)
def test_a_run_that_changes_its_processes_has_the_losses_of_one_that_does_not(
    trials, sample_shards, short_run, tmp_path
):
    """Four: two replicas of two columns, under torchrun. Sums in another order differ in their last bits."""
    for number, chance in enumerate(trials):
        run = tmp_path / str(number)
        for epochs, processes in enumerate(chance.sample([1, 2, 4], 2), 1):
            words = training.command(sample_shards, run, "--devices", min(processes, 2), epochs=epochs)
            if processes == 4:
                before = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4", "--"]
                words = [*before, *words[1:]]
            training.finish(words if epochs == 1 else [*words, "--resume"])
        whole, mine = losses_of(short_run), losses_of(run)
        assert mine == pytest.approx(whole, rel=1e-3) and len(mine) == training.STEPS
        assert checkpoints.load_checkpoint(run).step == training.STEPS
