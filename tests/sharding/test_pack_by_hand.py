"""A small conversion, from the order of its tar to the lines of its quarantine, by the words of the formats page."""

import hashlib
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from alexstream.core.errors import OutputError, SourceError
from alexstream.sharding.pack import shard_split
from alexstream.sharding.split_plans import ShardRequest

BAD = ("zebra/a.jpg", "ant/z.jpg", "ant/b.jpg", "moth/c.jpg", "bee/0.jpg", "zebra/0.jpg")
GOOD = [f"{wnid}/good{number}.png" for wnid in ("ant", "bee", "moth", "zebra") for number in range(3)]


@pytest.fixture
def source(tmp_path):
    """Twelve images of four classes, and six files that are none."""
    for number, name in enumerate(GOOD):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 20 * number, np.uint8)).save(path)
    for name in BAD:
        (tmp_path / "images" / name).write_bytes(b"no image")
    return tmp_path / "images"


def request(source, out, **changes):
    return ShardRequest(source=source, folder=out, num_workers=1, **changes)


def members(folder):
    """Names and contents of the only tar."""
    (path,) = folder.glob("*.tar")
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]


def test_samples_come_in_the_order_of_their_hashed_keys_with_labels_of_four_digits(source, tmp_path):
    shard_split(request(source, tmp_path / "out", seed=7), quiet=True)
    keys = [name.replace("/", "_").removesuffix(".png") for name in GOOD]
    keys.sort(key=lambda key: hashlib.sha256(f"alexstream-plan/1:7:{key}".encode()).digest())
    found = members(tmp_path / "out")
    assert [name for name, _ in found] == [f"{key}.{ending}" for key in keys for ending in ("jpg", "cls")]
    classes = ["ant", "bee", "moth", "zebra"]
    labels = [b"%04d" % classes.index(key.partition("_")[0]) for key in keys]
    assert [content for name, content in found if name.endswith(".cls")] == labels


def test_refused_files_are_listed_by_their_paths(source, tmp_path):
    shard_split(request(source, tmp_path / "out"), quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == sorted(BAD)
    assert {row["sha256"] for row in rows} == {hashlib.sha256(b"no image").hexdigest()}


def test_as_many_bad_files_as_allowed_are_no_error_and_one_more_is(source, tmp_path):
    with pytest.raises(SourceError, match=r"6 files of .*: no usable images, more than `max_bad` 5"):
        shard_split(request(source, tmp_path / "out", max_bad=5), quiet=True)
    manifest, _ = shard_split(request(source, tmp_path / "out", max_bad=6), quiet=True)
    assert manifest.counts.quarantined == 6


def test_classes_in_another_order_than_the_split_beside_are_refused(source, tmp_path):
    shard_split(request(source, tmp_path / "out" / "train", split="train"), quiet=True)
    turned = ("zebra", "moth", "bee", "ant")
    with pytest.raises(SourceError, match=r"the finished train split beside `folder` .* or another order"):
        shard_split(request(source, tmp_path / "out" / "val", split="val", classes=turned), quiet=True)


def test_the_plan_is_bound_to_the_seed_and_the_recipe(source, tmp_path):
    shard_split(request(source, tmp_path / "out", seed=1), quiet=True)
    before = members(tmp_path / "out")
    with pytest.raises(OutputError, match="holds another data set"):
        shard_split(request(source, tmp_path / "out", seed=2), quiet=True)
    assert members(tmp_path / "out") == before
