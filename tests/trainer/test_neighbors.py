"""Neighbours of queries from two splits, on made-up features: who is asked about, who is found, and how it is told."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from alexstream.pipeline.batch import Batch
from alexstream.trainer.errors import CheckpointError, TrainError
from alexstream.trainer.evaluation.neighbors import Split, choose_queries, find_neighbors

CPU = torch.device("cpu")
CLASSES = ("ant", "bee")


@dataclass(frozen=True)
class Points:
    """A split whose images are its features; its own catalog and its own data."""

    prefix: str
    features_ND: torch.Tensor

    @property
    def keys(self):
        return np.array([f"{self.prefix}{i}" for i in range(len(self.features_ND))], object)

    def find(self, key):
        keys = self.keys.tolist()
        return keys.index(key) if key in keys else None

    def label(self, sample):
        return sample % 2

    def pixels(self, sample):
        return np.full((8, 8, 3), sample, np.uint8)

    def validation(self, part, exchange, device, views=1):
        count = len(self.features_ND)
        for start in range(0, count, 2):
            ids = torch.arange(start, start + 2)
            rows = ids.clamp(max=count - 1)
            ids = torch.where(ids < count, ids, -1)
            yield Batch(images_NCHW=self.features_ND[rows], labels_N=ids, ids_N=ids)


class Model:
    """Features are twice the image."""

    def features(self, images):
        return 2 * images


def split(name, points):
    made = Points(name[0], torch.tensor(points))
    return Split(name=name, catalog=made, data=made)


TRAIN = split("train", [[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [9.0, 9.0], [0.5, 0.0]])
VAL = split("val", [[8.0, 9.0], [0.0, 0.4], [3.0, 4.0]])


def test_queries_of_two_splits_keep_their_order():
    queries = [(VAL, 2), (TRAIN, 3), (VAL, 0), (TRAIN, 0)]
    found = find_neighbors(Model(), TRAIN, queries, CLASSES, 2, CPU, quiet=True)
    assert [(one.query.split.name, one.query.key) for one in found] == [
        ("val", "v2"),
        ("train", "t3"),
        ("val", "v0"),
        ("train", "t0"),
    ]
    assert [[near.key for near in one.nearest] for one in found] == [
        ["t1", "t2"],
        ["t3", "t1"],
        ["t3", "t1"],
        ["t0", "t4"],
    ]
    # Twice the distances of the points: 0 and √(9 + 9), as 3 - 0 and 4 - 1.
    assert [near.distance for near in found[0].nearest] == pytest.approx([0, 2 * 18**0.5])
    assert [near.distance for near in found[3].nearest] == pytest.approx([0, 1])


def test_what_was_found_as_lines_json_and_pictures():
    (found,) = find_neighbors(Model(), TRAIN, [(VAL, 1)], CLASSES, 2, CPU, quiet=True)
    assert found.to_text().splitlines() == ["val v1  bee (1)", "      0.8000  t0  ant (0)", "       1.200  t2  ant (0)"]
    query = {"split": "val", "key": "v1", "label": 1, "class": "bee"}
    near = [{"split": "train", "key": key, "label": 0, "class": "ant"} for key in ("t0", "t2")]
    distances = [one.pop("distance") for one in found.to_dict()["nearest"]]
    assert distances == pytest.approx([0.8, 1.2])
    assert found.to_dict() == {
        "query": query,
        "nearest": [{**one, "distance": far} for one, far in zip(near, distances, strict=True)],
    }
    asked, shown = found.pictures()
    assert asked.lines == ("bee", "v1") and [one.lines for one in shown] == [("ant", "0.8000"), ("ant", "1.200")]
    assert asked.pixels_SSC[0, 0, 0] == 1 and [one.pixels_SSC[0, 0, 0] for one in shown] == [0, 2]


def test_queries_are_looked_for_in_one_split_after_the_other():
    assert choose_queries([VAL, TRAIN], ("t4", "v1"), 9, 0) == [(TRAIN, 4), (VAL, 1)]
    with pytest.raises(TrainError, match=r"received 'x', which is no sample of val or train; .* such as 'v0'"):
        choose_queries([VAL, TRAIN], ("x",), 9, 0)
    drawn = choose_queries([TRAIN, VAL], (), 3, 0)
    assert all(its is TRAIN for its, _ in drawn) and len({i for _, i in drawn}) == 3
    assert {tuple(i for _, i in choose_queries([TRAIN, VAL], (), 3, seed)) for seed in range(9)} != {
        tuple(i for _, i in drawn)
    }


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_have_no_neighbours(wrong):
    bad = split("train", [[0.0, 0.0], [wrong, 4.0]])
    for training, queries in ((bad, [(VAL, 0)]), (TRAIN, [(bad, 1)])):
        with pytest.raises(CheckpointError, match="activations are not numbers; take an older checkpoint"):
            find_neighbors(Model(), training, queries, CLASSES, 1, CPU, quiet=True)
