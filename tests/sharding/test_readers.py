"""Who reads a data set sample by sample, on one made by hand:

``SampleLookup``, ``check_stats`` and the open ``Dataset``.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from alexstream.core.errors import DatasetError
from alexstream.pipeline.errors import CUT_OFF, UndecodedError
from alexstream.pipeline.errors import StreamError as Refused
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.sharding import recompute
from alexstream.sharding.dataset_v1 import layout, sidecars
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from alexstream.sharding.lookup import SampleLookup, list_class_names
from tests.support.small_dataset import CLASSES, SIZE, Small, run_here, sign


@pytest.fixture
def small(tmp_path):
    return Small(tmp_path / "train")


def all_samples(small):
    """Key, label and pixels of every sample, in the order of sample ids."""
    for rows, members in zip(small.rows, small.members, strict=True):
        for row, (_, content) in zip(rows, members[::2], strict=True):
            yield row["key"], row["label"], np.frombuffer(content, np.uint8).reshape(SIZE, SIZE, 3)


def test_a_sample_is_found_by_number_and_key_in_any_shard(tmp_path):
    small = Small(tmp_path / "train", shards=3, samples=2)
    lookup, opened = SampleLookup.from_folder(small.folder), open_dataset(small.folder)
    assert len(opened) == 6
    for sample, (key, label, pixels) in enumerate(all_samples(small)):
        assert lookup.find(key) == sample and lookup.label(sample) == label and lookup.keys[sample] == key
        assert opened.read_key(sample) == key and opened.label_N[sample] == label
        assert np.array_equal(lookup.pixels(sample), pixels) and np.array_equal(opened.stored(sample), pixels)
    assert lookup.find("nobody") is None


def test_samples_come_in_the_order_asked_for(small):
    opened, pixels = open_dataset(small.folder), [one for _, _, one in all_samples(small)]
    for found, sample in zip(opened.read_stored_batch(np.array([5, 0, 3, 0]))[0], (5, 0, 3, 0), strict=True):
        assert np.array_equal(found, pixels[sample])


def test_a_shard_that_is_cut_while_it_is_open_has_an_outcome(small):
    opened = open_dataset(small.folder)
    opened.stored(3)
    with (small.folder / "train-000001.tar").open("r+b") as file:
        file.truncate(int(opened.offset_N[5]) + 10)
    assert opened.stored(4).shape == (SIZE, SIZE, 3)
    with pytest.raises(UndecodedError) as error:
        opened.stored(5)
    assert error.value.outcomes == {5: CUT_OFF}


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_are_no_classes_are_refused(small, label):
    small.rows[1][0]["label"] = label
    small.write()
    with pytest.raises(Refused, match="has labels outside the list of classes"):
        open_dataset(small.folder)


def test_raw_samples_of_another_size_are_refused(small):
    small.rows[1][0]["size"] -= 1
    small.write()
    with pytest.raises(Refused, match="has raw samples of the wrong size"):
        open_dataset(small.folder)


def test_a_lookup_does_not_read_a_shard_of_another_size(small):
    lookup = SampleLookup.from_folder(small.folder)
    with (small.folder / "train-000001.tar").open("ab") as file:
        file.write(b"x")
    assert lookup.pixels(2).any()
    with pytest.raises(DatasetError, match=r"train-000001\.tar: not of the manifest's size"):
        lookup.pixels(3)
    (small.folder / "train-000001.tar").unlink()
    with pytest.raises(DatasetError, match=r"train-000001\.tar cannot be read: No such file"):
        lookup.pixels(3)


def test_classes_are_called_by_their_words_where_these_are_known(small):
    manifest = load_manifest(small.folder)
    assert list_class_names(manifest) == CLASSES
    assert list_class_names(replace(manifest, class_names={CLASSES[1]: "crane"})) == (CLASSES[0], "crane")


# --- statistics again -----------------------------------------------------------------------------------------------


@pytest.fixture
def _here(monkeypatch):
    monkeypatch.setattr(recompute, "run_jobs", run_here)


@pytest.mark.usefixtures("_here")
def test_statistics_computed_again_are_equal_or_say_what_differs(small):
    check = recompute.check_stats(small.folder, num_workers=1, quiet=True)
    assert check.equal and check.differing == () and check.split == "train"
    stats = json.loads((small.folder / layout.STATS).read_bytes())
    stats["rgb_sums"][1] += 1
    sign(small.folder / layout.STATS, rgb_sums=stats["rgb_sums"])
    check = recompute.check_stats(small.folder, num_workers=1, quiet=True)
    assert not check.equal and check.differing == ("rgb_sums",)


@pytest.mark.usefixtures("_here")
def test_a_mean_image_of_other_pixels_differs(small):
    manifest = load_manifest(small.folder)
    stats = load_stats(small.folder, manifest)
    mean = load_mean_image(small.folder, stats)
    mean[0, 0, 0] += 0.25
    small.stats_of.mean_image = lambda: mean
    small.write()
    check = recompute.check_stats(small.folder, num_workers=1, quiet=True)
    assert set(check.differing) == {"mean_image_sha256", layout.MEAN} or check.differing == (layout.MEAN,)


@pytest.mark.usefixtures("_here")
def test_statistics_of_a_changed_shard_are_not_computed(small):
    path = small.folder / "train-000001.tar"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"train-000001\.tar: sha256 differs from the manifest's"):
        recompute.check_stats(small.folder, num_workers=1, quiet=True)
    path.write_bytes(bytes(data)[:-512])
    with pytest.raises(DatasetError, match=r"train-000001\.tar is missing or of another size"):
        recompute.check_stats(small.folder, num_workers=1, quiet=True)


# --- files for other tools ------------------------------------------------------------------------------------------


def test_the_files_for_other_tools_are_these(small):
    manifest = replace(load_manifest(small.folder), ilsvrc2012_ids={CLASSES[0]: 3}, class_names={CLASSES[1]: "crane"})
    files = sidecars.make_sidecars(manifest)
    assert json.loads(files["classes.json"]) == [
        {"index": 0, "wnid": CLASSES[0], "ilsvrc2012_id": 3, "name": None},
        {"index": 1, "wnid": CLASSES[1], "ilsvrc2012_id": None, "name": "crane"},
    ]
    wids = json.loads(files["train.json"])
    sizes = [(small.folder / f"train-{i:06d}.tar").stat().st_size for i in range(2)]
    assert wids["__kind__"] == "wids-shard-index-v1" and wids["wids_version"] == 1 and wids["name"] == "train"
    assert wids["shardlist"] == [
        {"url": f"train-{i:06d}.tar", "nsamples": 3, "filesize": size} for i, size in enumerate(sizes)
    ]
    info = json.loads(files["_info.json"])["splits"]
    assert set(info) == {"train"}
    card = files["README.md"].decode()
    parts = ["  - split: train\n", 'path: "train-*.tar"', "6 samples in 2 WebDataset shards, 2 classes", "seed 1"]
    for part in (*parts, "6 = 6 + 0 + 0", "train-{000000..000001}.tar", f"`{manifest.digest}`"):
        assert part in card


def test_validation_is_called_validation_too(small):
    shard = replace(load_manifest(small.folder).shards[0], name="val-000000")
    manifest = replace(load_manifest(small.folder), split="val", shards=(shard,))
    files = sidecars.make_sidecars(manifest)
    assert "  - split: validation\n" in files["README.md"].decode() and "val.json" in files
    splits = json.loads(files["_info.json"])["splits"]
    assert set(splits) == {"val", "validation"}
