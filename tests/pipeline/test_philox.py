"""Philox4x32-10 against the known answers that its authors publish with Random123."""

import numpy as np
import pytest

from pipeline.philox import philox4x32, sample_words


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
