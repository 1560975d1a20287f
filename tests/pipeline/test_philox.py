"""Philox4x32-10 against the known answers that its authors publish with Random123, and against a form in NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexstream.pipeline.sampling.philox import philox4x32, sample_words, sort_keys
from alexstream.pipeline.transforms.augment import (
    PAPER,
    PURPOSE_CROP,
    PURPOSE_LIGHTING,
    Augmenter,
    standard_normals,
    uniform_below,
)

SEEDS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, -1])
IDS = st.lists(st.integers(-1, 2**40), max_size=40).map(lambda ids: np.array(ids, np.int64))


def reference(key, counters):
    """The generator in NumPy, a round a time: uint32 (n, 4) → uint32 (n, 4)."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def reference_words(seed, epoch, ids, purpose):
    counters = [[i & 0xFFFFFFFF, (i >> 32) & 0xFFFFFFFF, epoch, purpose] for i in ids.tolist()]
    return reference(seed, np.array(counters, np.uint32).reshape(-1, 4))


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_known_answers(counter, key, words):
    assert philox4x32(key, np.array([counter], np.uint32))[0].tolist() == words


def test_words_depend_on_each_of_seed_epoch_id_and_purpose():
    def words(seed=1, epoch=2, sample=3, purpose=4):
        return tuple(sample_words(seed, np.array([epoch]), np.array([sample]), purpose)[0])

    variants = {words(), words(seed=9), words(epoch=9), words(sample=9), words(sample=3 + 2**32), words(purpose=9)}
    assert len(variants) == 6


@settings(deadline=None)  # the first call of compiled code compiles or loads it
@given(SEEDS, st.integers(0, 2**31), IDS, st.integers(0, 9))
def test_the_compiled_words_are_those_of_the_form_in_numpy(seed, epoch, ids, purpose):
    expected = reference_words(seed, epoch, ids, purpose)
    assert np.array_equal(sample_words(seed, np.full_like(ids, epoch), ids, purpose), expected)
    keys = expected[:, 0].astype(np.uint64) << np.uint64(32) | expected[:, 1]
    assert np.array_equal(sort_keys(seed, epoch, ids, purpose), keys)


def test_a_million_words_are_those_of_the_form_in_numpy():
    counters = np.random.default_rng(1).integers(0, 2**32, (1_000_000, 4), dtype=np.uint32)
    before = counters.copy()
    assert np.array_equal(philox4x32(2**63 + 5, counters), reference(2**63 + 5, counters))
    assert np.array_equal(counters, before)


def test_draws_are_to_the_bit_those_of_the_form_in_numpy():
    matrix = np.array([[3.0, -1.0, 0.5], [2.0, 0.25, -4.0], [1.0, 7.0, 0.125]])
    augmenter = Augmenter(augmentation=PAPER, seed=2**63 + 9, margin_px=32, matrix_CC=matrix)
    ids = np.arange(100_000)
    draws = augmenter.draw(np.full_like(ids, 57), ids)
    crop, light = (reference_words(augmenter.seed, 57, ids, p) for p in (PURPOSE_CROP, PURPOSE_LIGHTING))
    assert draws.yx_N2.tobytes() == uniform_below(crop[:, :2], 33).tobytes()
    assert draws.flip_N.tobytes() == (crop[:, 2] >> 31).astype(np.int32).tobytes()
    assert draws.rgb_N3.tobytes() == (standard_normals(light) @ matrix.T).astype(np.float32).tobytes()
