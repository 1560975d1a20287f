"""The stream: equal to the NumPy reference, to itself in parts, and when it starts in the middle."""

import io
import json
import shutil
import weakref
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import loader
from pipeline.augment import AUGMENTATIONS, Augmenter
from pipeline.batch import CropBatch, Part
from pipeline.dataset import open_dataset
from pipeline.errors import StreamError
from pipeline.finish import Finish
from pipeline.graph import Engine, crop_batches
from pipeline.loader import ShardedData
from pipeline.mean import MeanPlanes
from pipeline.order import Order
from pipeline.reference import reference_crop, reference_decode, reference_image
from pipeline.steps import training_steps
from sharding import layout
from sharding.errors import DatasetError
from sharding.layout import EncodeRecipe
from sharding.pack import ShardRequest, shard

CPU = torch.device("cpu")


@pytest.fixture
def data(sample_shards):
    return ShardedData(train=sample_shards / "train", val=sample_shards / "val", batch_size=16, seed=5)


@pytest.fixture(scope="module")
def raw_shards(sample_images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "train"
    shard(ShardRequest(source=sample_images / "train", folder=folder, encode=EncodeRecipe(encoding="raw")), quiet=True)
    return folder


@pytest.fixture
def copy(sample_shards, tmp_path):
    """A data set that a test may break."""
    return shutil.copytree(sample_shards / "train", tmp_path / "train")


def opened_with(folder, recipe="paper", seed=5, **order):
    """A data set, its statistics and mean image, an augmenter and its steps in batches of 16."""
    data = open_dataset(folder)
    stats = layout.load_stats(folder, data.manifest)
    augmenter = Augmenter.of(AUGMENTATIONS[recipe], seed, data.manifest.encode.size_px, stats)
    sizes = tuple(record.num_samples for record in data.manifest.shards)
    steps = training_steps(data, augmenter, Order(num_samples=len(data), seed=seed, shard_sizes=sizes), 16, Part())
    return data, stats, layout.load_mean_image(folder, stats), augmenter, steps


@pytest.mark.parametrize("recipe", ["paper", "original", "none"])
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_crops_equal_the_numpy_reference_bit_for_bit_and_finished_images_within_two_ulp(
    sample_shards, raw_shards, recipe, encoding
):
    folder = sample_shards / "train" if encoding == "jpeg" else raw_shards
    data, stats, mean, augmenter, steps = opened_with(folder, recipe)
    augmentation = augmenter.augmentation
    finish = Finish(MeanPlanes.of(augmentation.mean, mean, stats), CPU, augmentation.divisors(stats))
    live = ShardedData(train=folder, batch_size=16, seed=5, augmentation=recipe).training()
    for number, crops in enumerate(islice(crop_batches(data, steps, Engine(batch_size=16), augmenter), 8)):
        draws, finished, streamed = steps(number).draws, finish(crops), next(live)
        assert torch.equal(finished.images_NCHW, streamed.images_NCHW), "the stream departs from its parts"
        for i, sample in enumerate(crops.ids_N.tolist()):
            stored = data.stored(sample)
            pixels = stored if encoding == "raw" else reference_decode(stored.tobytes())
            yx, flip, rgb = draws.yx_N2[i], int(draws.flip_N[i]), draws.rgb_N3[i]
            crop = reference_crop(pixels, yx, flip)
            assert np.array_equal(crops.crops_NCHW[i].numpy(), crop)
            expected = reference_image(crop, mean, stats, augmentation, (yx, flip, rgb))
            # |values| < 512 where float32 has steps of 2^-15: at most two of them
            assert np.abs(finished.images_NCHW[i].numpy() - expected).max() <= 2 * 2**-15
            assert finished.labels_N[i] == data.label_N[sample]


@pytest.mark.parametrize("recipe", ["paper", "original", "inception"])
def test_both_forms_of_the_finish_give_the_same_bits(data, recipe):
    opened, stats, mean, augmenter, steps = opened_with(data.train, recipe)
    augmentation = augmenter.augmentation
    finish = Finish(MeanPlanes.of(augmentation.mean, mean, stats), CPU, augmentation.divisors(stats))
    crops = next(crop_batches(opened, steps, Engine(batch_size=16), augmenter))
    assert torch.equal(finish.one_by_one(crops), finish.at_once(crops))


def test_a_finished_batch_is_not_overwritten_while_any_view_of_it_is_kept(data):
    stream = data.training()
    kept = next(stream).images_NCHW[3]
    expected = kept.clone()
    for _ in range(12):
        next(stream)
    assert torch.equal(kept, expected)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def batches(stream, count):
    return [(b.images_NCHW, b.labels_N, b.ids_N) for b in islice(stream, count)]


def test_the_same_seed_gives_the_same_batches_and_another_does_not(data):
    first, again = (batches(data.training(), 3) for _ in range(2))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    other = batches(replace(data, seed=6).training(), 1)
    assert not same(first[0], other[0])


def test_a_stream_started_in_the_middle_continues_the_undisturbed_one(data):
    whole = batches(data.training(), 9)  # 67 samples, batches of 16: crosses two epoch borders
    for start in (1, 4, 7):
        assert all(same(a, b) for a, b in zip(whole[start:], batches(data.training(start), 9 - start), strict=True))


@pytest.mark.parametrize("recipe", ["paper", "original", "inception"])
@pytest.mark.parametrize("changes", [{"num_threads": 3}, {"prefetch": 4}, {"decoder": "dali"}])
def test_threads_prefetch_and_decoder_change_nothing(data, changes, recipe):
    data = replace(data, augmentation=recipe)
    first, other = batches(data.training(), 4), batches(replace(data, **changes).training(), 4)
    assert all(same(a, b) for a, b in zip(first, other, strict=True))


def test_batch_size_does_not_change_a_sample(data):
    small = batches(replace(data, batch_size=8).training(), 2)
    large = batches(data.training(), 1)[0]
    assert same((torch.cat(column) for column in zip(*small, strict=True)), large)


def test_two_parts_joined_are_the_whole_batch(data):
    halves = [batches(data.training(part=Part(index=i, count=2)), 3) for i in range(2)]
    for step, whole in enumerate(batches(data.training(), 3)):
        assert same((torch.cat([halves[i][step][k] for i in range(2)]) for k in range(3)), whole)


def test_the_exchange_sees_the_part_and_its_result_is_finished(data):
    seen = []

    def doubling(part):
        seen.append(part)
        return lambda: CropBatch.of(tuple(torch.cat([t, t]) for t in part.tensors()))

    batch = next(data.training(part=Part(index=0, count=2), exchange=doubling))
    assert len(seen[0].labels_N) == 8 and len(batch.labels_N) == 16
    assert torch.equal(batch.images_NCHW[:8], batch.images_NCHW[8:])


def test_validation_is_every_image_once_centre_cropped_without_flip_or_light(data):
    opened = open_dataset(data.val)
    stats = layout.load_stats(data.train, layout.load_manifest(data.train))
    mean = layout.load_mean_image(data.train, stats)
    images, labels, ids = (
        torch.cat(c) for c in zip(*batches(replace(data, batch_size=6).validation(), 99), strict=True)
    )
    assert ids.tolist() == [*range(16), -1, -1]
    assert labels.tolist() == [*opened.label_N, -1, -1]
    for i in range(16):
        pixels = np.asarray(Image.open(io.BytesIO(opened.stored(i).tobytes())).convert("RGB"))[16:240, 16:240]
        expected = pixels.astype(np.float64) - mean[16:240, 16:240]
        assert np.abs(images[i].permute(1, 2, 0).numpy() - expected).max() <= 2**-15


def test_augmentation_none_is_the_centre_crop(data):
    images, _, ids = batches(replace(data, augmentation="none").training(), 1)[0]
    opened = open_dataset(data.train)
    stats = layout.load_stats(opened.folder, opened.manifest)
    mean = layout.load_mean_image(opened.folder, stats)[16:240, 16:240]
    pixels = np.asarray(Image.open(io.BytesIO(opened.stored(int(ids[0])).tobytes())).convert("RGB"))[16:240, 16:240]
    assert np.abs(images[0].permute(1, 2, 0).numpy() - (pixels - mean)).max() <= 2**-15


def test_uneven_parts_are_refused():
    with pytest.raises(ValueError, match="multiple of 2"):
        Part(index=0, count=2).of(7)


def facts(folder, **options):
    return ShardedData(train=folder, **options).facts()


def test_statistics_of_another_data_set_are_refused(copy, sample_shards):
    shutil.copy(sample_shards / "val" / layout.STATS, copy / layout.STATS)
    with pytest.raises(DatasetError, match="statistics are of data set"):
        facts(copy)


def test_a_changed_mean_image_is_refused(copy):
    mean = np.load(copy / layout.MEAN)
    np.save(copy / layout.MEAN, mean + 1)
    with pytest.raises(DatasetError, match="sha256 differs"):
        facts(copy)


def test_a_manifest_that_contradicts_its_digest_is_refused(copy):
    raw = json.loads((copy / layout.MANIFEST).read_text())
    raw["shards"][0]["sha256"] = "0" * 64
    del raw["checksum"]
    (copy / layout.MANIFEST).write_bytes(layout.json_bytes({**raw, "checksum": layout.json_digest(raw)}))
    with pytest.raises(DatasetError, match="digest"):
        facts(copy)


def test_a_cut_or_missing_shard_is_refused_before_anything_is_read(copy):
    tar = copy / "train-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-10240])
    with pytest.raises(StreamError, match=r"train-000000\.tar has"):
        facts(copy)
    tar.unlink()
    with pytest.raises(StreamError, match=r"train-000000\.tar is missing"):
        facts(copy)


def test_a_catalog_that_is_not_the_manifests_is_refused(copy):
    with (copy / "train-000000.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DatasetError, match=r"train-000000\.parquet: sha256 differs"):
        facts(copy)


def test_splits_with_other_classes_are_refused(sample_shards, position_cards):
    with pytest.raises(StreamError, match="2 classes"):
        facts(sample_shards / "train", val=position_cards)


def damage(folder, sample):
    """Overwrite the start of a stored image; returns its key."""
    opened = open_dataset(folder)
    with (folder / f"{opened.manifest.shards[opened.shard_N[sample]].name}.tar").open("r+b") as file:
        file.seek(int(opened.offset_N[sample]))
        file.write(b"\0" * 64)
    return layout.load_catalog(folder, opened.manifest, ("key",))["key"][sample]


def test_a_sample_that_no_longer_decodes_is_an_error_that_names_shard_and_key(copy):
    key = damage(copy, 3)
    with pytest.raises(StreamError, match=rf"sample {key} in train-000000\.tar .* --on-bad-sample skip"):
        list(islice(ShardedData(train=copy, batch_size=16).training(), 5))


def test_damaged_samples_can_be_passed_over_and_the_rest_is_undisturbed(copy, caplog):
    sound = list(islice(ShardedData(train=copy, batch_size=16).training(), 5))
    sound_ids = torch.cat([b.ids_N for b in sound])
    keys = {damage(copy, 3), damage(copy, 40)}
    batches = list(islice(ShardedData(train=copy, batch_size=16, on_bad_sample="skip").training(), 5))
    ids = torch.cat([b.ids_N for b in batches])
    same = (sound_ids != 3) & (sound_ids != 40)
    assert torch.equal(ids[same], sound_ids[same]) and set(ids[~same].tolist()) == {4, 41}
    images = [torch.cat([b.images_NCHW for b in stream]) for stream in (batches, sound)]
    assert torch.equal(images[0][same], images[1][same])
    assert all(any(key in record.getMessage() for record in caplog.records) for key in keys)


def test_validation_leaves_damaged_samples_out(copy):
    damage(copy, 5)
    data = ShardedData(train=copy, val=copy, batch_size=16, on_bad_sample="skip")
    labels = torch.cat([b.labels_N for b in data.validation()])
    assert int((labels >= 0).sum()) == len(open_dataset(copy)) - 1


# --- the state is one integer ---------------------------------------------------------------------------------------


def ids_and_images(stream, count):
    return [(b.ids_N, b.images_NCHW) for b in islice(stream, count)]


@pytest.mark.parametrize("order", ["global", "grouped"])
@pytest.mark.parametrize("recipe", ["paper", "original", "inception", "none"])
def test_resumed_twice_in_an_epoch_on_other_replicas_and_threads_the_stream_is_the_undisturbed_one(
    sample_shards, recipe, order
):
    data = ShardedData(train=sample_shards / "train", batch_size=8, seed=9, augmentation=recipe, order=order)
    whole = ids_and_images(data.training(), 12)  # 67 samples: an epoch ends within step 8
    pieces = ids_and_images(data.training(0), 3)
    for begin, end, replicas, threads in ((3, 6, 2, 2), (6, 12, 4, 1)):
        other = replace(data, num_threads=threads, prefetch=threads)
        parts = [
            ids_and_images(other.training(begin, Part(index=i, count=replicas)), end - begin) for i in range(replicas)
        ]
        for step in zip(*parts, strict=True):
            pieces.append(tuple(torch.cat(column) for column in zip(*step, strict=True)))
    for (ids, images), (other_ids, other_images) in zip(whole, pieces, strict=True):
        assert torch.equal(ids, other_ids) and torch.equal(images, other_images)


@pytest.mark.parametrize("order", ["global", "grouped"])
def test_world_2_of_64_is_world_1_of_128_bit_for_bit(sample_shards, order):
    data = ShardedData(train=sample_shards / "train", batch_size=128, order=order)
    halves = [ids_and_images(data.training(part=Part(index=i, count=2)), 2) for i in range(2)]
    for step, (ids, images) in enumerate(ids_and_images(data.training(), 2)):
        assert len(halves[0][step][0]) == 64
        assert torch.equal(torch.cat([halves[i][step][0] for i in range(2)]), ids)
        assert torch.equal(torch.cat([halves[i][step][1] for i in range(2)]), images)


@pytest.mark.parametrize("order", ["global", "grouped"])
def test_every_sample_comes_once_an_epoch_and_epochs_and_seeds_differ(sample_shards, order):
    data = ShardedData(train=sample_shards / "train", batch_size=67, order=order)
    first, second = (b.ids_N for b in islice(data.training(), 2))
    other = next(replace(data, seed=2).training()).ids_N
    for ids in (first, second, other):
        assert sorted(ids.tolist()) == list(range(67))
    assert not torch.equal(first, second) and not torch.equal(first, other)


def test_ten_views_are_the_corners_and_the_centre_and_their_mirrors(data):
    opened, stats, mean, _, _ = opened_with(data.train)
    batch = next(replace(data, val=data.train).validation(views=10))
    none, dark = AUGMENTATIONS["none"], np.zeros(3, np.float32)
    for i, sample in enumerate(batch.ids_N.tolist()[:3]):
        pixels = reference_decode(opened.stored(sample).tobytes())
        for k, (y, x) in enumerate([(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)] * 2):
            yx, flip = np.array([y, x], np.int32), int(k >= 5)
            expected = reference_image(reference_crop(pixels, yx, flip), mean, stats, none, (yx, flip, dark))
            assert np.abs(batch.images_NCHW[i, k].numpy() - expected).max() <= 2**-15


@pytest.mark.parametrize(
    ("field", "value"), [("augmentation", "papper"), ("order", "shuffled"), ("on_bad_sample", "x"), ("decoder", "gpu")]
)
def test_a_choice_that_does_not_exist_is_named_with_those_that_do(data, field, value):
    with pytest.raises(StreamError, match=rf"{field}: received '{value}', expected one of"):
        replace(data, **{field: value})


def test_the_stream_lets_go_of_a_batch_before_it_takes_the_next(sample_shards, monkeypatch):
    """Memory freed later would interrupt the hand-over of the next one (docs/log.md)."""
    gone = []

    def watched(batches, depth):
        for batch in batches:
            images = weakref.ref(batch.images_NCHW)
            yield batch
            del batch
            gone.append(images() is None)

    monkeypatch.setattr(loader, "ahead", watched)
    stream = ShardedData(train=sample_shards / "train", batch_size=4).training()
    for _ in range(3):
        next(stream)
    stream.close()
    assert gone == [True, True]
