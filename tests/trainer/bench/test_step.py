"""Timing a step: how many are taken, what a rank leaves, what is refused."""

from dataclasses import replace
from itertools import count

import pytest
import torch

from alexstream.trainer.bench.step import WARM_UP_STEPS, StepOptions, make_random_batch, measure_step, time_rounds_ms
from alexstream.trainer.errors import TrainError
from alexstream.trainer.recipe import Recipe

CPU = torch.device("cpu")
SMALL = StepOptions(recipe=Recipe(width=0.25), classes=3, batch_size=2, steps=1, rounds=2, quiet=True)


def test_so_many_steps_are_taken_and_timed():
    taken = []
    options = StepOptions(steps=4, rounds=3)
    ms = time_rounds_ms(lambda: taken.append(1), options, CPU, quiet=True, clock=count().__next__)
    assert len(taken) == WARM_UP_STEPS + 3 * 4 and ms == [250.0] * 3


def test_one_device_takes_steps():
    found = measure_step(replace(SMALL, precision="bf16"), 1, "cpu")
    assert len(found.step_ms) == 2 and len(found.peak_mib) == 1 and found.gpu_peak_mib == [None]
    assert [rate * ms for rate, ms in zip(found.images_per_s(), found.step_ms, strict=True)] == pytest.approx([2e3] * 2)
    assert "batch 2, bf16; 1 rank, cpu" in found.table()


def test_two_ranks_both_say_how_much_memory_they_took():
    found = measure_step(SMALL, 2, "cpu")
    assert len(found.step_ms) == 2 and len(found.peak_mib) == 2 and min(found.peak_mib) > 0


def test_the_batch_is_always_the_same():
    (images, labels), (again, _) = make_random_batch(2, 3, CPU), make_random_batch(2, 3, CPU)
    assert images.shape == (2, 3, 224, 224) and torch.equal(images, again) and set(labels.tolist()) <= {0, 1, 2}


def test_what_cannot_be_measured_is_refused(monkeypatch):
    with pytest.raises(TrainError, match="tf32: received on the CPU"):
        measure_step(StepOptions(precision="tf32"), 1, "cpu")
    with pytest.raises(TrainError, match="received 3, expected 1"):
        measure_step(SMALL, 3, "cpu")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(TrainError, match="without torchrun"):
        measure_step(SMALL, 2, "cpu")
