"""Which samples a step takes, with what draws, and what comes in where one is passed over."""

import logging
import shutil
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alexstream.pipeline import batch_plan as steps_module
from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.batch_plan import (
    RecentPlans,
    SkippedSamples,
    make_evaluation_planner,
    make_training_planner,
    upcoming_shards,
)
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.damage import DamagedSample
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from tests.support.damaged_samples import damage_sample
from tests.support.known_statistics import STATS


class Samples:
    """As many labels as an open data set has: 100 + id; ten samples a shard."""

    def __init__(self, count):
        self.label_N = 100 + np.arange(count)
        self.shard_N = np.arange(count) // 10

    def __len__(self):
        return len(self.label_N)


def augmenter(recipe="paper"):
    return Preprocessing(
        recipe=AUGMENTATIONS[recipe], stats=STATS, mean_image_HWC=np.zeros((256, 256, 3))
    ).make_augmenter(1, 256)


def skipped(*samples):
    passed = SkippedSamples()
    passed.add([DamagedSample(sample=one, shard="train-000000", key=f"key{one}", what="is broken") for one in samples])
    return passed


def evaluated(count, batch_size, *left_out, part=BatchSlice()):
    """All steps of a validation."""
    step, steps = make_evaluation_planner(Samples(count), augmenter("none"), batch_size, part, skipped(*left_out)), []
    try:
        while True:
            steps.append(step(len(steps)))
    except StopIteration:
        return steps


@pytest.mark.parametrize(("count", "batch_size", "batches"), [(16, 8, 2), (17, 8, 3), (15, 8, 2), (8, 8, 1), (1, 8, 1)])
def test_validation_ends_with_the_batch_that_holds_the_last_sample(count, batch_size, batches):
    steps = evaluated(count, batch_size)
    assert len(steps) == batches
    ids = np.concatenate([step.ids_N for step in steps])
    assert ids.tolist() == [*range(count)] + [-1] * (batches * batch_size - count)
    labels = np.concatenate([step.labels_N for step in steps])
    assert labels.tolist() == [*range(100, 100 + count)] + [-1] * (batches * batch_size - count)
    assert all(0 <= read < count for step in steps for read in step.read_N)


def test_validation_of_a_full_set_gives_no_batch_of_padding(sample_shards):
    """Sixteen samples in batches of eight, through the stream."""
    data = ShardedData(train=sample_shards / "train", val=sample_shards / "val", batch_size=8)
    assert [batch.ids_N.tolist() for batch in data.validation()] == [[*range(8)], [*range(8, 16)]]


def test_validation_leaves_a_passed_over_sample_out_and_reads_one_that_exists():
    (first, second) = evaluated(12, 8, 0, 9)
    assert first.ids_N.tolist() == [-1, 1, 2, 3, 4, 5, 6, 7] and second.ids_N.tolist() == [8, -1, 10, 11] + [-1] * 4
    assert first.read_N.tolist() == [1, 1, 2, 3, 4, 5, 6, 7], "0 is passed over: it must not be read again"
    assert second.labels_N.tolist() == [108, -1, 110, 111] + [-1] * 4
    assert not {0, 9} & set(np.concatenate([first.read_N, second.read_N]).tolist())


def test_parts_of_a_validation_are_those_of_the_batch():
    parts = [evaluated(12, 8, part=BatchSlice(index=i, count=2)) for i in range(2)]
    for step, whole in enumerate(evaluated(12, 8)):
        assert np.concatenate([one[step].ids_N for one in parts]).tolist() == whole.ids_N.tolist()


def test_a_replaced_sample_has_the_draws_of_the_one_that_came_in():
    """Its crop, flip and light are those that it has in this epoch anyway, not those of the damaged one."""
    order = Order(num_samples=20, seed=1)
    steps = make_training_planner(Samples(20), augmenter(), order, 20, BatchSlice(), skipped(3, 4, 19))
    epochs, ids, _ = order.batch(20, 2)
    step = steps(2)
    expected = [{3: 5, 4: 5, 19: 0}.get(one, one) for one in ids.tolist()]
    assert step.ids_N.tolist() == step.read_N.tolist() == expected
    assert step.labels_N.tolist() == [100 + one for one in expected]
    draws = augmenter().draw(epochs, np.array(expected))
    assert step.draws.yx_N2.tolist() == draws.yx_N2.tolist() and step.draws.flip_N.tolist() == draws.flip_N.tolist()
    assert step.draws.rgb_N3.tolist() == draws.rgb_N3.tolist()
    damaged = augmenter().draw(epochs, ids)
    assert step.draws.yx_N2.tolist() != damaged.yx_N2.tolist(), "else this would show nothing"


def test_pixels_of_a_replaced_place_are_those_of_the_sample_that_came_in(sample_shards, tmp_path):
    copy = shutil.copytree(sample_shards / "train", tmp_path / "train")
    sound = next(ShardedData(train=copy, batch_size=67).training())
    damage_sample(copy, 3)
    stream = ShardedData(train=copy, batch_size=67, on_bad_sample="skip").training()
    batch = next(stream)
    place, fourth = (int((sound.ids_N == one).nonzero()) for one in (3, 4))
    assert int(batch.ids_N[place]) == 4
    assert torch.equal(batch.images_NCHW[place], sound.images_NCHW[fourth])


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_a_set_without_a_sound_sample_is_an_error(samples, monkeypatch):
    monkeypatch.setattr(steps_module, "count", lambda begin: iter(range(begin, begin + 100)))  # no search without end
    passed = skipped(*range(samples))
    with pytest.raises(StreamError, match=f"all {samples} samples are damaged; restore the shards"):
        passed.replaced(np.array([0]), samples)
    steps = make_training_planner(
        Samples(samples), augmenter(), Order(num_samples=samples, seed=1), 4, BatchSlice(), passed
    )
    with pytest.raises(StreamError, match="are damaged"):
        steps(0)


def test_the_last_sound_sample_takes_every_place():
    assert skipped(0, 1, 3).replaced(np.array([0, 1, 2, 3]), 4).tolist() == [2, 2, 2, 2]
    assert skipped().replaced(np.array([3, 1]), 4).tolist() == [3, 1]


def test_each_damaged_sample_is_counted_and_logged_once(caplog):
    with caplog.at_level(logging.WARNING):
        passed = skipped(7, 2)
    assert len(passed) == 2 and 7 in passed and 2 in passed and 3 not in passed
    assert [record.getMessage() for record in caplog.records] == [
        "sample key7 in train-000000.tar is damaged; skipped (2 so far)",
        "sample key2 in train-000000.tar is damaged; skipped (2 so far)",
    ]


def test_all_steps_under_way_are_searched():
    """DALI names no sample that it refuses, and is several batches ahead of what was taken."""
    asked = []

    def steps(number):
        asked.append(number)
        return SimpleNamespace(ids_N=np.array([10 * number, 10 * number + 1]))

    given = RecentPlans(steps, 5, keep=3)
    assert given.samples() == set()
    given(0)
    given(1)
    assert given.samples() == {50, 51, 60, 61}
    given(2)
    assert given(3).ids_N.tolist() == [80, 81]
    assert given.samples() == {60, 61, 70, 71, 80, 81} and asked == [5, 6, 7, 8]


@pytest.mark.parametrize("decoder", ["auto", "dali", "threads"])
@pytest.mark.parametrize("prefetch", [1, 4])
def test_damage_in_the_first_of_several_prefetched_batches_is_named(sample_shards, tmp_path, decoder, prefetch):
    copy = shutil.copytree(sample_shards / "train", tmp_path / "train")
    data = ShardedData(train=copy, batch_size=4, prefetch=prefetch, decoder=decoder)
    first = next(data.training()).ids_N.tolist()
    key = damage_sample(copy, first[0])
    with pytest.raises(StreamError, match=rf"sample {key} in train-000000\.tar has changed since it was written"):
        list(islice(data.training(), 10))


def test_the_shards_to_come_are_those_of_the_steps():
    step = make_evaluation_planner(Samples(25), augmenter("none"), 10, BatchSlice(), SkippedSamples())
    assert [shards.tolist() for shards in upcoming_shards(Samples(25), step, 1)] == [[1] * 10, [2] * 5 + [0] * 5]


def test_draws_of_blocks_go_by_the_place_in_the_order():
    """``original`` draws by place in the order: the block changes between places 31 and 32, wherever a batch begins."""
    order = Order(num_samples=100, seed=3)
    steps = make_training_planner(Samples(100), augmenter("original"), order, 16, BatchSlice(index=1, count=2))
    corners = [steps(number).draws.yx_N2.tolist() for number in range(6)]
    assert corners[0] == corners[1] and corners[2] == corners[3] and corners[1] != corners[2]
    assert all(len(corner) == 8 and corner == corner[:1] * 8 for corner in corners)
    whole = order.epoch(0)
    assert steps(3).ids_N.tolist() == whole[56:64].tolist()
