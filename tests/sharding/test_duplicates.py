"""Images with identical bytes, in a set whose copies were counted by hand."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from alexstream.commands.main import main
from alexstream.core.errors import DatasetError
from alexstream.sharding.duplicates import find_duplicates
from alexstream.sharding.pack import shard_all
from alexstream.sharding.split_plans import ShardRequest

# Pictures by number. Beyond the first: 2 twice more in train, 5 once. Of val, 2 and 7 are in train, 7 under another
# class; 5 is under two classes of train.
FILES = {
    "train/cat": (1, 2, 2, 5),
    "train/dog": (5, 7, 8),
    "train/fox": (2,),
    "val/cat": (2, 7, 20),
    "val/dog": (21,),
    "val/fox": (22,),
}
TOLD = [
    "3 images of train have the bytes of another image of train",
    "2 images of val have the bytes of an image of train",
    "3 images are filed under more than one class",
]


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    source, out = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("shards") / "set"
    for folder, numbers in FILES.items():
        (source / folder).mkdir(parents=True)
        for place, number in enumerate(numbers):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(source / folder / f"{place}.png")
    for split in ("train", "val"):
        list(shard_all(ShardRequest(source=source / split, folder=out / split), quiet=True))
    return source, out


def run(*words):
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_copies_are_counted_within_and_between_splits_and_under_two_classes(copies):
    _, out = copies
    found = find_duplicates([out / "train", out / "val"])
    assert found.to_dict() == {"within": {"train": 3, "val": 0}, "between": {"train, val": 2}, "under_two_classes": 3}
    assert found.describe() == TOLD
    assert sorted(len(group) for group in found.groups) == [2, 2, 4]
    alone = find_duplicates([out / "val"])
    assert alone.describe() == [] and alone.groups == ()


def test_images_whose_hashes_only_begin_alike_are_no_copies(copies, monkeypatch):
    _, out = copies
    folders = [out / "train", out / "val"]
    found = find_duplicates(folders)
    monkeypatch.setattr("alexstream.sharding.duplicates._PREFIX", 1)
    assert find_duplicates(folders) == found


def test_shard_info_and_verify_tell_of_copies(copies, tmp_path):
    source, out = copies
    told = [f"  NOTE {text} (list them with: alexstream info {{}} --duplicates)" for text in TOLD]
    again = tmp_path / "again"
    assert run("shard", "--src", source, "--out", again, "--quiet")[-3:] == [line.format(again) for line in told]
    for command in ("info", "verify"):
        assert run(command, out)[-3:] == [line.format(out) for line in told]
    assert json.loads(run("info", out / "val", "--json")[0])["duplicates"]["within"] == {"val": 0}


def test_the_list_names_every_copy(copies):
    _, out = copies
    rows = [line.split("\t") for line in run("info", out, "--duplicates")]
    assert len(rows) == 8 and all(len(row) == 4 for row in rows)
    places = sorted((split, name) for _, split, name, _ in rows)
    picture_2 = [("train", "cat"), ("train", "cat"), ("train", "fox"), ("val", "cat")]
    picture_5, picture_7 = [("train", "cat"), ("train", "dog")], [("train", "dog"), ("val", "cat")]
    assert places == sorted([*picture_2, *picture_5, *picture_7])
    objects = [json.loads(line) for line in run("info", out, "--duplicates", "--json")]
    assert [(one["split"], one["wnid"]) for one in objects] == [(split, name) for _, split, name, _ in rows]


def test_a_catalog_of_a_stranger_without_hashes_is_an_error(copies, monkeypatch):
    _, out = copies
    monkeypatch.setattr(
        "alexstream.sharding.duplicates.load_catalog_shard",
        lambda folder, shard, columns: {"source_sha256": np.array(["no hash"] * shard.num_samples, object)},
    )
    with pytest.raises(DatasetError, match=r"train-000000\.parquet: source_sha256 holds something else"):
        find_duplicates([out / "train"])
