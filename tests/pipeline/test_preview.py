"""What is previewed is what is trained on: the stream's batch with the mean put back, of the right epochs."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from alexstream.commands.main import main
from alexstream.pipeline.preview import Preview
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.pipeline.transforms.reference import reference_crop
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from alexstream.sharding.lookup import SampleLookup
from alexstream.sharding.pack import shard_all
from alexstream.sharding.split_plans import ShardRequest
from tests.support.commands import error_of


@pytest.fixture(scope="module", params=["jpeg", "raw", "keep"])
def stream(request, sample_images, sample_shards, tmp_path_factory):
    """The sample set in each encoding."""
    if request.param == "jpeg":
        return ShardedData(train=sample_shards / "train", batch_size=16)
    folder = tmp_path_factory.mktemp(request.param) / "train"
    recipe = EncodeRecipe(encoding=request.param)
    list(shard_all(ShardRequest(source=sample_images / "train", folder=folder, encode=recipe), quiet=True))
    return ShardedData(train=folder, batch_size=16)


def lit_crop(stream, seen, place):
    """The crop of an image and its lighting, by NumPy and Pillow, on 0..255."""
    lookup = SampleLookup.from_folder(stream.train)
    recipe = AUGMENTATIONS[stream.augmentation]
    augmenter = Preprocessing.from_folder(stream.train, lookup.manifest, recipe).make_augmenter(stream.seed, 256)
    draws = augmenter.draw(np.array([seen.epoch]), np.array([seen.sample]), np.array([place]))
    crop = reference_crop(lookup.pixels(seen.sample), draws.yx_N2[0], draws.flip_N[0]).astype(np.float64)
    return (crop + draws.rgb_N3[0][:, None, None]).clip(0, 255).transpose(1, 2, 0)


@pytest.mark.parametrize("recipe", ["paper", "original", "none"])
def test_pictures_are_the_crops_with_their_light(stream, recipe):
    stream = replace(stream, augmentation=recipe)
    for place, seen in enumerate(Preview.from_data(stream).take_images(6)):
        assert np.abs(seen.pixels_HWC - lit_crop(stream, seen, place)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("recipe", ["paper", "inception", "none"])
def test_the_mean_and_the_divisor_are_put_back(stream, recipe):
    stream = replace(stream, augmentation=recipe)
    preview = Preview.from_data(stream)
    (batch,) = islice(stream.training(3), 1)
    shown = preview.take_images(16, step=3)
    assert [one.sample for one in shown] == batch.ids_N.tolist()
    assert [one.label for one in shown] == batch.labels_N.tolist()
    pixels = np.stack([one.pixels_HWC for one in shown]).transpose(0, 3, 1, 2).astype(np.float64)
    added = pixels - batch.images_NCHW.numpy() * preview.divisors_C[:, None, None]
    inside = (pixels > 0) & (pixels < 255)
    mean = load_mean_image(stream.train, load_stats(stream.train, load_manifest(stream.train)))
    assert inside.any() and added[inside].min() > mean.min() - 1 and added[inside].max() < mean.max() + 1


def test_a_sample_is_shown_as_each_of_its_epochs_shows_it(stream):
    preview, total = Preview.from_data(stream), len(open_dataset(stream.train))
    shown = preview.sample(7, range(3))
    everything = preview.take_images(3 * total)
    expected = [one for one in everything if one.sample == 7]
    assert [one.epoch for one in shown] == [one.epoch for one in expected] == [0, 1, 2]
    for one, same in zip(shown, expected, strict=True):
        assert np.array_equal(one.pixels_HWC, same.pixels_HWC)
    assert not np.array_equal(shown[0].pixels_HWC, shown[1].pixels_HWC)


@pytest.mark.parametrize("changes", [{"augmentation": "original"}, {"order": "grouped"}, {"seed": 9}])
def test_a_sample_is_found_in_any_order_and_recipe(sample_shards, changes):
    stream = ShardedData(train=sample_shards / "train", batch_size=64, **changes)
    preview = Preview.from_data(stream)
    (shown,) = preview.sample(11, [1])
    (expected,) = (one for one in preview.take_images(134) if one.sample == 11 and one.epoch == 1)
    assert np.array_equal(shown.pixels_HWC, expected.pixels_HWC)


def drawn(*words):
    result = CliRunner().invoke(main, [str(word) for word in ("preview", *words)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_picture_holds_the_streams_pixels(sample_shards, tmp_path):
    said = drawn(sample_shards, "--out", tmp_path / "p.png", "--count", 3, "--step", 2, "--batch-size", 8, "--seed", 5)
    assert "3 images" in said
    stream = ShardedData(train=sample_shards / "train", batch_size=8, seed=5)
    with Image.open(tmp_path / "p.png") as picture:
        page = np.asarray(picture.convert("RGB"))
    for place, one in enumerate(Preview.from_data(stream).take_images(3, step=2)):
        x = 16 + place * 234
        assert np.array_equal(page[68 : 68 + 224, x : x + 224], one.pixels_HWC)


def test_samples_by_key_and_by_number(sample_shards, tmp_path):
    key = SampleLookup.from_folder(sample_shards / "train").keys[4]
    assert "4 images" in drawn(sample_shards, "--out", tmp_path / "k.png", "--key", key, "--key", key, "--epochs", 2)
    assert "6 images" in drawn(sample_shards, "--out", tmp_path / "s.png", "--same", 3, "--epochs", 2)
    assert drawn(sample_shards, "--out", tmp_path / "q.png", "--count", 1, "--quiet") == ""


def test_what_cannot_be_previewed_is_one_line(sample_shards, tmp_path):
    out = ("--out", tmp_path / "p.png")
    assert "no sample of train" in error_of("preview", sample_shards, *out, "--key", "nobody")
    assert "does not exist" in error_of("preview", tmp_path / "nowhere", *out)
    assert "a picture's name" in error_of("preview", sample_shards, "--out", tmp_path / "p.txt")
    assert "no split 'train'" in error_of("preview", sample_shards / "val", *out)
