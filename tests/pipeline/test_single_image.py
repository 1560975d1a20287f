"""Single pictures become the batch that the stream makes of the same pixels, for every recipe, one view and ten."""

import numpy as np
import pytest
import torch

from alexstream.pipeline.single_image import ImagePreprocessor
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.lookup import SampleLookup
from alexstream.sharding.pack import shard_all
from alexstream.sharding.split_plans import ShardRequest

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def val_folders(sample_images, sample_shards, tmp_path_factory):
    """Encoding → the validation split in it."""
    folders = {"jpeg": sample_shards / "val"}
    for encoding in ("raw", "keep"):
        folders[encoding] = tmp_path_factory.mktemp(encoding) / "val"
        recipe = EncodeRecipe(encoding=encoding)
        list(shard_all(ShardRequest(source=sample_images / "val", folder=folders[encoding], encode=recipe), quiet=True))
    return folders


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "keep"])
@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize("augmentation", sorted(AUGMENTATIONS))
def test_a_still_is_what_validation_makes_of_the_sample(sample_shards, val_folders, augmentation, views, encoding):
    train, val = sample_shards / "train", val_folders[encoding]
    data = ShardedData(train=train, val=val, batch_size=4, augmentation=augmentation)
    batch = next(iter(data.validation(views=views)))
    lookup = SampleLookup.from_folder(val)
    pixels = np.stack([lookup.pixels(int(i)) for i in batch.ids_N])
    still = ImagePreprocessor(data.facts().preprocessing, augmentation, CPU).batch(pixels, views)
    assert torch.equal(still.images_NCHW, batch.images_NCHW)
    assert still.ids_N.tolist() == [0, 1, 2, 3] and (still.labels_N == -1).all()


def test_another_number_of_views_is_refused(sample_shards):
    with pytest.raises(ValueError, match="expected 1 or 10"):
        preprocessing = ShardedData(sample_shards).facts().preprocessing
        ImagePreprocessor(preprocessing, "paper", CPU).batch(np.zeros((1, 256, 256, 3), np.uint8), 5)
