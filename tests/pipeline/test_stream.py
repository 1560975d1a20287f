"""The stream: equal to the NumPy reference, to itself in parts, and when it starts in the middle."""

import io
import json
import os
import pickle
import shutil
import weakref
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from alexstream.core.errors import DatasetError
from alexstream.pipeline import batch_source
from alexstream.pipeline.batch import BatchSlice, CropBatch
from alexstream.pipeline.batch_plan import make_training_planner
from alexstream.pipeline.decode.dali import Engine, run_crop_graph
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.damage import find_damaged
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import AUGMENTATIONS
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.pipeline.transforms.reference import reference_crop, reference_decode, reference_image
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.document import json_bytes, json_digest
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from tests.support.damaged_samples import damage_sample
from tests.support.opened_files import opened_files

CPU = torch.device("cpu")


@pytest.fixture
def data(sample_shards):
    return ShardedData(train=sample_shards / "train", val=sample_shards / "val", batch_size=16, seed=5)


@pytest.fixture
def copy(sample_shards, tmp_path):
    """A data set that a test may break."""
    return shutil.copytree(sample_shards / "train", tmp_path / "train")


def opened_with(folder, recipe="paper", seed=5, **order):
    """A data set, a recipe with its statistics, an augmenter and its steps in batches of 16."""
    data = open_dataset(folder)
    preprocessing = Preprocessing.from_folder(folder, data.manifest, AUGMENTATIONS[recipe])
    augmenter = preprocessing.make_augmenter(seed, data.manifest.encode.size_px)
    sizes = tuple(record.num_samples for record in data.manifest.shards)
    steps = make_training_planner(
        data, augmenter, Order(num_samples=len(data), seed=seed, shard_sizes=sizes), 16, BatchSlice()
    )
    return data, preprocessing, augmenter, steps


@pytest.mark.parametrize("recipe", ["paper", "original", "none"])
@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
def test_crops_equal_the_numpy_reference_bit_for_bit_and_finished_images_within_two_ulp(
    sample_shards, raw_shards, recipe, encoding
):
    folder = sample_shards / "train" if encoding == "jpeg" else raw_shards
    data, preprocessing, augmenter, steps = opened_with(folder, recipe)
    finish = preprocessing.make_normalizer(CPU)
    live = ShardedData(train=folder, batch_size=16, seed=5, augmentation=recipe).training()
    for number, crops in enumerate(islice(run_crop_graph(data, steps, Engine(batch_size=16), augmenter), 8)):
        draws, finished, streamed = steps(number).draws, finish(crops), next(live)
        assert torch.equal(finished.images_NCHW, streamed.images_NCHW), "the stream departs from its parts"
        for i, sample in enumerate(crops.ids_N.tolist()):
            stored = data.stored(sample)
            pixels = stored if encoding == "raw" else reference_decode(stored.tobytes())
            yx, flip, rgb = draws.yx_N2[i], int(draws.flip_N[i]), draws.rgb_N3[i]
            crop = reference_crop(pixels, yx, flip)
            assert np.array_equal(crops.crops_NCHW[i].numpy(), crop)
            expected = reference_image(crop, preprocessing, (yx, flip, rgb))
            # |values| < 512 where float32 has steps of 2^-15: at most two of them
            assert np.abs(finished.images_NCHW[i].numpy() - expected).max() <= 2 * 2**-15
            assert finished.labels_N[i] == data.label_N[sample]


@pytest.mark.parametrize("recipe", ["paper", "original", "inception"])
def test_both_forms_of_the_finish_give_the_same_bits(data, recipe):
    opened, preprocessing, augmenter, steps = opened_with(data.train, recipe)
    finish = preprocessing.make_normalizer(CPU)
    crops = next(run_crop_graph(opened, steps, Engine(batch_size=16), augmenter))
    assert torch.equal(finish.normalize_on_cpu(crops), finish.normalize_on_gpu(crops))


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
@pytest.mark.parametrize("changes", [{"num_threads": 3}, {"prefetch": 4}, {"decoder": "dali"}, {"decoder": "threads"}])
def test_threads_prefetch_and_decoder_change_nothing(data, changes, recipe):
    data = replace(data, augmentation=recipe)
    first, other = batches(data.training(), 4), batches(replace(data, **changes).training(), 4)
    assert all(same(a, b) for a, b in zip(first, other, strict=True))


def test_batch_size_does_not_change_a_sample(data):
    small = batches(replace(data, batch_size=8).training(), 2)
    large = batches(data.training(), 1)[0]
    assert same((torch.cat(column) for column in zip(*small, strict=True)), large)


def test_two_parts_joined_are_the_whole_batch(data):
    halves = [batches(data.training(part=BatchSlice(index=i, count=2)), 3) for i in range(2)]
    for step, whole in enumerate(batches(data.training(), 3)):
        assert same((torch.cat([halves[i][step][k] for i in range(2)]) for k in range(3)), whole)


def test_the_exchange_sees_the_part_and_its_result_is_finished(data):
    seen = []

    def doubling(part):
        seen.append(part)
        return lambda: CropBatch.from_tensors(tuple(torch.cat([t, t]) for t in part.tensors()))

    batch = next(data.training(part=BatchSlice(index=0, count=2), exchange=doubling))
    assert len(seen[0].labels_N) == 8 and len(batch.labels_N) == 16
    assert torch.equal(batch.images_NCHW[:8], batch.images_NCHW[8:])


def test_validation_is_every_image_once_centre_cropped_without_flip_or_light(data):
    opened = open_dataset(data.val)
    stats = load_stats(data.train, load_manifest(data.train))
    mean = load_mean_image(data.train, stats)
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
    stats = load_stats(opened.folder, opened.manifest)
    mean = load_mean_image(opened.folder, stats)[16:240, 16:240]
    pixels = np.asarray(Image.open(io.BytesIO(opened.stored(int(ids[0])).tobytes())).convert("RGB"))[16:240, 16:240]
    assert np.abs(images[0].permute(1, 2, 0).numpy() - (pixels - mean)).max() <= 2**-15


def test_uneven_parts_are_refused():
    with pytest.raises(ValueError, match="multiple of 2"):
        BatchSlice(index=0, count=2).to_slice(7)


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
    (copy / layout.MANIFEST).write_bytes(json_bytes({**raw, "checksum": json_digest(raw)}))
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


def test_a_sample_that_no_longer_decodes_is_an_error_that_names_shard_and_key(copy):
    key = damage_sample(copy, 3)
    with pytest.raises(StreamError, match=rf"sample {key} in train-000000\.tar .* `on_bad_sample` skip"):
        list(islice(ShardedData(train=copy, batch_size=16).training(), 5))


def test_damaged_samples_can_be_passed_over_and_the_rest_is_undisturbed(copy, caplog):
    sound = list(islice(ShardedData(train=copy, batch_size=16).training(), 5))
    sound_ids = torch.cat([b.ids_N for b in sound])
    keys = {damage_sample(copy, 3), damage_sample(copy, 40)}
    batches = list(islice(ShardedData(train=copy, batch_size=16, on_bad_sample="skip").training(), 5))
    ids = torch.cat([b.ids_N for b in batches])
    same = (sound_ids != 3) & (sound_ids != 40)
    assert torch.equal(ids[same], sound_ids[same]) and set(ids[~same].tolist()) == {4, 41}
    images = [torch.cat([b.images_NCHW for b in stream]) for stream in (batches, sound)]
    assert torch.equal(images[0][same], images[1][same])
    assert all(any(key in record.getMessage() for record in caplog.records) for key in keys)


def cut_before(folder, sample):
    """Cut the shard so that this sample and those behind it have no bytes; the ids of these."""
    opened = open_dataset(folder)
    os.truncate(folder / "train-000000.tar", int(opened.offset_N[sample]))
    behind = (opened.shard_N == 0) & (opened.offset_N >= opened.offset_N[sample])
    return set(np.flatnonzero(behind).tolist())


def test_samples_that_a_shard_lost_while_it_was_open_are_named_and_no_others(copy):
    opened = open_dataset(copy)
    opened.stored(0)  # the descriptor stays open
    lost = cut_before(copy, 3)
    assert 3 in lost and 0 not in lost
    found = {one.sample: one for one in find_damaged(opened, range(len(opened)))}
    assert set(found) == lost
    assert {(one.shard, one.what) for one in found.values()} == {
        ("train-000000", "reaches beyond the end of its shard")
    }
    opened.shards.close()


@pytest.mark.parametrize("decoder", ["auto", "dali", "threads"])
def test_a_shard_that_is_cut_while_it_is_streamed_is_named_or_passed_over(copy, decoder, caplog):
    options = {"train": copy, "batch_size": 16, "decoder": decoder}
    streams = {choice: ShardedData(on_bad_sample=choice, **options).training() for choice in ("fail", "skip")}
    for stream in streams.values():
        next(stream)
    lost = cut_before(copy, 60)
    with pytest.raises(
        StreamError, match=r"sample \S+ in train-000000\.tar reaches beyond the end of its shard; restore"
    ):
        list(islice(streams["fail"], 20))
    whole = list(islice(streams["skip"], 20))[-5:]  # what was read before the cut is over
    assert not lost & {int(sample) for batch in whole for sample in batch.ids_N}
    assert any("is damaged; skipped" in record.getMessage() for record in caplog.records)
    for stream in streams.values():
        stream.close()


def test_validation_leaves_damaged_samples_out(copy):
    damage_sample(copy, 5)
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
            ids_and_images(other.training(begin, BatchSlice(index=i, count=replicas)), end - begin)
            for i in range(replicas)
        ]
        for step in zip(*parts, strict=True):
            pieces.append(tuple(torch.cat(column) for column in zip(*step, strict=True)))
    for (ids, images), (other_ids, other_images) in zip(whole, pieces, strict=True):
        assert torch.equal(ids, other_ids) and torch.equal(images, other_images)


@pytest.mark.parametrize("order", ["global", "grouped"])
def test_world_2_of_64_is_world_1_of_128_bit_for_bit(sample_shards, order):
    data = ShardedData(train=sample_shards / "train", batch_size=128, order=order)
    halves = [ids_and_images(data.training(part=BatchSlice(index=i, count=2)), 2) for i in range(2)]
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
    opened, preprocessing, _, _ = opened_with(data.train, "none")
    batch = next(replace(data, val=data.train).validation(views=10))
    dark = np.zeros(3, np.float32)
    for i, sample in enumerate(batch.ids_N.tolist()[:3]):
        pixels = reference_decode(opened.stored(sample).tobytes())
        for k, (y, x) in enumerate([(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)] * 2):
            yx, flip = np.array([y, x], np.int32), int(k >= 5)
            expected = reference_image(reference_crop(pixels, yx, flip), preprocessing, (yx, flip, dark))
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

    monkeypatch.setattr(batch_source, "prefetch", watched)
    stream = ShardedData(train=sample_shards / "train", batch_size=4).training()
    for _ in range(3):
        next(stream)
    stream.close()
    assert gone == [True, True]


def test_each_split_is_read_and_checked_once_however_often_it_is_asked_for(data):
    data = replace(data, batch_size=8)
    with opened_files() as first:
        facts = data.facts()
        ids = [batch.ids_N.tolist() for batch in data.validation()]
        next(data.training())
    documents = {"manifest.json", "stats.json", "mean.npy"}
    assert {path.name for path in first} > documents
    for folder, names in ((data.train, documents), (data.val, {"manifest.json"})):
        assert [first.count(folder / name) for name in names] == [1] * len(names)
    with opened_files() as later:
        assert data.facts() == facts
        for views in (1, 10, 1):
            assert [batch.ids_N.tolist() for batch in data.validation(views=views)] == ids
        next(data.training(3, augmentation="paper-no-lighting"))
        next(iter(data.loader()))
        data.decode_path()
    assert {path.suffix for path in later if path.is_relative_to(data.train.parent)} == {".tar"}


def test_streams_that_run_at_once_do_not_close_each_others_shards(data):
    alone = [batch.ids_N.tolist() for batch in islice(data.training(), 12)]
    first, second, found = data.training(), data.training(), []
    for number in range(12):
        found.append(next(first).ids_N.tolist())
        assert next(second).ids_N.tolist() == alone[number]
        if number == 4:
            second.close()
            second = data.training(5)
            list(data.validation())
    assert found == alone


def test_a_pickled_stream_is_opened_anew(data):
    data.facts()
    with opened_files() as opened:
        again = pickle.loads(pickle.dumps(data))
        assert again == data and not opened
        assert again.facts() == data.facts()
    assert opened.count(data.train / "manifest.json") == opened.count(data.val / "manifest.json") == 1


def test_another_augmentation_can_be_asked_of_a_stream(data):
    asked, made = data.training(2, augmentation="none"), replace(data, augmentation="none").training(2)
    own = next(data.training(2))
    for batch, expected in islice(zip(asked, made, strict=False), 2):
        assert torch.equal(batch.images_NCHW, expected.images_NCHW)
    assert not torch.equal(own.images_NCHW, next(data.training(2, augmentation="none")).images_NCHW)
