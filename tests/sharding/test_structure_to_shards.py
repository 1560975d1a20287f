"""From the command line to the shards: an image has the class of its folder, and what was understood is said."""

import hashlib
import io
import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from alexstream.commands.main import main
from alexstream.sharding.dataset_v1.catalog import load_catalog
from alexstream.sharding.dataset_v1.manifest import load_manifest
from tests.support import imagenet_miniature as mini


def png(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def call(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def images_of(folder, *classes, count=2):
    """``count`` images in each of some class folders: path → (bytes, class)."""
    names = [(f"{folder}/{wnid}/{i}.png", wnid) for wnid in classes for i in range(count)]
    return {path: (png(int.from_bytes(path.encode(), "big")), wnid) for path, wnid in names}


def written(folder):
    """The class of every source image, by the sha256 of its bytes, as the shards' catalog says."""
    manifest = load_manifest(folder)
    rows = load_catalog(folder, manifest, ("source_sha256", "wnid", "label"))
    assert [manifest.classes[label] for label in rows["label"]] == list(rows["wnid"])
    return dict(zip(rows["source_sha256"], rows["wnid"], strict=True))


def truth_of(images):
    return {hashlib.sha256(data).hexdigest(): wnid for data, wnid in images.values()}


SOURCES = {
    "flowers packed with the folder above": {"train": images_of("./x/flowers", "daisy", "rose", "tulip")},
    "Training and Testing": {"train": images_of("Training", "a", "b"), "test": images_of("Testing", "a", "b")},
    "wrapped splits": {"train": images_of("d/seg_train/seg_train", "x", "y"), "val": images_of("d/valid", "y", "x")},
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_the_shards_hold_the_classes_of_the_folders(tmp_path, name, packed):
    splits = SOURCES[name]
    everything = {path: data for images in splits.values() for path, (data, _) in images.items()}
    if packed:
        src = tmp_path / "data.tar"
        mini.write(src, mini.tar_bytes(list(everything.items())))
    else:
        src = tmp_path / "data"
        for path, data in everything.items():
            mini.write(src / path, data)
    done = call("shard", "--src", src, "--out", tmp_path / "out", "--quiet", "--workers", 1)
    assert done.exit_code == 0, done.output
    for split, images in splits.items():
        folder = tmp_path / "out" / split if len(splits) > 1 else tmp_path / "out"
        assert written(folder) == truth_of(images)


def test_what_was_understood_comes_first_and_in_info(tmp_path):
    for path, (data, _) in images_of("src/train", *(f"class{i}" for i in range(9))).items():
        mini.write(tmp_path / path, data)
    mini.write(tmp_path / "src/train/class3/9.png", png(1))
    mini.write(tmp_path / "src/train/class3/@eaDir/9.png", png(2))
    mini.write(tmp_path / "src/val/class0/0.png", png(3))
    mini.write(tmp_path / "src/val/.DS_Store", b"x")
    options = ("--src", tmp_path / "src", "--out", tmp_path / "out", "--quiet", "--workers", 1)
    for command in (("shard", *options, "--dry-run"), ("shard", *options)):
        said = call(*command).output
        lines = said.splitlines()
        assert "  9 classes: class0, class1, class2, …, class6, class7, class8   (all of them: --list-classes)" in lines
        assert "  images per class: 2 (class0), median 2, 3 (class3)" in lines
        assert "  images per class: 0 (class1), median 0, 1 (class0)" in lines
        assert "  NOTE 8 classes without images: class1, class2, class3, …, class6, class7, class8" in lines
        assert "  NOTE left out: 1 × system file, the first: train/class3/@eaDir" in lines
        assert "    4: class4 (2)" in call(*command, "--list-classes").output.splitlines()
    told = call("info", tmp_path / "out").output
    assert "images per class: 2 (class0), median 2, 3 (class3)" in told
    assert "    8: class8 (2)" in call("info", tmp_path / "out", "--list-classes").output.splitlines()
    facts = json.loads(call("info", tmp_path / "out/train", "--json").output)
    assert facts["samples_per_class"] == {"smallest": 2, "median": 2, "largest": 3}
    assert facts["class_list"] == {f"class{i}": 3 if i == 3 else 2 for i in range(9)}


def test_classes_of_the_validation_split_are_compared_before_anything_is_written(tmp_path):
    for path, (data, _) in {**images_of("src/train", "a", "b"), **images_of("src/val", "c")}.items():
        mini.write(tmp_path / path, data)
    done = call("shard", "--src", tmp_path / "src", "--out", tmp_path / "out", "--quiet")
    assert done.exit_code == 1 and "class 'c'" in done.output
    assert not (tmp_path / "out").exists()


def test_a_question_is_one_line_and_its_answer_converts(tmp_path):
    images = {**images_of("src/site1", "cat", "dog"), **images_of("src/site2", "cat", "dog")}
    for path, (data, _) in images.items():
        mini.write(tmp_path / path, data)
    options = ("--src", tmp_path / "src", "--out", tmp_path / "out", "--quiet", "--workers", 1)
    asked = call("shard", *options)
    assert asked.exit_code == 1 and len(asked.output.splitlines()) == 1
    assert "--classes-at 1 for 2 classes (site1, site2), --classes-at 2 for 2 classes (cat, dog)" in asked.output
    assert call("shard", *options, "--classes-at", "last").exit_code == 0
    assert written(tmp_path / "out") == truth_of(images)
    assert call("verify", tmp_path / "out", "--quiet").exit_code == 0
    assert call("shard", *options, "--classes-at", "top").exit_code == 2


def test_every_note_is_said_once(tmp_path):
    for path, (data, _) in images_of("src", "n01440764", "n01443537").items():
        mini.write(tmp_path / path, data)
    options = ("--src", tmp_path / "src", "--out", tmp_path / "out", "--quiet", "--workers", 1)
    first, again = call("shard", *options).output, call("shard", *options).output
    for said in (first, again):
        notes = [line for line in said.splitlines() if "NOTE" in line]
        assert len(notes) == len(set(notes)) == 1 and "partial ILSVRC2012" in notes[0]
    assert "already complete" in again


def test_one_of_a_kind_is_spoken_of_in_the_singular(tmp_path):
    for path, (data, _) in images_of("src", "cat", count=1).items():
        mini.write(tmp_path / path, data)
    mini.write(tmp_path / "classes", b"cat\n")
    options = ("--src", tmp_path / "src", "--out", tmp_path / "out", "--quiet", "--workers", 1)
    options += ("--classes", tmp_path / "classes")
    said = call("shard", *options, "--dry-run").output + call("shard", *options).output
    said += call("info", tmp_path / "out").output + call("verify", tmp_path / "out").output
    for words in ("1 file of 1 class, 0 excluded", "1 class: cat", "1 sample of 1 class in 1 shard (", "1 worker "):
        assert words in said
    assert not re.findall(r"\b1 (?:class|image|file|sample|shard|worker|finding|thread)e?s\b", said)
