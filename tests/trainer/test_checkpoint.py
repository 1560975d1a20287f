"""Checkpoints: round trip, newest two kept, damage and mismatch named, no code run from the file."""

import pickle
from dataclasses import replace

import pytest
import torch

from pipeline.batch import DataFacts
from trainer import checkpoint as checkpoints
from trainer.checkpoint import Checkpoint
from trainer.errors import CheckpointError
from trainer.recipe import Recipe

FACTS = DataFacts(
    num_train=10, num_val=2, classes=("a", "b"), train_digest="d1", val_digest="d2",
    augmentation="paper", seed=0, batch_size=4,
)  # fmt: skip


def state(step=7):
    return Checkpoint(
        step=step,
        errors=(0.5, float("nan")),
        recipe=Recipe(),
        data=checkpoints.checkpoint_data(FACTS),
        parameters={"w": torch.arange(3.0)},
        velocity={"w": torch.ones(3)},
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    loaded = checkpoints.load(checkpoints.save(tmp_path, state()))
    assert loaded.step == 7 and loaded.errors[0] == 0.5 and loaded.recipe == Recipe()
    assert torch.equal(loaded.parameters["w"], torch.arange(3.0)) and torch.equal(loaded.velocity["w"], torch.ones(3))


def test_latest_is_the_newest_and_two_are_kept(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, state(step))
    assert checkpoints.latest(tmp_path).name == "checkpoint-00000003.pt"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-00000002.pt", "checkpoint-00000003.pt", "latest"]


def test_a_folder_without_checkpoints_has_no_latest_and_cannot_be_loaded(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoints.load(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoints.load(tmp_path / "nothing.pt")


def test_a_pointer_to_a_missing_or_outside_file_is_an_error(tmp_path):
    for name in ("checkpoint-00000009.pt", "../elsewhere.pt"):
        (tmp_path / checkpoints.LATEST).write_text(name)
        with pytest.raises(CheckpointError, match="names"):
            checkpoints.load(tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_cut_checkpoint_is_an_error(tmp_path, cut):
    path = checkpoints.save(tmp_path, state())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        checkpoints.load(path)


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


def test_no_code_is_run_from_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for writer in (lambda p: torch.save({"x": Bomb()}, p), lambda p: p.write_bytes(pickle.dumps(Bomb()))):
        writer(tmp_path / "evil.pt")
        with pytest.raises(CheckpointError):
            checkpoints.load(tmp_path / "evil.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("facts", "recipe", "both"),
    [
        ({"train_digest": "other"}, {}, "'d1'.*'other'"),
        ({"batch_size": 8}, {}, "batch_size = 4.*8"),
        ({"seed": 1}, {}, "seed = 0.*1"),
        ({"augmentation": "none"}, {}, "'paper'.*'none'"),
        ({}, {"learning_rate": 0.1}, r"learning_rate = 0\.01.*0\.1"),
    ],
)
def test_another_run_is_refused_with_both_values(tmp_path, facts, recipe, both):
    state().require(FACTS, Recipe(), tmp_path)
    with pytest.raises(CheckpointError, match=both):
        state().require(replace(FACTS, **facts), Recipe(**recipe), tmp_path)
