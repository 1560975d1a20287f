"""What belongs together in a stream: the tensors of a batch, keys and samples, splits, a position and its data set."""

import numpy as np
import pytest
import torch
from PIL import Image

from alexstream.pipeline.batch import CropBatch
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.stream import ShardedData
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
