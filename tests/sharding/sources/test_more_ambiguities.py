"""Sources whose reading turns on one folder or one name: what is asked, and what is known."""

import os
import tarfile
from pathlib import Path

import pytest

from alexstream.core.errors import SourceError
from alexstream.sharding.split_plans import ShardRequest, plan_splits
from tests.support import imagenet_miniature as mini


def make(root, *paths):
    for path in paths:
        mini.write(root / path, path.encode())
    return root


def pack(tar_path, *paths):
    with tarfile.open(tar_path, "w") as tar:
        for path in paths:
            file = tar_path.with_suffix(".part")
            file.write_bytes(mini.jpeg(len(path)))
            tar.add(file, path)
    tar_path.with_suffix(".part").unlink()
    return tar_path


def read(src, **options):
    return {
        plan.request.split: {
            os.fsdecode(row["path"]): plan.listing.classes[row["label"]] for row in plan.listing.table.to_pylist()
        }
        for plan in plan_splits(ShardRequest(source=Path(src), folder=Path("/nowhere/out"), **options))
    }


def test_known_classes_decide_the_level_only_if_all_folders_of_it_are_known(tmp_path):
    """One of the sites is called as a class is; the classes are one level down."""
    src = make(tmp_path / "sites", "ant/ant/1.jpg", "ant/bee/2.jpg", "north/ant/3.jpg", "north/bee/4.jpg")
    assert read(src, classes=("ant", "bee")) == {
        "train": {
            "ant/ant/1.jpg": "ant", "ant/bee/2.jpg": "bee", "north/ant/3.jpg": "ant", "north/bee/4.jpg": "bee",
        }
    }  # fmt: skip


def test_one_folder_of_images_that_is_called_images_is_enough_to_ask(tmp_path):
    with pytest.raises(SourceError, match="folders of images are called images, which is no name of a class"):
        read(make(tmp_path / "set", "ant/1.jpg", "bee/2.jpg", "images/3.jpg"))


def test_folders_in_each_class_that_are_called_like_a_split_are_asked_about(tmp_path):
    with pytest.raises(SourceError, match="`classes_at`"):
        read(make(tmp_path / "set", "ant/train/1.jpg", "bee/train/2.jpg"))


def test_files_without_extensions_make_a_class_in_a_tar(tmp_path):
    tar = pack(tmp_path / "set.tar", "ant/0001", "ant/0002", "bee/0003")
    (classes,) = read(tar).values()
    assert sorted(classes.values()) == ["ant", "ant", "bee"]


def test_a_tar_of_class_folders_that_tells_no_split_beside_one_that_does_is_asked_about(tmp_path):
    (tmp_path / "set").mkdir()
    for name in ("photos.tar", "val.tar"):
        pack(tmp_path / "set" / name, "ant/1.jpg", "bee/2.jpg")
    with pytest.raises(SourceError, match=r"photos\.tar"):
        read(tmp_path / "set")


def test_a_tar_is_of_the_split_in_its_name_whatever_is_asked_for(tmp_path):
    (tmp_path / "set").mkdir()
    pack(tmp_path / "set" / "val.tar", "ant/1.jpg", "bee/2.jpg")
    assert set(read(tmp_path / "set")) == {"val"}
    with pytest.raises(SourceError, match="says by its names that it is val, not train"):
        read(tmp_path / "set", split="train")
