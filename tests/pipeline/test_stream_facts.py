"""What belongs together in a stream: the tensors of a batch, keys and samples, splits, a position and its data set."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from alexstream.pipeline.batch import BatchSlice, CropBatch
from alexstream.pipeline.batch_plan import SkippedSamples, make_training_planner
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.damage import locate_damaged
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.reading.shards import LocalShards
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.stream import ShardedData
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.pack import shard
from tests.support.small_dataset import Small

FIELDS = ("crops_NCHW", "labels_N", "ids_N", "yx_N2", "flip_N", "rgb_N3")


def test_the_tensors_of_a_batch_come_in_the_order_of_its_fields():
    """Ranks send them one after the other, and the other end gives them their names again."""
    batch = CropBatch(**{name: torch.tensor([number]) for number, name in enumerate(FIELDS)})
    assert [int(tensor) for tensor in batch.tensors()] == [0, 1, 2, 3, 4, 5]


def test_every_sample_has_the_key_of_its_row(tmp_path):
    small = Small(tmp_path / "train", shards=2, samples=3)
    keys = [row["key"] for rows in small.rows for row in rows]
    opened = open_dataset(small.folder)
    assert [opened.read_key(sample) for sample in range(6)] == keys


def converted(folder, split, classes):
    rng = np.random.default_rng(3)
    for name in classes:
        (folder / "photos" / split / name).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (256, 256, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / split / name / f"{number}.png")
    shard(folder / "photos" / split, folder / split, split=split, num_workers=1)
    return folder / split


def test_splits_of_as_many_classes_with_other_names_are_refused(tmp_path):
    train = converted(tmp_path / "one", "train", ["ant", "bee"])
    val = converted(tmp_path / "other", "val", ["ant", "cow"])
    with pytest.raises(StreamError, match=r"2 classes and .* has 2, or in another order"):
        ShardedData(train=train, val=val, batch_size=2).facts()


def test_a_position_in_one_data_set_is_none_in_another(tmp_path):
    one, other = Small(tmp_path / "one", shards=2, samples=3), Small(tmp_path / "other", shards=3, samples=2)
    loaders = [ShardedData(train=small.folder, batch_size=2).loader() for small in (one, other)]
    state = loaders[0].state_dict()
    loaders[0].load_state_dict(state)
    with pytest.raises(StreamError, match="train_digest"):
        loaders[1].load_state_dict(state)


def test_a_damaged_sample_is_named_with_the_shard_that_it_lies_in(tmp_path):
    small = Small(tmp_path / "train", shards=2, samples=3)
    opened = open_dataset(small.folder)
    for sample, shard_name, row in ((1, "train-000000", 1), (5, "train-000001", 2)):
        found = locate_damaged(opened, sample, "does not decode")
        assert (found.shard, found.key) == (shard_name, small.rows[sample // 3][row]["key"])


def test_descriptors_lead_to_the_shards_that_were_asked_for_in_any_order(tmp_path):
    small = Small(tmp_path / "train", shards=3, samples=1)
    shards = LocalShards(small.folder, load_manifest(small.folder).shards)
    found = shards.descriptors(np.array([2, 0, 0, 1]))
    names = [os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")) for descriptor in found]
    assert names == [f"train-{number:06d}.tar" for number in (2, 0, 0, 1)]
    shards.close()


def test_a_shard_that_grew_is_not_the_manifest_s(tmp_path):
    small = Small(tmp_path / "train", shards=2, samples=1)
    records = load_manifest(small.folder).shards
    with open(small.folder / f"{records[1].name}.tar", "ab") as tar:
        tar.write(bytes(512))
    with pytest.raises(StreamError, match=rf"has {records[1].num_bytes + 512} bytes, but the manifest says"):
        LocalShards(small.folder, records)


def test_only_skipped_samples_are_replaced_each_by_the_next_one(tmp_path):
    """Sample 2 of 6 is skipped: an epoch has 3 twice and all others, the last among them, once."""
    opened = open_dataset(Small(tmp_path / "train", shards=2, samples=3).folder)
    skipped = SkippedSamples()
    skipped.add([locate_damaged(opened, 2, "does not decode")])
    augmenter = SimpleNamespace(draw=lambda *given: None)
    plan = make_training_planner(opened, augmenter, Order(num_samples=6, seed=0), 6, BatchSlice(), skipped)
    assert sorted(plan(0).ids_N) == sorted(plan(7).ids_N) == [0, 1, 3, 3, 4, 5]
