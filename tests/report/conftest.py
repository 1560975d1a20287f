"""A source of few photographs, some of them twice, and its data set."""

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import call


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Sixteen images of three classes in two splits: one of train twice, under two classes, one of train in val."""
    root = tmp_path_factory.mktemp("source") / "my photos"
    for split, folder, numbers in (
        *(("train", "cat", range(5)), ("train", "dog", (5, 6, 4)), ("train", "fox", (7, 8))),
        *(("val", "cat", (9, 0)), ("val", "dog", (10, 11)), ("val", "fox", (12, 13))),
    ):
        (root / split / folder).mkdir(parents=True)
        for place, number in enumerate(numbers):
            pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(root / split / folder / f"{place}.png")
    return root


@pytest.fixture(scope="session")
def shards(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("set") / "shards"
    assert call("shard", "--src", photos, "--out", out, "--quiet", "--size", 224).exit_code == 0
    return out
