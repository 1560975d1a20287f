"""The loop on made-up batches: it learns, resumes exactly, and counts epochs as the stream does."""

import json
import math
import time
from dataclasses import dataclass, replace
from itertools import repeat

import pytest
import torch

from pipeline.batch import Batch, DataFacts, Stages
from trainer import checkpoint as checkpoints
from trainer.columns import Columns
from trainer.errors import CheckpointError, TrainError
from trainer.evaluate import evaluate
from trainer.launch import Rank, choose_device_type
from trainer.loop import last_step, train
from trainer.recipe import Phase, Recipe
from trainer.start import RunOptions, prepare, start_parameters

RANK = Rank(columns=Columns(), device=torch.device("cpu"))
SMALL = Recipe(width=0.125)


@dataclass(frozen=True)
class TwoColours:
    """Dark images are class 0, bright ones class 1; batches of four."""

    num_train: int = 6
    poison_at: int = -1

    def facts(self):
        return DataFacts(
            num_train=self.num_train, num_val=4, classes=("dark", "bright"), train_digest="d", val_digest="v",
            augmentation="none", seed=1, batch_size=4,
        )  # fmt: skip

    def batch(self, step):
        generator = torch.Generator().manual_seed(step)
        labels = torch.tensor([0, 1, 0, 1])
        images = torch.randn(4, 3, 224, 224, generator=generator) * 20 + (labels * 160.0 - 80)[:, None, None, None]
        if step == self.poison_at:
            images[0, 0, 0, 0] = math.nan
        return Batch(images_NCHW=images, labels_N=labels, ids_N=torch.arange(4))

    def training(self, start_step, part, exchange, device, augmentation=None):
        step = start_step
        while True:
            yield self.batch(step)
            step += 1

    def validation(self, part, exchange, device):
        padded = self.batch(1000)
        padded.labels_N[3] = -1
        yield padded

    def decode_path(self, device, exchanged):
        return "drawn in memory"


def run(folder, data=None, **options):
    data = data or TwoColours()
    choice = RunOptions(folder=folder, quiet=True, **{"recipe": SMALL, **options})
    prepare(choice, data.facts())
    train(RANK, data, choice)
    return checkpoints.load(folder)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder, epochs=3, checkpoint_every=2)


def test_an_epoch_ends_when_every_sample_came(undisturbed):
    """6 samples in batches of 4: epochs end after steps 2 (1.3 epochs), 3 and 5."""
    assert [last_step(e, TwoColours().facts()) for e in (1, 2, 3)] == [2, 3, 5]
    assert [r["step"] for r in rows(undisturbed[0]) if "validation" in r] == [2, 3, 5]


def test_every_step_is_recorded_with_loss_and_waiting(undisturbed):
    steps = [r for r in rows(undisturbed[0]) if "loss" in r]
    assert [r["step"] for r in steps] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(r["loss"]) and 0 <= r["wait_s"] <= r["elapsed_s"] for r in steps)


def test_a_resumed_run_is_the_undisturbed_run(undisturbed, tmp_path):
    folder, whole = undisturbed
    run(tmp_path, epochs=1)
    resumed = run(tmp_path, epochs=3, resume=True)
    assert all(torch.equal(whole.parameters[k], resumed.parameters[k]) for k in whole.parameters)
    assert all(torch.equal(whole.velocity[k], resumed.velocity[k]) for k in whole.velocity)
    losses = [[r["loss"] for r in rows(f) if "loss" in r] for f in (folder, tmp_path)]
    assert losses[0] == losses[1]


def test_a_run_is_not_overwritten_and_nothing_is_not_resumed(undisturbed, tmp_path):
    with pytest.raises(TrainError, match="--resume"):
        run(undisturbed[0], epochs=3)
    with pytest.raises(TrainError, match="holds no checkpoint"):
        run(tmp_path, resume=True)
    with pytest.raises(TrainError, match="batch_size"):
        prepare(RunOptions(folder=undisturbed[0], resume=True), replace(TwoColours().facts(), batch_size=2))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(TrainError, match="not a number at step 3"):
        run(tmp_path, TwoColours(poison_at=2), epochs=2)
    assert checkpoints.load(tmp_path).step == 2


def test_a_loss_far_above_guessing_stops_the_run(tmp_path):
    with pytest.raises(TrainError, match=r"diverges: .* smaller --lr"):
        run(tmp_path, epochs=20, recipe=replace(SMALL, learning_rate=50.0, lrn=False), log_every=1)


def test_bfloat16_keeps_float32_parameters_and_resumes_exactly(undisturbed, tmp_path):
    whole = run(tmp_path / "whole", epochs=3, precision="bf16")
    run(tmp_path / "parts", epochs=1, precision="bf16")
    parts = run(tmp_path / "parts", epochs=3, precision="bf16", resume=True)
    assert whole.parameters["fc7.weight"].dtype == whole.velocity["fc7.weight"].dtype == torch.float32
    assert all(torch.equal(whole.parameters[k], parts.parameters[k]) for k in whole.parameters)
    narrow, wide = ([r["loss"] for r in rows(f) if "loss" in r] for f in (tmp_path / "whole", undisturbed[0]))
    assert narrow == pytest.approx(wide, rel=0.05) and narrow != wide


def test_fine_tuning_takes_all_but_the_last_layer_where_classes_differ(undisturbed, tmp_path):
    folder, before = undisturbed
    same = start_parameters(RunOptions(folder=tmp_path, init_from=folder, recipe=SMALL), TwoColours().facts())
    assert all(torch.equal(same[name], before.parameters[name]) for name in same)
    three = replace(TwoColours().facts(), classes=("dark", "grey", "bright"))
    other = start_parameters(RunOptions(folder=tmp_path, init_from=folder, recipe=SMALL), three)
    assert torch.equal(other["fc7.weight"], before.parameters["fc7.weight"])
    assert other["fc8.weight"].shape == (3, 512)
    with pytest.raises(CheckpointError, match=r"conv6.weight is None, expected \(32, 16, 3, 3\)"):
        options = RunOptions(folder=tmp_path / "new", init_from=folder, recipe=replace(SMALL, sixth_conv=True))
        prepare(options, TwoColours().facts())
    with pytest.raises(CheckpointError, match=r"conv4.weight is \(48, 24, 3, 3\), expected None"):
        options = RunOptions(folder=tmp_path / "new", init_from=folder, recipe=replace(SMALL, removed="conv4"))
        prepare(options, TwoColours().facts())


def test_a_resumed_run_must_have_its_recipe(undisturbed):
    with pytest.raises(CheckpointError, match="lrn = True, but this run has False"):
        run(undisturbed[0], epochs=3, resume=True, recipe=replace(SMALL, lrn=False))


def test_scripted_phases_set_rates_and_switch_the_noise_off(tmp_path):
    asked = []

    class Noted(TwoColours):
        def training(self, start_step, part, exchange, device, augmentation=None):
            asked.append((start_step, augmentation))
            return super().training(start_step, part, exchange, device)

        def facts(self):
            return replace(super().facts(), augmentation="original")

    one = Phase(start=0, rate=1e-3, conv1_rate=1e-3, bias_rate=2e-3)
    two = Phase(start=1, rate=1e-4, conv1_rate=0.0, bias_rate=2e-3, lighting=False)
    recipe = replace(SMALL, name="original", phases=(one, two))
    after = run(tmp_path, Noted(), epochs=1, recipe=recipe).parameters["conv1.weight"]
    last = run(tmp_path, Noted(), epochs=3, recipe=recipe, resume=True).parameters["conv1.weight"]
    assert asked == [(0, "original"), (2, "original-no-lighting")]
    assert [r["learning_rate"] for r in rows(tmp_path) if "loss" in r] == [1e-3] * 2 + [1e-4] * 3
    assert torch.equal(after, last)  # frozen


def test_as_many_checkpoints_stay_as_are_wanted(tmp_path):
    run(tmp_path, epochs=3, keep=3)
    assert len(list(tmp_path.glob("checkpoint-*.pt"))) == 3


def test_tensorboard_files_are_written_where_it_is_installed(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path, epochs=1, tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [e.step for e in board.Scalars("train/loss")] == [1, 2]
    assert [e.step for e in board.Scalars("validation/top1")] == [2]


def test_evaluation_leaves_padding_out_and_counts_top1_and_top5():
    def model(images):
        return torch.tensor([[9.0, 1, 2, 3, 4, 5], [9, 1, 2, 3, 4, 5], [9, 1, 2, 3, 4, 5], [9, 1, 2, 3, 4, 5]])

    labels = torch.tensor([0, 2, 1, -1])
    score = evaluate(model, [Batch(images_NCHW=torch.zeros(4, 1), labels_N=labels, ids_N=labels)])
    assert (score.num_images, score.top1, score.top5) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))
    with pytest.raises(ValueError, match="no images"):
        evaluate(model, [])


@pytest.mark.parametrize("count", [0, 3, 4])
def test_a_number_of_devices_that_the_network_cannot_have_is_refused(count):
    with pytest.raises(TrainError, match=f"received {count}, expected 1"):
        choose_device_type(count)


@dataclass(frozen=True)
class Ready(TwoColours):
    """One batch again and again: nothing is waited for."""

    def training(self, start_step, part, exchange, device, augmentation=None):
        yield from repeat(self.batch(start_step))


class Slow(TwoColours):
    """Each batch is waited for, twice as long as a step can take."""

    def training(self, start_step, part, exchange, device, augmentation=None):
        for batch in super().training(start_step, part, exchange, device, augmentation):
            time.sleep(0.5)
            yield replace(batch, stages=Stages(read_s=0.9, decode_s=0.1))


@pytest.mark.parametrize(("data", "verdict"), [(Ready(), "COMPUTE-BOUND"), (Slow(), "DATA-BOUND")])
def test_a_run_ends_with_what_it_waited_for(tmp_path, capsys, data, verdict):
    run(tmp_path / "run", data, epochs=11, recipe=Recipe(learning_rate=1e-6, columns=1, width=0.125))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(verdict) and ("read" in last) == (verdict == "DATA-BOUND")
    stages = [row["stages"]["read_s"] for row in rows(tmp_path / "run") if "stages" in row]
    assert stages == [0.9 if verdict == "DATA-BOUND" else 0.0] * last_step(11, data.facts())
