"""Ensembles: what they must have in common, and weights that are the best there are."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer.errors import CheckpointError
from alexstream.trainer.evaluation.ensemble import MAX_GAP_NATS, Ensemble, fit_weights
from alexstream.trainer.evaluation.predictions import predict_top_classes
from alexstream.trainer.network.geometry import make_initial_parameters
from alexstream.trainer.recipe import Recipe
from tests.support.logit_images import checkpoint


def saved(folder, **data):
    folder.mkdir()
    return checkpoints.save_checkpoint(folder, checkpoint(**data)).parent


def loss(log_p, weights):
    return -np.log(np.asarray(weights) @ np.exp(log_p)).mean()


def test_checkpoints_of_one_kind_are_averaged_with_equal_weights(tmp_path):
    ensemble = Ensemble.load([saved(tmp_path / "a"), saved(tmp_path / "b")])
    assert ensemble.equal_weights == (0.5, 0.5) and ensemble.augmentation == "paper"


@pytest.mark.parametrize(
    ("data", "both"),
    [
        ({"classes": list("ab")}, "2 names.*7 names"),
        ({"classes": list("abcdefx")}, "'x' as number 6.*'g'"),
        ({"augmentation": "original"}, "original.*paper"),
        ({"train_digest": "d2"}, "d2.*d1"),
    ],
)
def test_checkpoints_that_differ_are_refused_with_one_line_that_names_both(tmp_path, data, both):
    with pytest.raises(CheckpointError, match=both) as refused:
        Ensemble.load([saved(tmp_path / "a"), saved(tmp_path / "b", **data)])
    message = str(refused.value)
    assert "\n" not in message and str(tmp_path / "a") in message and str(tmp_path / "b") in message


def test_a_long_text_of_a_checkpoint_is_not_repeated_in_the_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"train_digest = d1, but .* with 'xxx") as refused:
        Ensemble.load([saved(tmp_path / "a", train_digest="x" * 1_000_000), saved(tmp_path / "b")])
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda tensors: tensors.clear(), "parameter 'conv1.weight' is missing, expected (12, 3, 11, 11)"),
        (lambda tensors: tensors.pop("fc8.bias"), "parameter 'fc8.weight' is (7, 512), expected (1, 512)"),
        (lambda tensors: tensors.update({"fc7.bias": torch.ones(1)}), "parameter 'fc7.bias' is (1,), expected (512,)"),
        (
            lambda tensors: tensors.update({"x\n": torch.ones(1)}),
            r"parameter 'x\n' is (1,), expected none of that name",
        ),
        (
            lambda tensors: tensors.update({"fc8.bias": torch.ones(2), "fc8.weight": torch.ones(2, 512)}),
            "has 2 outputs for 7 classes",
        ),
    ],
    ids=["none", "one missing", "another shape", "one more", "fewer classes"],
)
def test_parameters_that_are_no_network_are_refused_before_it_is_made(change, match, tmp_path):
    """Every checksum is right: the file is a stranger's."""
    state = replace(checkpoint(), recipe=Recipe(width=0.125))
    tensors = make_initial_parameters(7, state.recipe, seed=0)
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    good = checkpoints.save_checkpoint(tmp_path / "good", replace(state, parameters=dict(tensors)))
    assert len(Ensemble.load([good]).build_models(torch.device("cpu"))) == 1
    change(tensors)
    bad = checkpoints.save_checkpoint(tmp_path / "bad", replace(state, parameters=tensors))
    with pytest.raises(CheckpointError, match=re.escape(match)) as refused:
        Ensemble.load([bad]).build_models(torch.device("cpu"))
    assert str(refused.value).startswith(f"{bad}: ") and str(refused.value).isprintable()


def test_a_velocity_of_another_network_is_refused():
    state = replace(checkpoint(), recipe=Recipe(width=0.125))
    tensors = make_initial_parameters(7, state.recipe, seed=0)
    replace(state, parameters=tensors, velocity=tensors).require_network(Path("c.pt"))
    with pytest.raises(CheckpointError, match=r"velocity 'conv1.bias' is missing, expected \(12,\)"):
        other = {name: tensor for name, tensor in tensors.items() if name != "conv1.bias"}
        replace(state, parameters=tensors, velocity=other).require_network(Path("c.pt"))


def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        Ensemble.load([Path(tmp_path / "none.pt")])


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 5), st.integers(1, 60), st.integers(0, 1000))
def test_fitted_weights_are_on_the_simplex_and_at_least_as_good_as_equal_ones(models, images, seed):
    log_p = -np.random.default_rng(seed).exponential(2.0, (models, images))
    weights = fit_weights(log_p)
    assert min(weights) >= 0 and sum(weights) == pytest.approx(1)
    assert loss(log_p, weights) <= loss(log_p, np.full(models, 1 / models)) + 1e-12
    assert weights == fit_weights(log_p)


def test_fitted_weights_of_two_models_are_the_best_of_a_fine_grid():
    log_p = -np.random.default_rng(3).exponential([[1.0], [1.5]], (2, 200))
    grid = min(loss(log_p, (w, 1 - w)) for w in np.linspace(0, 1, 10_001))
    assert loss(log_p, fit_weights(log_p)) <= grid + MAX_GAP_NATS


def test_a_model_that_is_never_better_gets_nothing():
    log_p = np.log([[0.5, 0.6, 0.7], [0.1, 0.1, 0.1]])
    assert fit_weights(log_p) == pytest.approx((1, 0), abs=1e-4)
    with pytest.raises(ValueError, match="no images"):
        fit_weights(np.zeros((2, 0)))


def test_finite_weights_that_are_too_large_are_an_error_that_names_their_checkpoint(tmp_path):
    """They would be said to predict nan %, with an exit code of 0."""
    state = replace(checkpoint(), recipe=Recipe(width=0.125))
    tensors = make_initial_parameters(7, state.recipe, seed=0)
    huge = {**tensors, "conv1.weight": torch.full_like(tensors["conv1.weight"], 3e38)}
    paths = [tmp_path / "good", tmp_path / "huge"]
    for path, held in zip(paths, (tensors, huge), strict=True):
        path.mkdir()
        checkpoints.save_checkpoint(path, replace(state, parameters=held))
    good, bad = Ensemble.load(paths).build_models(torch.device("cpu"))
    images = torch.ones(1, 3, 224, 224)
    assert predict_top_classes([good], images)[1][0] > 0
    with pytest.raises(CheckpointError, match=r"huge: what its network says of an image is not a number"):
        predict_top_classes([good, bad], images)
