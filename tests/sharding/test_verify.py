"""``verify``: an intact set passes, and whatever is damaged is named."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.manifest import ShardRecord, load_manifest, save_manifest
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats, save_stats
from alexstream.sharding.describe import describe_dataset, facts
from alexstream.sharding.verify import verify


@pytest.fixture
def copy(sample_shards, tmp_path):
    return shutil.copytree(sample_shards / "train", tmp_path / "train")


def findings(folder, **options):
    return {f.file: f.problem for f in verify(folder, quiet=True, **options).findings}


@pytest.mark.parametrize("fast", [False, True])
def test_an_intact_set_has_no_findings(sample_shards, fast):
    for split in ("train", "val"):
        verdict = verify(sample_shards / split, fast=fast, quiet=True)
        assert not verdict.findings and "intact" in verdict.to_text()


FILES = ["train-000000.tar", "train-000000.idx", "train-000000.parquet", "stats.json", "mean.npy", "classes.json",
         "train.json", "_info.json", "README.md", "quarantine.jsonl", "manifest.json"]  # fmt: skip


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_every_missing_file_is_named(copy, name, fast):
    (copy / name).unlink()
    found = findings(copy, fast=fast)
    assert name in found


@pytest.mark.parametrize("name", [n for n in FILES])
def test_a_flipped_bit_in_any_file_is_found_even_by_the_fast_check(copy, name):
    data = bytearray((copy / name).read_bytes())
    random = np.random.RandomState(0)
    for place in random.randint(0, len(data), 5):
        damaged = data.copy()
        damaged[place] ^= 1 << int(random.randint(0, 8))
        (copy / name).write_bytes(damaged)
        assert findings(copy, fast=True), f"bit at {place} of {name}"


def test_a_shard_of_another_set_is_found(copy, sample_shards):
    shutil.copy(sample_shards / "val" / "val-000000.tar", copy / "train-000000.tar")
    assert "bytes" in findings(copy, fast=True)["train-000000.tar"]


def test_files_that_do_not_belong_are_named(copy):
    (copy / "train-000001.tar.77.tmp").write_bytes(b"half")
    assert findings(copy)["train-000001.tar.77.tmp"] == "is not part of the data set"


def test_statistics_of_other_pixels_are_found(copy):
    manifest = load_manifest(copy)
    stats = load_stats(copy, manifest)
    wrong = dataclasses.replace(stats, rgb_sums=(stats.rgb_sums[0] + 1, *stats.rgb_sums[1:]))
    save_stats(copy, wrong, load_mean_image(copy, stats))
    assert "stored pixels" in findings(copy)[layout.STATS]


def consistent_damage(copy, old, new):
    """Change bytes of the tar and make the manifest agree, as a wrong writer would."""
    tar = copy / "train-000000.tar"
    data = tar.read_bytes()
    assert data.count(old) >= 1 and len(old) == len(new)
    tar.write_bytes(data.replace(old, new, 1))
    manifest = load_manifest(copy)
    raw = json.loads((copy / layout.MANIFEST).read_text())
    raw["shards"][0]["sha256"] = hashlib.sha256(tar.read_bytes()).hexdigest()
    record = ShardRecord(**raw["shards"][0])
    save_manifest(copy, dataclasses.replace(manifest, shards=(record, *manifest.shards[1:])))


def test_a_wrong_label_under_right_hashes_is_found_by_the_full_check(copy):
    consistent_damage(copy, b"0003" + bytes(508), b"0004" + bytes(508))
    found = findings(copy)
    assert "the catalog says" in found["train-000000.tar"]


def test_a_sample_that_does_not_decode_under_right_hashes_is_found(copy):
    consistent_damage(copy, b"\xff\xd8\xff\xe0", b"\0\0\0\0")
    assert "sha256 differs from the catalog's" in findings(copy)["train-000000.tar"]


def test_a_shard_that_is_no_tar_under_right_hashes_is_found(copy):
    tar = (copy / "train-000000.tar").read_bytes()
    consistent_damage(copy, tar[:512], b"x" * 512)
    assert "train-000000.tar" in findings(copy)


def test_a_folder_that_is_no_data_set_is_a_finding(tmp_path):
    assert "no data set" in findings(tmp_path)[layout.MANIFEST]


def test_describe_tells_what_was_turned_and_left_out(sample_shards):
    text = describe_dataset(sample_shards / "train")
    for part in ("67", "was PNG (1)", "was L (1)", "quarantined: empty (1)", "found 71 = written 67"):
        assert part in text
    assert json.loads(json.dumps(facts(sample_shards / "train")))["samples"] == 67
