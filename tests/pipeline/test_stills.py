"""Single pictures become the batch that the stream makes of the same pixels, for every recipe, one view and ten."""

import numpy as np
import pytest
import torch

from pipeline.augment import AUGMENTATIONS
from pipeline.loader import ShardedData
from pipeline.stills import Stills
from sharding.lookup import Lookup

CPU = torch.device("cpu")


@pytest.mark.parametrize("views", [1, 10])
@pytest.mark.parametrize("augmentation", sorted(AUGMENTATIONS))
def test_a_still_is_what_validation_makes_of_the_sample(sample_shards, augmentation, views):
    data = ShardedData(
        train=sample_shards / "train", val=sample_shards / "val", batch_size=4, augmentation=augmentation
    )
    batch = next(iter(data.validation(views=views)))
    lookup = Lookup.of(sample_shards / "val")
    pixels = np.stack([lookup.pixels(int(i)) for i in batch.ids_N])
    still = Stills(sample_shards / "train", augmentation, CPU).batch(pixels, views)
    assert torch.equal(still.images_NCHW, batch.images_NCHW)
    assert still.ids_N.tolist() == [0, 1, 2, 3] and (still.labels_N == -1).all()


def test_another_number_of_views_is_refused(sample_shards):
    with pytest.raises(ValueError, match="expected 1 or 10"):
        Stills(sample_shards / "train", "paper", CPU).batch(np.zeros((1, 256, 256, 3), np.uint8), 5)
