"""The sha256 at the end of a checkpoint, and the network that a run may start from."""

import hashlib
from types import SimpleNamespace

import pytest
import torch

from alexstream.pipeline.batch import DataFacts
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.checkpoint import Checkpoint, checksum_matches
from alexstream.trainer.errors import CheckpointError, TrainError
from alexstream.trainer.network.geometry import make_initial_parameters
from alexstream.trainer.recipe import Recipe
from alexstream.trainer.run_setup import RunOptions, load_start_parameters, prepare_run
from tests.support.comparisons import file_hashes

FACTS = DataFacts(
    num_train=10, num_val=2, classes=("a", "b"), train_digest="d1", val_digest="d2",
    augmentation="paper", seed=0, batch_size=4,
)  # fmt: skip
NARROW = Recipe(width=0.125)


@pytest.fixture
def path(tmp_path):
    state = Checkpoint(
        step=7,
        errors=(0.5,),
        recipe=Recipe(),
        data=checkpoints.make_checkpoint_data(FACTS),
        parameters={"w": torch.arange(3.0)},
        velocity={"w": torch.ones(3)},
    )
    return checkpoints.save_checkpoint(tmp_path, state)


def test_the_end_is_the_sha256_of_all_before_it(path):
    content = path.read_bytes()
    words, digest = content[-82:-64], content[-64:]
    assert words == b"alexstream sha256 " and digest.decode() == hashlib.sha256(content[:-82]).hexdigest()
    assert checksum_matches(path) is True


def test_another_sha256_is_named_as_the_reason(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + (b"0" if content[-1:] != b"0" else b"1"))
    assert checksum_matches(path) is False
    with pytest.raises(CheckpointError, match="its sha256 is not that of what was written"):
        checkpoints.load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"x" * 81, b"x" * 500])
def test_a_file_without_a_sha256_at_its_end_has_none_that_could_differ(tmp_path, content):
    (tmp_path / "any.pt").write_bytes(content)
    assert checksum_matches(tmp_path / "any.pt") is None


@pytest.mark.parametrize("name", ["conv1.weight", "fc6.weight", "fc7.bias", "fc8.weight"])
def test_a_run_starts_from_a_network_of_its_own_shape_but_for_the_last_layer(tmp_path, monkeypatch, name):
    """The last layer is drawn anew where the number of classes differs: fine-tuning."""
    taken = {key: value + 1 for key, value in make_initial_parameters(2, NARROW, 0).items()}
    taken[name] = torch.zeros(3)
    monkeypatch.setattr(checkpoints, "load_checkpoint", lambda path: SimpleNamespace(parameters=taken))
    options = RunOptions(folder=tmp_path, recipe=NARROW, init_from=tmp_path / "other")
    if not name.startswith("fc8."):
        with pytest.raises(CheckpointError, match=rf"{name} is \(3,\), expected \("):
            load_start_parameters(options, FACTS)
        return
    start, fresh = load_start_parameters(options, FACTS), make_initial_parameters(2, NARROW, FACTS.seed)
    assert all(torch.equal(start[key], fresh[key] if key == name else taken[key]) for key in fresh)


def test_a_run_that_has_finished_more_epochs_than_are_asked_for_is_left_as_it_is(tmp_path, monkeypatch):
    state = Checkpoint(
        step=7,
        errors=(0.5, 0.4, 0.3),
        recipe=Recipe(),
        data=checkpoints.make_checkpoint_data(FACTS),
        parameters={"w": torch.arange(3.0)},
        velocity={"w": torch.ones(3)},
    )
    checkpoints.save_checkpoint(tmp_path, state)
    monkeypatch.setattr(Checkpoint, "require_network", lambda *_: None)
    before = file_hashes(tmp_path)
    with pytest.raises(TrainError, match=r"`epochs`: received 2, but the run in .* has finished 3; give more"):
        prepare_run(RunOptions(folder=tmp_path, epochs=2, resume=True), FACTS, config="epochs = 2\n")
    assert file_hashes(tmp_path) == before
    prepare_run(RunOptions(folder=tmp_path, epochs=3, resume=True), FACTS, config="epochs = 3\n").close()
