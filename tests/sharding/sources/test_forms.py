"""One image set in every form: equal keys, labels and bytes, read where they lie."""

import io
import os
import pickle
import tarfile
from pathlib import PurePosixPath

import pytest

from alexstream.core.errors import BadImageError, SourceError
from alexstream.sharding import listing
from alexstream.sharding.sources.detect import detect_source
from alexstream.sharding.sources.reader import FileStamp, Reader
from tests.support import imagenet_miniature as mini
from tests.support.source_layouts import expected_content, hash_content, list_splits
from tests.support.source_splits import read_split


@pytest.mark.parametrize("form", mini.FORMS)
def test_every_form_gives_the_same_keys_labels_and_bytes(tmp_path, form):
    mini.FORMS[form](tmp_path)
    assert hash_content(tmp_path) == expected_content()


@pytest.mark.parametrize("inner", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
def test_kaggle_may_be_given_at_any_of_its_folders(tmp_path, inner):
    mini.write_kaggle(tmp_path)
    assert hash_content(tmp_path / inner) == expected_content()


def test_a_devkit_still_packed_labels_a_flat_val_folder(tmp_path):
    mini.write_flat_val(tmp_path, packed=True)
    assert hash_content(tmp_path) == expected_content()


def test_a_folder_of_flat_val_images_finds_the_devkit_beside_it(tmp_path):
    mini.write_flat_val(tmp_path)
    assert hash_content(tmp_path / "val") == {"val": expected_content()["val"]}


@pytest.mark.parametrize("name", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"])
def test_one_archive_is_a_source_of_one_split(tmp_path, name):
    mini.write_archives(tmp_path)
    split = "train" if "train" in name else "val"
    assert hash_content(tmp_path / name) == {split: expected_content()[split]}


def test_one_parquet_file_and_one_webdataset_tar_are_sources(tmp_path):
    mini.write_parquet(tmp_path / "p")
    mini.write_webdataset(tmp_path / "w")
    assert len(hash_content(tmp_path / "p/data/train-00000-of-00002.parquet")["train"]) == 4
    assert len(hash_content(tmp_path / "w/imagenet1k-train-0000.tar")["train"]) == 4


def test_splits_come_in_the_order_train_val(tmp_path):
    mini.write_archives(tmp_path)
    assert list(detect_source(tmp_path).splits) == ["train", "val"]


def test_the_sentence_names_the_archives(tmp_path):
    mini.write_archives(tmp_path)
    assert detect_source(tmp_path).description == (
        "imagenet: original archives (ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz)"
    )


def test_names_and_ids_come_from_the_devkit_without_the_nodes_above_the_classes(tmp_path):
    mini.write_archives(tmp_path)
    train = list_splits(tmp_path)["train"]
    assert train.ilsvrc2012_ids == mini.IDS
    assert train.class_names == mini.WORDS


@pytest.mark.parametrize("form", ["kaggle", "parquet"])
def test_names_come_with_kaggle_and_with_the_hub(tmp_path, form):
    mini.FORMS[form](tmp_path)
    assert list_splits(tmp_path)["train"].class_names == mini.WORDS


@pytest.mark.parametrize("form", mini.FORMS)
def test_every_file_of_the_source_is_an_image_its_container_or_excluded(tmp_path, form):
    mini.FORMS[form](tmp_path)
    accounted = set()
    for lst in list_splits(tmp_path).values():
        accounted |= {image.container for image in listing.iter_images(lst.table, lst.classes)}
        excluded = [PurePosixPath(path) for path, _ in lst.excluded]
        accounted |= {str(place) for path in excluded for place in (path, *path.parents) if place.suffix == ".parquet"}
        accounted |= set(map(str, excluded))
    for file in tmp_path.rglob("*"):
        path = file.relative_to(tmp_path)
        if file.is_file():
            assert any(str(p) in accounted for p in [path, *path.parents]), path


def test_paths_tell_people_where_an_image_lies(tmp_path):
    mini.write_archives(tmp_path)
    first = next(iter(read_split(detect_source(tmp_path).splits["train"]).entries))
    assert first.path == "ILSVRC2012_img_train.tar/n01440764.tar/n01440764_10026.JPEG"
    assert first.name == "n01440764/n01440764_10026.JPEG"


def test_a_finished_data_set_can_be_sharded_again(sample_shards):
    lists = list_splits(sample_shards)
    assert {split: len(lst) for split, lst in lists.items()} == {
        split: len([f for f in (sample_shards / split).glob("*.tar") for _ in keys_of(f)]) for split in lists
    }
    for split, lst in lists.items():
        keys = [key for tar in sorted((sample_shards / split).glob("*.tar")) for key in keys_of(tar)]
        assert lst.table.column("key").to_pylist() == keys


def keys_of(tar):
    import tarfile

    with tarfile.open(tar) as file:
        return [name.removesuffix(".jpg") for name in file.getnames() if name.endswith(".jpg")]


def test_a_reader_pickles_as_its_root_and_reads_after_close(tmp_path):
    mini.write_archives(tmp_path)
    entry = next(iter(read_split(detect_source(tmp_path).splits["train"]).entries))
    reader = Reader(tmp_path)
    data = reader.read(entry.container, entry.offset, entry.size).data
    reader.close()
    assert pickle.loads(pickle.dumps(reader)).read(entry.container, entry.offset, entry.size).data == data
    assert reader.read(entry.container, entry.offset, entry.size).data == data


def test_an_image_that_is_gone_is_unreadable_and_an_archive_that_is_gone_ends_the_work(tmp_path):
    mini.write_archives(tmp_path)
    reader = Reader(tmp_path)
    with pytest.raises(BadImageError) as error:
        reader.read("gone.JPEG", -1, 0)
    assert error.value.reason == "unreadable"
    for place in [("gone.tar", 512, 5), ("gone.parquet", 0, 0)]:
        with pytest.raises(SourceError, match=r"No such file.*when it was listed: run the same command again"):
            reader.read(*place)
    with pytest.raises(SourceError, match="within an image"):
        reader.read("ILSVRC2012_img_val.tar", 1 << 40, 5)
    with pytest.raises(SourceError, match="no file of 5 bytes begins at byte 600"):
        reader.read("ILSVRC2012_img_val.tar", 600, 5)


def test_a_reader_keeps_few_files_open(tmp_path):
    for i in range(40):
        with tarfile.open(tmp_path / f"{i}.tar", "w") as tar:
            member = tarfile.TarInfo("one")
            member.size = 1
            tar.addfile(member, io.BytesIO(bytes([i])))
    reader = Reader(tmp_path)
    assert [reader.read(f"{i}.tar", 512, 1).data for i in range(40)] == [bytes([i]) for i in range(40)]
    assert len(reader._ranges) <= 8


@pytest.mark.parametrize("write", [mini.write_folder, mini.write_archives])
def test_bytes_come_with_the_stamp_of_the_file_they_are_in(tmp_path, write):
    write(tmp_path)
    entry = next(iter(read_split(detect_source(tmp_path).splits["train"]).entries))
    with Reader(tmp_path) as reader:
        data, stamp = reader.read(entry.container, entry.offset, entry.size)
    assert len(data) > 100 and stamp == FileStamp.from_stat(os.stat(tmp_path / entry.container))


def test_a_file_that_is_written_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    path, real, changed = tmp_path / "a.jpg", os.fstat, []
    path.write_bytes(b"old!")

    def fstat(descriptor):
        found = real(descriptor)
        if not changed:
            path.write_bytes(b"new!")
            os.utime(path, (5, 5))
            changed.append(path)
        return found

    monkeypatch.setattr("alexstream.sharding.sources.reader._PAUSE_S", 0)
    monkeypatch.setattr(os, "fstat", fstat)
    data, stamp = Reader(tmp_path).read("a.jpg", -1, 0)
    assert changed and (data, stamp.mtime_ns) == (b"new!", 5 * 10**9)
