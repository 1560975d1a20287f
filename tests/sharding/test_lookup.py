"""Single samples by key and number, in every encoding."""

from dataclasses import replace

import numpy as np
import pytest

from alexstream.core.errors import DatasetError
from alexstream.core.storage import parse_location
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images.decode import prepare_image
from alexstream.sharding.lookup import SampleLookup, list_class_names
from alexstream.sharding.pack import shard_all
from alexstream.sharding.split_plans import ShardRequest


@pytest.mark.parametrize("encoding", ["jpeg", "raw", "keep"])
def test_each_sample_has_its_key_its_label_and_the_pixels_of_its_source(sample_images, tmp_path, encoding):
    recipe = EncodeRecipe(encoding=encoding)
    list(shard_all(ShardRequest(source=sample_images / "val", folder=tmp_path / "val", encode=recipe), quiet=True))
    lookup = SampleLookup.from_folder(tmp_path / "val")
    columns = load_catalog(tmp_path / "val", lookup.manifest, ("key", "source", "label"))
    for sample, (key, source, label) in enumerate(zip(*columns.values(), strict=True)):
        assert lookup.find(key) == sample and lookup.label(sample) == label
        original = (sample_images / "val" / source).read_bytes()
        assert np.array_equal(lookup.pixels(sample), prepare_image(original, recipe).pixels_HWC)
    assert sample == 15 and lookup.find("nothing") is None


def test_samples_of_a_bucket_are_those_of_the_folder(sample_images, sample_shards, s3_folder):
    folder = parse_location(s3_folder) / "val"
    list(shard_all(ShardRequest(source=sample_images / "val", folder=folder), quiet=True))
    there, here = SampleLookup.from_folder(folder), SampleLookup.from_folder(sample_shards / "val")
    assert all(np.array_equal(there.pixels(i), here.pixels(i)) for i in (0, 15))


def test_samples_of_later_shards_are_read_from_their_own(sample_shards):
    lookup = SampleLookup.from_folder(sample_shards / "train")
    first, names = lookup.manifest.shards[0], ("train-000001", "train-000002")
    shards = tuple(replace(first, name=name, num_samples=n) for name, n in zip(names, (3, 64), strict=True))
    moved = SampleLookup(folder=lookup.folder, manifest=replace(lookup.manifest, shards=shards), columns=lookup.columns)
    for sample, name in zip((2, 3), names, strict=True):
        with pytest.raises(DatasetError, match=rf"{name}\.tar"):
            moved.pixels(sample)


def test_classes_are_called_by_their_names_where_they_are_known(sample_shards):
    manifest = load_manifest(sample_shards / "train")
    assert list_class_names(manifest) == manifest.classes
    named = replace(manifest, class_names={manifest.classes[1]: "tench, Tinca tinca"})
    assert list_class_names(named)[:2] == (manifest.classes[0], "tench, Tinca tinca")
