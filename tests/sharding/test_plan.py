"""The plan: a bijection on samples, even shards, a function of keys and seed alone."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.layout import EncodeRecipe
from sharding.plan import SHARD_BYTES, expected_bytes, num_shards, shuffled, split_evenly

RECIPE = EncodeRecipe()


def order_of(keys, seed, chunk=7):
    """The shuffle of a list, in chunks as a listing has them."""
    chunks = [pa.array(keys[i : i + chunk], pa.string()) for i in range(0, len(keys), chunk)]
    return shuffled(pa.chunked_array(chunks), seed).tolist()


@given(st.integers(1, 20_000_000), st.sampled_from(["jpeg", "raw", "keep"]), st.integers(224, 1024))
def test_every_shard_is_within_the_size_bounds(num_samples, encoding, size_px):
    encode = EncodeRecipe(encoding=encoding, size_px=size_px)
    shards = num_shards(num_samples, encode)
    assert 1 <= shards <= num_samples
    assert -(-num_samples // shards) * expected_bytes(encode) <= SHARD_BYTES


@pytest.mark.parametrize(("num_samples", "shards"), [(1, 1), (63, 1), (500, 7), (6_400, 16), (1_281_167, 157)])
def test_number_of_shards_of_known_sets(num_samples, shards):
    assert num_shards(num_samples, RECIPE) == shards


@given(st.integers(1, 5000), st.integers(1, 50))
def test_shards_cover_every_position_once_and_differ_by_at_most_one(num_samples, shards):
    ranges = split_evenly(num_samples, shards)
    assert [i for r in ranges for i in r] == list(range(num_samples))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@given(st.sets(st.text("abc_", min_size=1), min_size=1), st.integers(0, 2**31))
def test_shuffle_is_a_permutation(keys, seed):
    assert sorted(order_of(sorted(keys), seed)) == list(range(len(keys)))


def test_shuffle_depends_on_keys_and_seed_but_not_on_their_listing():
    keys = [f"k{i}" for i in range(100)]
    order = [keys[i] for i in order_of(keys, 1)]
    assert order != keys
    assert order == [keys[::-1][i] for i in order_of(keys[::-1], 1, chunk=13)]
    assert order != [keys[i] for i in order_of(keys, 2)]


def test_shuffle_of_a_known_list_never_changes():
    assert order_of(["a", "b", "c", "d", "e", "f"], 2012) == [2, 5, 3, 1, 0, 4]
