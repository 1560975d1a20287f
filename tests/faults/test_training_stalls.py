"""Ranks that stand still: the user is told which, and what to do."""

import os
import signal
import time

import pytest

from tests.faults import training

TIMEOUT_S = 10  # more than a step and a checkpoint take on a machine that has other things to do


@pytest.mark.promise(
    "no hang: a rank that stands still is named, and the run goes on with --resume",
    fault="SIGSTOP of a rank",
    short=1,
    long=8,
)
def test_a_rank_that_stands_still_is_named_and_the_run_goes_on_later(trials, sample_shards, short_run, tmp_path):
    for number, chance in enumerate(trials):
        run, index = tmp_path / str(number), chance.randrange(2)
        words = training.command(sample_shards, run, "--timeout", TIMEOUT_S)
        process = training.start(words)
        assert training.reach(process, run, chance.randint(2, 6))
        family = training.tree(process.pid)
        os.kill(training.ranks(process.pid)[index], signal.SIGSTOP)
        done = training.wait_for(process)
        training.require_gone(family)
        told, said = [line for line in done.lines if line.startswith("Error: ")], "\n".join(done.lines)
        assert done.code == 1 and len(told) == 1, said
        assert f"rank {index} did not answer for {TIMEOUT_S} s" in told[0] and training.says_how_to_go_on(
            told[0], run
        ), said
        assert not [line for line in done.lines if line not in told and "has waited" not in line], said
        training.resume(words, run, short_run)


@pytest.mark.promise(
    "no hang: an interrupt ends a run whose rank stands still", fault="SIGSTOP of a rank, then SIGTERM", short=0, long=8
)
def test_an_interrupt_ends_a_run_whose_rank_stands_still(trials, sample_shards, tmp_path):
    for number, chance in enumerate(trials):
        run = tmp_path / str(number)
        process = training.start(training.command(sample_shards, run))
        assert training.reach(process, run, 1)
        family = training.tree(process.pid)
        os.kill(chance.choice(training.ranks(process.pid)), signal.SIGSTOP)
        time.sleep(chance.uniform(0, 1))
        process.send_signal(signal.SIGTERM)
        assert "interrupted" in training.wait_for(process).error
        training.require_gone(family)
