"""The loop on made-up batches: it learns, resumes exactly, and counts epochs as the stream does."""

import json
import math
import os
import shutil
import time
from dataclasses import dataclass, replace
from itertools import repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alexstream.pipeline.batch import Batch, DataFacts, StageTimes
from alexstream.report import training
from alexstream.report.subject import Run
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer import guessing, loop
from alexstream.trainer.distributed.launch import Rank, choose_device_type
from alexstream.trainer.errors import CheckpointError, TrainError
from alexstream.trainer.evaluation.evaluate import Score, Totals, evaluate_model
from alexstream.trainer.loop import Trainer, last_step_of_epoch, train
from alexstream.trainer.metrics import Metrics
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.recipe import Phase, Recipe
from alexstream.trainer.run_setup import RunOptions, clear_leftovers, load_start_parameters, prepare_run

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
    choice = RunOptions(folder=folder, **{"recipe": SMALL, "quiet": True, **options})
    prepare_run(choice, data.facts())
    train(RANK, data, choice)
    return checkpoints.load_checkpoint(folder)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder, epochs=3, checkpoint_every=2)


def test_a_small_training_shows_progress(tmp_path, monkeypatch, capsys):
    """Lines come by time: two steps are enough if they take long."""
    monkeypatch.setattr(loop, "FIRST_LINE_S", 0.0)
    run(tmp_path, epochs=1, quiet=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if "images/s" in line]
    assert lines and all("ETA" in line for line in lines)


def test_an_epoch_ends_when_every_sample_came(undisturbed):
    """6 samples in batches of 4: epochs end after steps 2 (1.3 epochs), 3 and 5."""
    assert [last_step_of_epoch(e, TwoColours().facts()) for e in (1, 2, 3)] == [2, 3, 5]
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
    with pytest.raises(TrainError, match="`resume`"):
        run(undisturbed[0], epochs=3)
    with pytest.raises(TrainError, match="holds no checkpoint"):
        run(tmp_path, resume=True)
    with pytest.raises(TrainError, match="batch_size"):
        prepare_run(RunOptions(folder=undisturbed[0], resume=True), replace(TwoColours().facts(), batch_size=2))


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    with pytest.raises(TrainError, match="not a number at step 3; the last checkpoint is intact: start again"):
        run(tmp_path, TwoColours(poison_at=2), epochs=2)
    assert checkpoints.load_checkpoint(tmp_path).step == 2


def test_no_checkpoint_is_said_to_be_intact_where_there_is_none(tmp_path):
    with pytest.raises(TrainError, match="not a number at step 1; start again with a smaller `learning_rate`"):
        run(tmp_path, TwoColours(poison_at=0), epochs=2)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_network_that_guesses_is_told_of_once_and_with_chance_beside_it(tmp_path, capsys, monkeypatch):
    """Told after three steps rather than 300; a rate of almost nothing learns nothing."""
    for module in (loop, guessing):
        monkeypatch.setattr(module, "TOLD_AT_STEPS", (3,))
        monkeypatch.setattr(module, "WINDOW_STEPS", 2)
    still = Recipe(learning_rate=1e-12, columns=1, width=0.125, weight_sd=1e-6, upper_conv_sd=1e-6)
    choice = RunOptions(folder=tmp_path, recipe=still, epochs=3, log_every=1)
    prepare_run(choice, TwoColours().facts())
    train(RANK, Ready(), choice)
    told = capsys.readouterr()
    (hint,) = [line for line in told.err.splitlines() if line.startswith("note:")]
    assert "after 3 steps the network still guesses: its loss was 0.693 in the last 2 steps" in hint
    lines = [line for line in (told.out + told.err).splitlines() if " top-1 " in line]
    assert len(lines) == 5 + 3 and all("% (chance 50 %)" in line for line in lines)


def test_a_loss_far_above_guessing_stops_the_run(tmp_path):
    with pytest.raises(TrainError, match=r"diverges: .* smaller `learning_rate`"):
        run(tmp_path, epochs=20, recipe=replace(SMALL, learning_rate=50.0, lrn=False), log_every=1)


def test_ten_times_the_loss_of_guessing_is_too_much(tmp_path):
    """Of two classes: 10 ln 2 = 6.93."""
    of_two = SimpleNamespace(facts=TwoColours().facts(), options=RunOptions(folder=tmp_path))
    step = SimpleNamespace(step=7)
    Trainer._check_loss(of_two, step, 6.9)
    with pytest.raises(
        TrainError, match=r"diverges: 7\.0 around step 7, and guessing gives 0\.7; .*smaller `learning_rate`"
    ):
        Trainer._check_loss(of_two, step, 7.0)
    for loss in (math.nan, math.inf):
        with pytest.raises(TrainError, match="not a number at step 7"):
            Trainer._check_loss(of_two, step, loss)


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
    same = load_start_parameters(RunOptions(folder=tmp_path, init_from=folder, recipe=SMALL), TwoColours().facts())
    assert all(torch.equal(same[name], before.parameters[name]) for name in same)
    three = replace(TwoColours().facts(), classes=("dark", "grey", "bright"))
    other = load_start_parameters(RunOptions(folder=tmp_path, init_from=folder, recipe=SMALL), three)
    assert torch.equal(other["fc7.weight"], before.parameters["fc7.weight"])
    assert other["fc8.weight"].shape == (3, 512)
    with pytest.raises(CheckpointError, match=r"conv6.weight is None, expected \(32, 16, 3, 3\)"):
        options = RunOptions(folder=tmp_path / "new", init_from=folder, recipe=replace(SMALL, sixth_conv=True))
        prepare_run(options, TwoColours().facts())
    with pytest.raises(CheckpointError, match=r"conv4.weight is \(48, 24, 3, 3\), expected None"):
        options = RunOptions(folder=tmp_path / "new", init_from=folder, recipe=replace(SMALL, removed="conv4"))
        prepare_run(options, TwoColours().facts())


def test_a_new_run_begins_with_the_seed_s_parameters(tmp_path):
    options = RunOptions(folder=tmp_path, recipe=SMALL)
    facts = TwoColours().facts()
    begun = {seed: load_start_parameters(options, replace(facts, seed=seed)) for seed in (1, 2)}
    for seed, start in begun.items():
        drawn = torch.empty(12, 3, 11, 11).normal_(0.0, 0.01, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(start["conv1.weight"], drawn)
    assert not torch.equal(begun[1]["fc7.weight"], begun[2]["fc7.weight"])


def test_a_resumed_run_must_have_its_recipe(undisturbed):
    with pytest.raises(CheckpointError, match="lrn = True, but this run has False"):
        run(undisturbed[0], epochs=3, resume=True, recipe=replace(SMALL, lrn=False))


@pytest.mark.parametrize("theirs", [2, 0])
def test_replicas_add_up_what_they_counted_without_rounding_ties(theirs, monkeypatch):
    """Of three classes, all tied: a third of top-1 each, also where the other replica had nothing but padding."""
    counts = [
        Totals(num_images=n, loss=1.5 * n, places_2T=np.array([[0, 0, 0, n], [0, 0, 0, 3 * n]])) for n in (3, theirs)
    ]
    sent = iter([counts[1].loss, np.append(counts[1].places_2T.ravel(), counts[1].num_images)])
    monkeypatch.setattr(
        "alexstream.trainer.loop.dist.all_reduce", lambda sums, group: sums.add_(torch.as_tensor(next(sent)))
    )
    me = SimpleNamespace(rank=Rank(columns=Columns(replica=0, replicas=2), device=torch.device("cpu")))
    score = Trainer._sum_over_replicas(me, counts[0]).score()
    assert score == Score(num_images=3 + theirs, loss=1.5, top1=1 / 3, top5=1.0)


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


@pytest.mark.parametrize("name", ["none", "paper-no-lighting"])
def test_noise_that_was_never_there_is_not_switched_off(tmp_path, name):
    asked = []

    class Noted(TwoColours):
        def training(self, start_step, part, exchange, device, augmentation=None):
            asked.append(augmentation)
            return super().training(start_step, part, exchange, device)

        def facts(self):
            return replace(super().facts(), augmentation=name)

    dark = Phase(start=0, rate=1e-3, conv1_rate=1e-3, bias_rate=1e-3, lighting=False)
    run(tmp_path, Noted(), epochs=1, recipe=replace(SMALL, phases=(dark,)))
    assert asked == [name]


def test_validation_errors_are_remembered_and_drop_the_rate(tmp_path):
    """One epoch without a new lowest error divides the rate; the error is what was not right first."""
    after = run(tmp_path, epochs=4, recipe=replace(SMALL, patience_epochs=1, learning_rate=1e-6))
    tops = [row["validation"]["top1"] for row in rows(tmp_path) if "validation" in row]
    assert after.errors == pytest.approx([1 - top1 for top1 in tops]) and len(tops) == 4
    assert len(set(tops)) == 1  # nothing is learned at this rate
    rates = [row["learning_rate"] for row in rows(tmp_path) if "loss" in row]
    assert rates == pytest.approx([1e-6, 1e-6, 1e-6, 1e-7, 1e-7, 1e-8])


def test_checkpoints_are_made_every_so_many_steps_and_at_the_end_of_epochs(tmp_path):
    run(tmp_path, TwoColours(num_train=12), epochs=2, checkpoint_every=2, keep=9)
    assert [int(path.stem[-8:]) for path in sorted(tmp_path.glob("*.pt"))] == [2, 3, 4, 6]


def test_a_finished_run_says_so_and_a_batch_is_shared_evenly(undisturbed, capsys):
    folder, before = undisturbed
    options = RunOptions(folder=folder, recipe=SMALL, resume=True, epochs=3)
    with pytest.raises(TrainError, match="`batch_size`: received 4, expected a multiple of 3"):
        prepare_run(options, TwoColours().facts(), 3)
    train(RANK, TwoColours(), options)
    assert capsys.readouterr().out == "nothing to do: epoch 3 of 3 is finished\n"
    assert checkpoints.load_checkpoint(folder).step == before.step


def test_what_a_run_is_is_written_down(undisturbed):
    record = json.loads((undisturbed[0] / "run.json").read_text())
    assert (record["epochs"], record["precision"], record["processes"]) == (3, "fp32", 1)
    assert record["data"]["classes"] == ["dark", "bright"] and record["recipe"]["width"] == 0.125


def test_what_a_killed_run_had_half_written_is_cleared(tmp_path):
    left = [
        "run.json.1.tmp",
        "config.toml.1.tmp",
        "metrics.jsonl.7.tmp",
        "latest.3.tmp",
        "checkpoint-00000001.pt.9.tmp",
    ]
    left += ["run.json.0123abcd.tmp", "checkpoint-00000001.pt.0123abcd.tmp"]
    others = ["checkpoint-best.pt.1.tmp", "checkpoint.txt", "latest.old.tmp", "notes.tmp", "run.json.tmp"]
    for name in (*left, *others):
        (tmp_path / name).touch()
    clear_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == others


@pytest.mark.parametrize(
    "name", ["run.json", "config.toml", "metrics.jsonl", "latest", "tensorboard", "checkpoint-00000099.pt"]
)
def test_a_link_in_a_run_folder_is_neither_followed_nor_replaced(undisturbed, tmp_path, name):
    """As somebody else's run folder may hold it; resumed, the run would write to all of these names."""
    folder, victim = tmp_path / "run", tmp_path / "victim"
    shutil.copytree(undisturbed[0], folder)
    victim.mkdir() if name == "tensorboard" else victim.write_text("precious")
    if name == "latest":  # it must be read before
        victim.write_text((folder / name).read_text())
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(victim)
    with pytest.raises(TrainError, match=rf"{name} is a link to .*victim, which is not followed; remove the link"):
        prepare_run(RunOptions(folder=folder, recipe=SMALL, resume=True, epochs=4), TwoColours().facts())
    assert (folder / name).is_symlink() and sorted(path.name for path in tmp_path.iterdir()) == ["run", "victim"]
    assert victim.is_dir() or victim.read_text() in ("precious", (undisturbed[0] / "latest").read_text())


def test_an_earlier_checkpoint_may_be_a_link(undisturbed, tmp_path):
    for path in undisturbed[0].iterdir():
        (tmp_path / path.name).symlink_to(path) if path.suffix == ".pt" else shutil.copy(path, tmp_path)
    prepare_run(RunOptions(folder=tmp_path, recipe=SMALL, resume=True, epochs=4), TwoColours().facts()).close()


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
    score = evaluate_model(model, [Batch(images_NCHW=torch.zeros(4, 1), labels_N=labels, ids_N=labels)])
    assert (score.num_images, score.top1, score.top5) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))
    with pytest.raises(ValueError, match="no images"):
        evaluate_model(model, [])


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
            yield replace(batch, stages=StageTimes(read_s=0.9, decode_s=0.1))


@pytest.mark.parametrize(("data", "verdict"), [(Ready(), "COMPUTE-BOUND"), (Slow(), "DATA-BOUND")])
def test_a_run_ends_with_what_it_waited_for(tmp_path, capsys, data, verdict):
    run(tmp_path / "run", data, epochs=11, recipe=Recipe(learning_rate=1e-6, columns=1, width=0.125))
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(verdict) and ("read" in last) == (verdict == "DATA-BOUND")
    stages = [row["stages"]["read_s"] for row in rows(tmp_path / "run") if "stages" in row]
    assert stages == [0.9 if verdict == "DATA-BOUND" else 0.0] * last_step_of_epoch(11, data.facts())


def test_train_and_report_say_the_same_of_a_run_that_was_resumed(tmp_path, capsys):
    """A later process's steps are not all there is, and its first ones wait until the stream is ahead."""
    small = Recipe(learning_rate=1e-6, columns=1, width=0.125)
    run(tmp_path / "run", Ready(), epochs=12, recipe=small)
    capsys.readouterr()
    run(tmp_path / "run", Slow(), epochs=14, recipe=small, resume=True)
    *_, line = capsys.readouterr().out.splitlines()
    found = Run(folder=tmp_path / "run", facts={}, options={}, network=None)
    ((name, told), *_) = training._build_verdict(found, Metrics.read(tmp_path / "run")).rows
    assert name == "verdict" and told == line and line.startswith("COMPUTE-BOUND")


def test_a_run_that_ended_before_its_first_checkpoint_is_started_again_in_its_folder(tmp_path):
    options, facts = RunOptions(folder=tmp_path, recipe=SMALL), TwoColours().facts()
    for version in ("0.2.0", "0.3.0"):
        prepare_run(options, facts, config=f"# alexstream {version}, options of cli.py train; for --config\n").close()
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert (tmp_path / "config.toml").read_text().startswith("# alexstream 0.3.0")


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", "run.json", "latest", "odd config", "odd run.json"])
def test_files_of_somebody_else_are_not_replaced_by_a_new_run(tmp_path, name):
    """Any project may have a config.toml; the run would have replaced it."""
    options, facts = RunOptions(folder=tmp_path, recipe=SMALL), TwoColours().facts()
    if name == "odd config":  # a run's own folder, whose options are somebody else's
        prepare_run(options, facts, config="# alexstream 0.2.0\n").close()
        (tmp_path / "config.toml").write_text('title = "mine"\n')
    elif name == "odd run.json":
        os.mkfifo(tmp_path / "run.json")
    else:
        (tmp_path / name).write_text('{"data": {"train_digest": "x"}, "recipe": []}\n')
    before = {path.name: path.is_fifo() or path.read_bytes() for path in tmp_path.iterdir()}
    what = {"odd config": "config.toml", "odd run.json": "run.json"}.get(name, name)
    with pytest.raises(TrainError, match=rf"`folder` .* holds {what} of something else than a run of train"):
        prepare_run(options, facts, config="# alexstream 0.3.0\n")
    assert {path.name: path.is_fifo() or path.read_bytes() for path in tmp_path.iterdir()} == before
