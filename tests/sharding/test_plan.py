"""The plan: a bijection on samples, even shards, a function of keys and seed alone."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexstream.sharding import plan
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.plan import SHARD_BYTES, choose_num_shards, estimate_stored_bytes, order_by_hash, split_evenly

RECIPE = EncodeRecipe()


def order_of(keys, seed, chunk=7):
    """The shuffle of a list, in chunks as a listing has them."""
    chunks = [pa.array(keys[i : i + chunk], pa.string()) for i in range(0, len(keys), chunk)]
    return order_by_hash(pa.chunked_array(chunks), seed).tolist()


@settings(deadline=None)
@given(st.integers(1, 20_000_000), st.sampled_from(["jpeg", "raw", "keep"]), st.integers(224, 1024))
def test_every_shard_is_within_the_size_bounds(num_samples, encoding, size_px):
    encode = EncodeRecipe(encoding=encoding, size_px=size_px)
    shards = choose_num_shards(num_samples, encode)
    assert 1 <= shards <= num_samples
    assert -(-num_samples // shards) * estimate_stored_bytes(encode) <= SHARD_BYTES


@pytest.mark.parametrize(("num_samples", "shards"), [(1, 1), (63, 1), (500, 7), (6_400, 16), (1_281_167, 157)])
def test_number_of_shards_of_known_sets(num_samples, shards):
    assert choose_num_shards(num_samples, RECIPE) == shards


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 50))
def test_shards_cover_every_position_once_and_differ_by_at_most_one(num_samples, shards):
    ranges = split_evenly(num_samples, shards)
    assert [i for r in ranges for i in r] == list(range(num_samples))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@settings(deadline=None)
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


@pytest.mark.parametrize(
    ("encoding", "num_bytes", "shards"),
    [("jpeg", 36_864, 157), ("raw", 196_608, 835), ("keep", 115_000, 489)],
)
def test_shards_of_imagenet_in_each_encoding(encoding, num_bytes, shards):
    """1,281,167 images in shards of at most 8192 · 36,864 bytes: 8192, 1536 or 2625 images each."""
    encode = EncodeRecipe(encoding=encoding)
    assert estimate_stored_bytes(encode) == num_bytes
    assert choose_num_shards(1_281_167, encode) == shards == -(-1_281_167 // (8192 * 36_864 // num_bytes))


@pytest.mark.parametrize(
    ("num_samples", "shards"), [(64, 1), (127, 1), (128, 2), (1023, 15), (1024, 16), (131_073, 17)]
)
def test_small_sets_are_split_up_to_sixteen_shards_of_64(num_samples, shards):
    assert choose_num_shards(num_samples, RECIPE) == shards


def test_no_samples_are_no_shards():
    with pytest.raises(ValueError, match="received 0, expected at least 1"):
        choose_num_shards(0, RECIPE)


def test_the_shuffle_sorts_by_the_hash_of_seed_and_key():
    keys = [f"key{i}" for i in range(200)]
    expected = sorted(keys, key=lambda key: hashlib.sha256(f"alexstream-plan/1:77:{key}".encode()).digest())
    assert [keys[i] for i in order_of(keys, 77)] == expected


def test_keys_of_equal_heads_are_sorted_by_the_rest_of_their_hash(monkeypatch):
    """Where the first eight bytes are equal, which no set in reach has, the others decide; here all heads are equal."""
    keys = [f"key{i}" for i in range(20)]
    monkeypatch.setattr(plan, "_hash_heads", lambda keys, start: np.zeros(len(keys), np.uint64))
    expected = sorted(keys, key=lambda key: hashlib.sha256(f"alexstream-plan/1:77:{key}".encode()).digest())
    assert [keys[i] for i in order_of(keys, 77)] == expected


def test_the_larger_shards_come_first():
    assert [list(r) for r in split_evenly(5, 3)] == [[0, 1], [2, 3], [4]]
    assert [len(r) for r in split_evenly(3, 5)] == [1, 1, 1, 0, 0]
