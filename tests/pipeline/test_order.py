"""The orders: every sample once an epoch, new in every epoch, a function of seed and step; and fair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexstream.pipeline.sampling.order import PADDING, Order, evaluation_batch, training_batch
from alexstream.pipeline.sampling.shuffle import sorted_by
from tests.pipeline.order_checks import (
    check_neighbours,
    check_places,
    check_places_in_group,
    check_shards,
    check_whole_groups,
)

UNEVEN = (4, 1, 3, 2)
UNTIMED = settings(deadline=None)  # the first call of compiled code compiles or loads it


@st.composite
def orders(draw, max_samples=300):
    """Either kind, any shard sizes, any group."""
    sizes = draw(st.lists(st.integers(0, max_samples // 6), min_size=1, max_size=6).filter(any))
    return Order(
        num_samples=sum(sizes),
        seed=draw(st.integers(0, 2**64 - 1)),
        kind=draw(st.sampled_from(("global", "grouped"))),
        shard_sizes=tuple(sizes),
        group_shards=draw(st.integers(1, 8)),
    )


def both(num_samples, seed):
    """Both kinds; the shards are of ten samples, the last is smaller."""
    sizes = tuple(min(10, num_samples - start) for start in range(0, num_samples, 10))
    grouped = Order(num_samples=num_samples, seed=seed, kind="grouped", shard_sizes=sizes, group_shards=2)
    return Order(num_samples=num_samples, seed=seed), grouped


@UNTIMED
@given(orders(), st.integers(0, 100))
def test_an_epoch_is_a_permutation(order, epoch):
    assert sorted(order.epoch(epoch)) == list(range(order.num_samples))


@UNTIMED
@given(orders(max_samples=60), st.integers(1, 130))
def test_every_sample_comes_exactly_once_an_epoch_whatever_the_batch_size(order, batch_size):
    steps = -(-3 * order.num_samples // batch_size)
    parts = [order.batch(batch_size, step) for step in range(steps)]
    epochs, ids, places = (np.concatenate(column) for column in zip(*parts, strict=True))
    assert [part.dtype for part in parts[0]] == [np.int64] * 3 and len(ids) == steps * batch_size
    for epoch in range(3):
        assert sorted(ids[epochs == epoch]) == list(range(order.num_samples))
        assert places[epochs == epoch].tolist() == list(range(order.num_samples))
        assert np.array_equal(order.epoch(epoch), ids[epochs == epoch])


@UNTIMED
@given(orders(), st.integers(0, 20))
def test_a_group_is_whole_shards(order, epoch):
    if order.kind == "global":
        return
    shard_of = np.repeat(np.arange(len(order.shard_sizes)), order.shard_sizes)[order.epoch(epoch)]
    first, last = (np.array([f(np.flatnonzero(shard_of == s)) for s in set(shard_of)]) for f in (np.min, np.max))
    in_use = [int(((first <= place) & (place <= last)).sum()) for place in range(order.num_samples)]
    assert max(in_use) <= order.group_shards


def test_orders_differ_between_epochs_seeds_and_kinds_and_from_the_catalog():
    kinds = [order for seed in (1, 2) for order in both(50, seed)]
    found = {tuple(order.epoch(epoch)) for order in kinds for epoch in (1, 2)}
    assert len(found | {tuple(range(50))}) == 9


def test_known_orders_never_change():
    known = Order(num_samples=10, seed=42)
    assert known.epoch(0).tolist() == [6, 9, 5, 4, 7, 8, 0, 3, 2, 1]
    assert known.epoch(1).tolist() == [0, 9, 3, 1, 2, 7, 5, 6, 8, 4]
    grouped = Order(num_samples=10, seed=42, kind="grouped", shard_sizes=UNEVEN, group_shards=2)
    assert grouped.epoch(0).tolist() == [4, 7, 5, 6, 8, 9, 3, 0, 1, 2]
    assert grouped.epoch(1).tolist() == [7, 5, 6, 4, 1, 9, 3, 2, 0, 8]


def test_an_order_cannot_be_changed_by_its_reader():
    for order in both(10, 0):
        with pytest.raises(ValueError, match="read-only"):
            order.epoch(0)[0] = 5


def test_a_training_batch_is_the_global_orders():
    epochs, ids = training_batch(50, 16, 7, 3)
    expected = Order(num_samples=50, seed=7).batch(16, 3)
    assert epochs.tolist() == [0, 0, *[1] * 14] and np.array_equal(ids, expected[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sorted"}, "kind"),
        ({"num_samples": 0}, "num_samples"),
        ({"group_shards": 0}, "group_shards"),
        ({"kind": "grouped"}, "shard_sizes"),
        ({"kind": "grouped", "shard_sizes": (4, 7)}, "2 sizes, together 11"),
        ({"kind": "grouped", "shard_sizes": (11, -1)}, "shard_sizes"),
    ],
)
def test_what_is_no_order_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Order(**{"num_samples": 10, "seed": 0, **changes})


def test_the_last_evaluation_batch_is_filled_up():
    assert [evaluation_batch(5, 2, step).tolist() for step in range(3)] == [[0, 1], [2, 3], [4, PADDING]]


@UNTIMED
@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**41, 2**64 - 1]), max_size=60))
def test_the_sort_is_numpys_stable_sort(keys):
    ids = np.arange(100, 100 + len(keys))
    keys = np.array(keys, np.uint64)
    assert np.array_equal(sorted_by(keys.copy(), ids), ids[np.argsort(keys, kind="stable")])


EPOCHS, SHARD, GROUP = 4000, 4, 3
GROUPED = Order(num_samples=48, seed=1, kind="grouped", shard_sizes=(SHARD,) * 12, group_shards=GROUP)


def rows(order, num_epochs=EPOCHS):
    return np.stack([order.epoch(epoch) for epoch in range(num_epochs)])


@pytest.fixture(scope="module")
def grouped_rows():
    return rows(GROUPED)


def test_in_the_global_order_every_place_is_equally_likely():
    check_places(rows(Order(num_samples=40, seed=1)))


def test_in_the_grouped_order_too_over_the_epochs(grouped_rows):
    check_places_in_group(grouped_rows, shard_size=48, group_shards=1)  # as if it were one group


def test_neighbours_do_not_stay_neighbours_in_the_global_order():
    check_neighbours(rows(Order(num_samples=1000, seed=1), 200))


def test_groups_are_whole_shards_drawn_fairly_and_samples_are_mixed_fairly_in_them(grouped_rows):
    check_whole_groups(grouped_rows, SHARD, GROUP)
    check_shards(grouped_rows, SHARD, GROUP)
    check_places_in_group(grouped_rows, SHARD, GROUP)


def test_a_naive_shuffle_is_noticed():
    """The well-known mistake: each place swaps with any place, not with those still to come."""
    random, orders_EN = np.random.default_rng(1), np.tile(np.arange(40), (EPOCHS, 1))
    for row in orders_EN:
        for i, j in enumerate(random.integers(0, 40, 40)):
            row[i], row[j] = row[j], row[i]
    with pytest.raises(AssertionError, match="places are not equally likely"):
        check_places(orders_EN)


def test_an_order_that_only_permutes_runs_of_samples_is_noticed():
    """Every place is equally likely, but samples travel in fours."""
    fours = rows(Order(num_samples=250, seed=1), 200)
    with pytest.raises(AssertionError, match="stay neighbours"):
        check_neighbours((fours[:, :, None] * 4 + np.arange(4)).reshape(200, 1000))


def regrouped(shards_ES, within_ES):
    """A grouped order made of shard permutations and of permutations of the places in a group."""
    ids = (shards_ES[:, :, None] * SHARD + np.arange(SHARD)).reshape(len(shards_ES), -1, SHARD * GROUP)
    return np.take_along_axis(ids, within_ES, axis=2).reshape(len(shards_ES), -1)


@pytest.fixture(scope="module")
def parts():
    """Right parts for ``regrouped``: permutations of 12 shards, and of 12 places in each of four groups."""
    random = np.random.default_rng(1)
    shards = np.argsort(random.random((EPOCHS, 12)), axis=1)
    return shards, np.argsort(random.random((EPOCHS, 4, SHARD * GROUP)), axis=2)


def test_the_parts_of_the_broken_orders_are_sound_themselves(parts):
    check_whole_groups(regrouped(*parts), SHARD, GROUP)
    check_shards(regrouped(*parts), SHARD, GROUP)
    check_places_in_group(regrouped(*parts), SHARD, GROUP)


def test_shards_that_stay_in_catalog_order_are_noticed(parts):
    with pytest.raises(AssertionError, match="not equally likely"):
        check_shards(regrouped(np.tile(np.arange(12), (EPOCHS, 1)), parts[1]), SHARD, GROUP)


def test_shards_that_always_share_a_group_are_noticed(parts):
    groups = np.argsort(np.random.default_rng(2).random((EPOCHS, 4)), axis=1)
    with pytest.raises(AssertionError, match="share a group"):
        check_shards(regrouped((groups[:, :, None] * GROUP + np.arange(GROUP)).reshape(-1, 12), parts[1]), SHARD, GROUP)


def test_samples_that_are_only_permuted_within_their_shard_are_noticed(parts):
    within = np.tile(np.arange(SHARD * GROUP), (EPOCHS, 4, 1))
    with pytest.raises(AssertionError, match="not equally likely"):
        check_places_in_group(regrouped(np.sort(parts[0], axis=1), within), SHARD, GROUP)


def test_samples_that_leave_their_group_are_noticed(parts):
    with pytest.raises(AssertionError, match="parts of shards"):
        check_whole_groups(np.roll(regrouped(*parts), 1, axis=1), SHARD, GROUP)
