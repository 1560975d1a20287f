"""Ensembles: what they must have in common, and weights that are the best there are."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.spoken import checkpoint
from trainer import checkpoint as checkpoints
from trainer.ensemble import GAP, Ensemble, fit_weights
from trainer.errors import CheckpointError


def saved(folder, **data):
    folder.mkdir()
    return checkpoints.save(folder, checkpoint(**data)).parent


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
    assert loss(log_p, fit_weights(log_p)) <= grid + GAP


def test_a_model_that_is_never_better_gets_nothing():
    log_p = np.log([[0.5, 0.6, 0.7], [0.1, 0.1, 0.1]])
    assert fit_weights(log_p) == pytest.approx((1, 0), abs=1e-4)
    with pytest.raises(ValueError, match="no images"):
        fit_weights(np.zeros((2, 0)))
