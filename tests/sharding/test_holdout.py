"""A share of every class that is held out for validation, against the rule of docs/formats.md written out."""

import hashlib
import json
import os
import shutil
import tarfile
from collections import defaultdict

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from alexstream.commands.main import main
from alexstream.core.errors import SourceError
from alexstream.sharding.pack import convert_splits, shard_all
from alexstream.sharding.split_plans import ShardRequest

COUNTS = {"ape": 1, "bee": 2, "cat": 6, "dog": 25}
# A quarter: 1 × ¼ is none of one; 2 × ¼ = ½ is 1; 6 × ¼ = 1½ is 2; 25 × ¼ = 6¼ is 6.
HELD_OUT = {"ape": 0, "bee": 1, "cat": 2, "dog": 6}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "pets"
    rng = np.random.default_rng(5)
    for name, count in COUNTS.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / name / f"{i:02d}.png")
    (folder / "cat" / "Thumbs.db").write_text("no picture")
    return folder


def keys_of(folder):
    """Class → keys of the shards' images, read as tars."""
    found = defaultdict(set)
    classes = json.loads((folder / "manifest.json").read_text())["classes"]
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension == "cls":
                    found[classes[int(tar.extractfile(member).read())]].add(key)
    return found


def shard(*words):
    return CliRunner().invoke(main, ["shard", *map(str, words), "--quiet"])


def test_the_first_of_each_class_by_hash_are_held_out(photos, tmp_path):
    result = shard("--src", photos, "--out", tmp_path / "out", "--val-share", 0.25, "--seed", 7)
    assert result.exit_code == 0, result.output
    train, val = (keys_of(tmp_path / "out" / split) for split in ("train", "val"))
    for name, count in COUNTS.items():
        of_class = {f"{name}_{i:02d}" for i in range(count)}
        by_hash = sorted(of_class, key=lambda key: hashlib.sha256(f"alexstream-holdout/1:7:{key}".encode()).digest())
        assert val[name] == set(by_hash[: HELD_OUT[name]])
        assert train[name] == of_class - val[name]
    manifests = {s: json.loads((tmp_path / "out" / s / "manifest.json").read_text()) for s in ("train", "val")}
    assert manifests["train"]["classes"] == manifests["val"]["classes"] == sorted(COUNTS)
    found = [manifests[split]["counts"] for split in ("train", "val")]
    assert [c["found"] for c in found] == [26, 9] and [c["excluded"] for c in found] == [1, 0]
    said = "25 % of the images of each class, chosen with seed 7"
    assert manifests["train"]["notices"][-1] == f"9 images are held out as val: {said}"
    assert manifests["val"]["notices"] == [f"held out of train: {said}"]
    assert sorted(path.name for path in photos.iterdir()) == sorted(COUNTS)  # nothing was moved
    again = shard("--src", photos, "--out", tmp_path / "out", "--val-share", 0.25, "--seed", 7)
    assert again.output.count("already complete") == 2


def test_a_tar_of_the_same_images_gives_the_same_splits(photos, tmp_path):
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(photos, "pets")
    for source, out in ((photos, "a"), (tmp_path / "pets.tar", "b")):
        list(shard_all(ShardRequest(source=source, folder=tmp_path / out, val_share=0.3), quiet=True))
    for split in ("train", "val"):
        shards = [sorted((tmp_path / out / split).glob("*.tar")) for out in "ab"]
        assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]


def test_another_seed_holds_out_others(photos, tmp_path):
    for seed in (1, 2):
        list(shard_all(ShardRequest(source=photos, folder=tmp_path / str(seed), val_share=0.5, seed=seed), quiet=True))
    held = [keys_of(tmp_path / seed / "val") for seed in "12"]
    assert [len(one["dog"]) for one in held] == [13, 13] and held[0]["dog"] != held[1]["dog"]


def test_a_continued_conversion_holds_out_the_same(photos, tmp_path):
    request = ShardRequest(source=photos, folder=tmp_path / "out", val_share=0.25)
    next(convert_splits(request, quiet=True))  # train alone, as if stopped there
    assert [worked for _, _, worked in shard_all(request, quiet=True)] == [False, True]


def test_a_tar_whose_inode_changed_meanwhile_is_listed_and_divided_again(photos, tmp_path, capsys):
    archive = tmp_path / "pets.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(photos, "pets")

    def replace_tar(plan):
        shutil.copy2(archive, tmp_path / "copy")
        os.replace(tmp_path / "copy", archive)

    request = ShardRequest(source=archive, folder=tmp_path / "out", val_share=0.25)
    assert [worked for _, _, worked in shard_all(request, quiet=True, show=replace_tar)] == [True, True]
    assert capsys.readouterr().err.count("inode number or time of change is another than before") == 2


@pytest.mark.parametrize("share", [-0.1, 1, 2])
def test_a_share_that_leaves_nothing_to_train_on_is_refused(photos, tmp_path, share):
    result = shard("--src", photos, "--out", tmp_path / "out", "--val-share", share)
    assert result.exit_code == 2 and "--val-share" in result.output and not (tmp_path / "out").exists()
    with pytest.raises(SourceError, match="above 0 and below 1"):
        ShardRequest(source=photos, folder=tmp_path, val_share=share)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--split", "val"], "is read as val; give --split train"), (["--split", "test"], "is read as test")],
)
def test_a_share_is_taken_from_a_training_split_only(photos, tmp_path, words, said):
    result = shard("--src", photos, "--out", tmp_path / "out", "--val-share", 0.1, *words)
    assert result.exit_code == 1 and said in result.output and not (tmp_path / "out").exists()


def test_a_source_with_a_validation_split_is_not_divided_again(photos, tmp_path):
    for split in ("train", "val"):
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "dog").symlink_to(photos / "dog")
        (tmp_path / "set" / split / "cat").symlink_to(photos / "cat")
    result = shard("--src", tmp_path / "set", "--out", tmp_path / "out", "--val-share", 0.1)
    assert result.exit_code == 1 and "has a validation split already; leave the option out" in result.output


def test_classes_of_one_image_each_give_no_validation_split(tmp_path):
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (name == "a" and "red") or "blue").save(tmp_path / "set" / name / "1.png")
    result = shard("--src", tmp_path / "set", "--out", tmp_path / "out", "--val-share", 0.4)
    assert result.exit_code == 1 and "no class of" in result.output and "has two images or more" in result.output
