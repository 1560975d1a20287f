"""The order: every sample once an epoch, new in every epoch, a function of seed and step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import PADDING, epoch_order, evaluation_batch, training_batch


@given(st.integers(1, 300), st.integers(0, 2**63), st.integers(0, 100))
def test_an_epoch_is_a_permutation(num_samples, seed, epoch):
    assert sorted(epoch_order(num_samples, seed, epoch)) == list(range(num_samples))


@given(st.integers(1, 60), st.integers(1, 50))
def test_every_sample_comes_exactly_once_an_epoch_whatever_the_batch_size(num_samples, batch_size):
    steps = -(-3 * num_samples // batch_size)
    parts = [training_batch(num_samples, batch_size, 7, step) for step in range(steps)]
    epochs, ids = (np.concatenate(column) for column in zip(*parts, strict=True))
    for epoch in range(3):
        assert sorted(ids[epochs == epoch]) == list(range(num_samples))


def test_orders_differ_between_epochs_and_seeds_and_from_the_catalog():
    orders = [tuple(epoch_order(50, seed, epoch)) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert len({*orders, tuple(range(50))}) == 4


def test_a_known_order_never_changes():
    assert epoch_order(10, 42, 0).tolist() == [6, 9, 5, 4, 7, 8, 0, 3, 2, 1]
    assert epoch_order(10, 42, 1).tolist() == [0, 9, 3, 1, 2, 7, 5, 6, 8, 4]


def test_an_order_cannot_be_changed_by_its_reader():
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(10, 0, 0)[0] = 5


def test_the_last_evaluation_batch_is_filled_up():
    assert [evaluation_batch(5, 2, step).tolist() for step in range(3)] == [[0, 1], [2, 3], [4, PADDING]]
