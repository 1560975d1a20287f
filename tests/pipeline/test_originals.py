"""Shards of original files: the standard view is that of the statistics, bit for bit; huge images come one by one."""

import io
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.batch_plan import make_training_planner
from alexstream.pipeline.decode import originals
from alexstream.pipeline.decode.dali import Engine, run_crop_graph
from alexstream.pipeline.decode.originals import Scaling, prepare_originals
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.pipeline.transforms.reference import reference_crop, reference_decode
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from alexstream.sharding.images.resample import resize_square
from alexstream.sharding.pack import shard_split
from alexstream.sharding.split_plans import ShardRequest
from tests.support.damaged_samples import damage_sample

SIZES = [(300, 200), (200, 300), (256, 256), (900, 640), (120, 90), (333, 777)]


def picture(width, height, seed):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """``keep`` shards of JPEG, PNG and WebP files of many sizes, gray ones among them."""
    source, folder = tmp_path_factory.mktemp("originals"), tmp_path_factory.mktemp("kept")
    for i in range(24):
        name = source / f"class{i % 2}"
        name.mkdir(exist_ok=True)
        image = picture(*SIZES[i % 6], seed=i)
        image = image.convert("L") if i % 5 == 0 else image
        image.save(name / f"{i:03d}.{('jpg', 'png', 'webp')[i % 3]}", quality=92)
    shard_split(ShardRequest(source=source, folder=folder / "train", encode=EncodeRecipe(encoding="keep")), quiet=True)
    return folder / "train"


def sized(*stored):
    """Heights and widths, by Pillow."""
    return np.array([Image.open(io.BytesIO(one.tobytes())).size[::-1] for one in stored], np.int64)


def crops_of(folder, recipe, count=3, **options):
    data = open_dataset(folder)
    augmenter = Preprocessing.from_folder(folder, data.manifest, AUGMENTATIONS[recipe]).make_augmenter(5, 256)
    steps = make_training_planner(data, augmenter, Order(num_samples=len(data), seed=5), 16, BatchSlice())
    batches = list(
        islice(run_crop_graph(data, steps, Engine(batch_size=16, num_threads=2), augmenter, **options), count)
    )
    return data, augmenter, steps, batches


@pytest.mark.parametrize("recipe", ["paper", "original", "none"])
def test_crops_are_cut_from_the_view_that_the_statistics_were_made_of_bit_for_bit(shards, recipe):
    data, _, steps, batches = crops_of(shards, recipe)
    for number, batch in enumerate(batches):
        draws = steps(number).draws
        for i, sample in enumerate(batch.ids_N.tolist()):
            view = resize_square(reference_decode(data.stored(sample).tobytes()), 256, "lanczos")
            expected = reference_crop(view, draws.yx_N2[i], int(draws.flip_N[i]))
            assert np.array_equal(batch.crops_NCHW[i].numpy(), expected)


def test_the_mean_of_all_views_is_the_stored_mean_image(shards):
    data = ShardedData(train=shards, val=shards, batch_size=8)
    opened = open_dataset(shards)
    stats = load_stats(shards, opened.manifest)
    views = torch.cat([b.images_NCHW[b.ids_N >= 0] for b in data.validation()]).double().mean(0)
    assert views.abs().max() < 1e-3  # the mean image was subtracted from images whose mean it is
    assert load_mean_image(shards, stats).shape == (256, 256, 3)


def test_a_boxed_crop_is_close_to_pillows_resize_of_the_same_box(shards):
    data, augmenter, steps, batches = crops_of(shards, "inception")
    for number, batch in enumerate(batches):
        step = steps(number)
        for i, sample in enumerate(batch.ids_N.tolist()):
            pixels = reference_decode(data.stored(sample).tobytes())
            sizes = np.array([pixels.shape[:2]])
            y, x, h, w = augmenter.boxes(step.epochs_N[i : i + 1], step.ids_N[i : i + 1], sizes)[0]
            box = Image.fromarray(pixels[y : y + h, x : x + w])
            view = np.asarray(box.resize((224, 224), Image.Resampling.BILINEAR))
            expected = reference_crop(view, np.zeros(2, np.int32), int(step.draws.flip_N[i]))
            difference = np.abs(batch.crops_NCHW[i].numpy().astype(int) - expected)
            assert difference.max() <= 1  # Pillow rounds between its two passes


@pytest.mark.parametrize("recipe", ["paper", "inception"])
def test_kept_streams_resume_and_do_not_depend_on_threads(shards, recipe):
    data = ShardedData(train=shards, batch_size=10, augmentation=recipe)
    whole = [b.images_NCHW for b in islice(data.training(), 6)]
    again = [b.images_NCHW for b in islice(replace(data, num_threads=3, prefetch=3).training(2), 4)]
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], again, strict=True))


def test_ten_views_come_from_one_decode_and_contain_the_centre(shards):
    data = ShardedData(train=shards, val=shards, batch_size=8)
    for centre, views in zip(data.validation(), data.validation(views=10), strict=True):
        assert views.images_NCHW.shape == (8, 10, 3, 224, 224)
        assert torch.equal(views.images_NCHW[:, 4], centre.images_NCHW)
        assert torch.equal(views.ids_N, centre.ids_N)


@pytest.mark.parametrize("recipe", ["paper", "inception"])
def test_an_image_too_large_for_a_batch_gives_the_same_pixels(shards, monkeypatch, recipe):
    _, _, _, expected = crops_of(shards, recipe)
    monkeypatch.setattr(originals, "LARGE_PIXELS", 60_000)  # most of these images
    _, _, _, alone = crops_of(shards, recipe)
    for a, b in zip(expected, alone, strict=True):
        assert torch.equal(a.crops_NCHW, b.crops_NCHW)


def test_a_large_image_leaves_as_the_small_picture_that_it_becomes(monkeypatch):
    monkeypatch.setattr(originals, "LARGE_PIXELS", 10_000)
    buffer = io.BytesIO()
    picture(400, 300, 1).save(buffer, "JPEG")
    stored = np.frombuffer(buffer.getvalue(), np.uint8)
    given, boxes = prepare_originals(
        [stored], sized(stored), None, Scaling(size_px=256, resize_filter="lanczos", boxed=False)
    )
    assert boxes.tolist() == [[0, 0, 256, 256]] and Image.open(io.BytesIO(given[0].tobytes())).size == (256, 256)


def test_a_small_box_of_a_large_image_goes_alone_too(monkeypatch):
    """All of it is decoded to get at the box, so its own size decides."""
    monkeypatch.setattr(originals, "LARGE_PIXELS", 300 * 200)
    buffers = [io.BytesIO(), io.BytesIO()]
    for (width, height), buffer in zip([(300, 201), (300, 200)], buffers, strict=True):
        picture(width, height, 1).save(buffer, "PNG")
    stored = [np.frombuffer(buffer.getvalue(), np.uint8) for buffer in buffers]
    box = [10, 20, 50, 60]
    scaling = Scaling(size_px=224, resize_filter="bilinear", boxed=True)
    given, boxes = prepare_originals(
        stored, sized(*stored), lambda sizes: np.array([box] * len(sizes), np.int32), scaling
    )
    assert boxes.tolist() == [[0, 0, 224, 224], box]
    assert given[1] is stored[1], "300 × 200 is not above the limit"
    with Image.open(io.BytesIO(given[0].tobytes())) as small, Image.open(buffers[0]) as whole:
        expected = whole.convert("RGB").crop((20, 10, 80, 60)).resize((224, 224), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(small).astype(int) - np.asarray(expected)).max() <= 1


def test_boxes_are_drawn_for_height_and_width_as_the_files_have_them():
    asked = []
    buffer = io.BytesIO()
    picture(31, 57, 1).save(buffer, "JPEG")
    stored = [np.frombuffer(buffer.getvalue(), np.uint8)]
    scaling = Scaling(size_px=224, resize_filter="bilinear", boxed=True)
    sizes = sized(*stored)
    _, boxes = prepare_originals(
        stored, sizes, lambda sizes: asked.append(sizes.tolist()) or np.zeros((1, 4), np.int32), scaling
    )
    assert asked == [[[57, 31]]]
    given, boxes = prepare_originals(stored, sizes, None, scaling)
    assert boxes.tolist() == [[0, 0, 57, 31]] and given == stored


@pytest.mark.parametrize(
    ("box", "square"), [((0, 0, 333, 777), (0, 222, 333)), ((5, 6, 8, 3), (2.5, 0, 3)), ((0, 0, 4, 4), (0, 0, 4))]
)
def test_the_central_square_may_begin_at_half_a_pixel(box, square):
    kept_part = Scaling(size_px=256, resize_filter="lanczos", boxed=False).square(np.array(box, np.int32))
    assert kept_part == (*square, square[2])
    whole = Scaling(size_px=256, resize_filter="lanczos", boxed=True).square(np.array(box, np.int32))
    assert whole == (0, 0, *box[2:])


def test_a_kept_sample_that_is_no_image_any_more_is_named(shards, tmp_path):
    import shutil

    folder = shutil.copytree(shards, tmp_path / "train")
    key = damage_sample(folder, 3)
    with pytest.raises(StreamError, match=rf"sample {key} in train-000000\.tar"):
        list(islice(ShardedData(train=folder, batch_size=16).training(), 4))
    data = ShardedData(train=folder, batch_size=16, on_bad_sample="skip", augmentation="inception")
    assert 3 not in torch.cat([b.ids_N for b in islice(data.training(), 4)])
