"""Compressed archives beside what is read: asked about where they may be a split or a class, else named."""

import io
import tarfile
import zipfile

import pytest

from alexstream.core.errors import SourceError
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import make_files, pack_tar, plan_source, read_classes

VAL = ["val/cat/1.jpg", "val/dog/2.jpg"]
CLASSES = ["cat/1.jpg", "dog/2.jpg"]


def pack_compressed(path, *names):
    """Write a compressed archive, of the kind that its name says, of files that hold their names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, name)
    elif path.suffix in (".7z", ".rar"):  # whose members are not looked at
        path.write_bytes(b"")
    else:
        with tarfile.open(path, "w:" + {".tgz": "gz"}.get(path.suffix, path.suffix[1:])) as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(name)
                archive.addfile(entry, io.BytesIO(name.encode()))


@pytest.mark.parametrize("above", ["", "wrap/"])
@pytest.mark.parametrize("name", ["train.tar.gz", "train.zip", "imagenet_train.tgz", "Train.tar.bz2", "train.7z"])
def test_an_archive_of_a_split_that_is_not_there_is_an_error(tmp_path, name, above):
    make_files(tmp_path / "src", *(above + path for path in VAL))
    pack_compressed(tmp_path / "src" / above / name, "train/cat/1.jpg")
    with pytest.raises(SourceError, match=rf"{name} is named for the train split.*unpack it, or .*`split` val$"):
        read_classes(tmp_path / "src")
    (val,) = plan_source(tmp_path / "src", split="val")
    assert len(val.listing) == 2
    assert (f"{above}{name}", "compressed archive, not read: unpack it") in val.listing.excluded


def test_an_archive_of_a_split_beside_a_tar_or_in_one_is_an_error(tmp_path):
    pack_tar(tmp_path / "tars/val.tar", "cat/1.jpg", "dog/1.jpg")
    pack_compressed(tmp_path / "tars/train.tar.gz", "cat/1.jpg")
    pack_tar(tmp_path / "all.tar", *VAL, "train.zip")
    for src in (tmp_path / "tars", tmp_path / "all.tar"):
        with pytest.raises(SourceError, match="named for the train split"):
            read_classes(src)
        assert list(read_classes(src, split="val")) == ["val"]


@pytest.mark.parametrize("name", ["fox.zip", "fox.tar.gz", "more.tar.xz", "fox.rar"])
def test_an_archive_that_may_be_a_class_is_an_error(tmp_path, name):
    make_files(tmp_path / "src", *CLASSES)
    pack_compressed(tmp_path / "src" / name, "fox/1.jpg")
    with pytest.raises(SourceError, match=rf"{name} lies beside class folders.*`classes_at` 1 for 2 classes"):
        read_classes(tmp_path / "src")
    (train,) = plan_source(tmp_path / "src", classes_at=1)
    assert train.listing.excluded == ((name, "compressed archive, not read: unpack it"),)


# archives that hold nothing new, by their names or by what is in them
COPIES = {
    "a class that is there": (CLASSES, "cat.zip", ["1.jpg"]),
    "classes that are there": (CLASSES, "archive.zip", ["photos/cat/1.jpg", "photos/dog/2.jpg"]),
    "texts": (CLASSES, "annotations.tar.gz", ["annotations/cat.xml"]),
    "the folder that it was unpacked to": (["pets/cat/1.jpg", "pets/dog/2.jpg"], "pets.tar.gz", ["x/1.jpg"]),
    "a split that is there": (["train/cat/1.jpg", "train/dog/1.jpg"], "train.zip", ["1.jpg"]),
    "boxes of a split": (["train/cat/1.jpg", "train/dog/1.jpg"], "bbox_val.tgz", ["1.xml"]),
    "a table": (CLASSES, "test.csv.gz", []),
}


@pytest.mark.parametrize("name", COPIES)
def test_an_archive_of_what_is_there_is_left_out_and_named(tmp_path, name):
    paths, archive, inside = COPIES[name]
    make_files(tmp_path / "src", *paths)
    if inside:
        pack_compressed(tmp_path / "src" / archive, *inside)
    else:
        mini.write(tmp_path / "src" / archive, b"\x1f\x8b")
    (train,) = plan_source(tmp_path / "src")
    assert len(train.listing) == 2
    assert train.listing.excluded == ((archive, "compressed archive, not read: unpack it"),)
