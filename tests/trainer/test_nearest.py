"""Nearest neighbours: the search in blocks is the search over everything, ties and padding included."""

import numpy as np
import pytest
import torch

from alexstream.pipeline.batch import Batch
from alexstream.trainer.evaluation.nearest import choose_by_hash, collect_features, find_nearest


def batches(points_ND, size=4):
    """Points as images, the last batch filled up with copies of the first point."""
    for start in range(0, len(points_ND), size):
        ids = torch.arange(start, start + size)
        real = ids < len(points_ND)
        rows = torch.where(real, ids, 0)
        ids = torch.where(real, ids, -1)
        yield Batch(images_NCHW=points_ND[rows], labels_N=ids, ids_N=ids)


def identity(images):
    return images


@pytest.fixture(scope="module")
def points():
    return torch.from_numpy(np.random.default_rng(0).integers(-3, 4, (53, 6)).astype(np.float32))


@pytest.mark.parametrize("size", [1, 4, 53, 100])
def test_the_search_in_blocks_is_brute_force(points, size):
    """Small whole numbers, so that many distances are equal: then the lower id comes first."""
    queries = points[10:15] + 0.0
    ids, distances = find_nearest(identity, batches(points, size), queries, 7)
    everything = np.sqrt(((queries.numpy()[:, None] - points.numpy()[None]).astype(np.float64) ** 2).sum(-1))
    expected = np.argsort(everything, axis=1, kind="stable")[:, :7]
    assert ids.tolist() == expected.tolist()
    assert np.allclose(distances, np.take_along_axis(everything, expected, 1), rtol=1e-14)


def test_a_sample_finds_itself_first_at_no_distance(points):
    queries = collect_features(identity, batches(points), [20, 3])
    ids, distances = find_nearest(identity, batches(points), queries, 1)
    equal = [int(torch.nonzero((points == points[i]).all(1))[0]) for i in (20, 3)]
    assert ids[:, 0].tolist() == equal and distances.tolist() == [[0.0], [0.0]]


def test_padding_is_never_found_and_all_there_is_is_enough(points):
    ids, _ = find_nearest(identity, batches(points[:5]), points[:1], 9)
    assert sorted(ids[0].tolist()) == [0, 1, 2, 3, 4]


def test_features_come_in_the_order_asked_for_and_only_from_batches_that_hold_them(points):
    seen = []

    def features(images):
        seen.append(len(images))
        return 2 * images

    assert torch.equal(collect_features(features, batches(points), [30, 1, 31]), 2 * points[[30, 1, 31]])
    assert len(seen) == 2
    with pytest.raises(ValueError, match="99"):
        collect_features(identity, batches(points), [99])


def test_a_choice_is_without_repeats_depends_on_the_seed_and_grows():
    assert choose_by_hash(1000, 5, "a") == choose_by_hash(1000, 20, "a")[:5] != choose_by_hash(1000, 5, "b")
    assert sorted(choose_by_hash(10, 99, "a")) == list(range(10))
    assert choose_by_hash(1000, 3, "queries:0") == [511, 204, 521]  # on every machine
