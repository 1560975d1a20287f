"""What is noticed as a data set is opened: every damage is an error that names file, key and remedy."""

import errno
import hashlib
import os
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from alexstream.core.errors import DatasetError
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.reading.preflight import HEADER_BYTES, parse_tar_header
from alexstream.sharding.dataset_v1.catalog import load_catalog_shard
from alexstream.sharding.dataset_v1.manifest import load_manifest, save_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.pack import shard_all
from alexstream.sharding.split_plans import ShardRequest

REMEDY = r"restore the shard or shard the source again \(all damage is listed by: alexstream verify --fast "


def sharded(tmp, num_images):
    """So many drawn images as raw pixels: 64 a shard."""
    (tmp / "source" / "class").mkdir(parents=True)
    for i in range(num_images):
        Image.new("RGB", (224, 224), (i, 255 - i, 7)).save(tmp / "source" / "class" / f"{i:03d}.png")
    encode = EncodeRecipe(encoding="raw", size_px=224)
    request = ShardRequest(source=tmp / "source", folder=tmp / "train", encode=encode, num_workers=1, classes_at=1)
    list(shard_all(request, quiet=True))
    return tmp / "train"


@pytest.fixture(scope="module")
def equal_shards(tmp_path_factory):
    """Two shards of 64 samples and of one size."""
    return sharded(tmp_path_factory.mktemp("equal"), 128)


@pytest.fixture
def copy(equal_shards, tmp_path):
    """A data set that a test may break."""
    return shutil.copytree(equal_shards, tmp_path / "train")


def keys_of(folder, number):
    manifest = load_manifest(folder)
    return load_catalog_shard(folder, manifest.shards[number], ("key",))["key"].tolist()


def overwrite(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_an_undamaged_data_set_opens(equal_shards):
    assert len(open_dataset(equal_shards)) == load_manifest(equal_shards).num_samples


def test_two_swapped_shards_of_one_size_are_noticed(copy):
    first, second = copy / "train-000000.tar", copy / "train-000001.tar"
    assert first.stat().st_size == second.stat().st_size
    first.rename(copy / "x")
    second.rename(first)
    (copy / "x").rename(second)
    here, there = keys_of(copy, 0)[0], keys_of(copy, 1)[0]
    message = rf"shard .*train-000000\.tar, sample {here}: the catalog expects {here}\.rgb \(150528 bytes\) at byte 512"
    with pytest.raises(StreamError, match=rf"{message}, found {there}\.rgb \(150528 bytes\); .*{REMEDY}{copy}"):
        open_dataset(copy)


@pytest.mark.parametrize("row", [0, 31, 63])
def test_the_first_the_middle_and_the_last_sample_are_looked_at(copy, row):
    offset = int(open_dataset(copy).offset_N[64 + row])
    overwrite(copy / "train-000001.tar", offset - HEADER_BYTES, b"foreign.rgb\0")
    with pytest.raises(StreamError, match=rf"train-000001\.tar, sample {keys_of(copy, 1)[row]}: .* found no file"):
        open_dataset(copy)


def test_a_member_of_the_right_name_and_another_size_is_noticed(copy):
    """Its header is whole, with the checksum that belongs to it: only the size is not the catalog's."""
    offset, key = int(open_dataset(copy).offset_N[0]), keys_of(copy, 0)[0]
    with tarfile.open(copy / "train-000000.tar") as tar:
        header = tar.next()
    assert header.name == f"{key}.rgb" and header.size == 224 * 224 * 3
    header.size -= 512
    overwrite(copy / "train-000000.tar", offset - HEADER_BYTES, header.tobuf(tarfile.USTAR_FORMAT))
    expected = rf"sample {key}: the catalog expects {key}\.rgb \(150528 bytes\) .* found {key}\.rgb \(150016 bytes\)"
    with pytest.raises(StreamError, match=expected):
        open_dataset(copy)


def test_a_shard_of_the_right_size_without_content_is_noticed(copy):
    tar = copy / "train-000001.tar"
    size = tar.stat().st_size
    tar.write_bytes(b"")
    os.truncate(tar, size)
    with pytest.raises(StreamError, match=rf"train-000001\.tar, sample {keys_of(copy, 1)[0]}: .* found no file"):
        open_dataset(copy)


def test_an_index_that_does_not_fit_is_noticed(copy):
    shutil.copy(copy / "train-000000.idx", copy / "train-000001.idx")
    with pytest.raises(StreamError, match=r"train-000001\.idx: sha256 differs .* restore it, or shard the source"):
        open_dataset(copy)


def test_a_missing_index_is_noticed(copy):
    (copy / "train-000001.idx").unlink()
    with pytest.raises(StreamError, match=r"train-000001\.idx is missing; restore it, or shard the source again"):
        open_dataset(copy)


def test_a_missing_or_cut_tar_is_noticed(copy):
    tar = copy / "train-000001.tar"
    os.truncate(tar, tar.stat().st_size - 512)
    with pytest.raises(StreamError, match=r"train-000001\.tar has \d+ bytes, but the manifest says \d+ bytes; restore"):
        open_dataset(copy)
    tar.unlink()
    with pytest.raises(StreamError, match=r"train-000001\.tar is missing"):
        open_dataset(copy)


def test_a_catalog_with_other_rows_than_the_manifest_says_is_noticed(copy):
    """Its digest is right: only a wrong manifest can say so."""
    path = copy / "train-000001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 63), path)
    manifest = load_manifest(copy)
    shards = list(manifest.shards)
    shards[1] = replace(shards[1], catalog_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    save_manifest(copy, replace(manifest, shards=tuple(shards)))
    with pytest.raises(DatasetError, match=r"train-000001\.parquet has 63 rows, but the manifest says 64 samples; "):
        open_dataset(copy)


def test_a_disk_error_is_an_error_that_names_the_shard(copy, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(StreamError, match=r"train-00000\d\.tar cannot be read at byte 0: Input/output error; restore"):
        open_dataset(copy)


def test_the_header_is_read_as_the_standard_library_writes_it(copy):
    long = "folder" * 15 + "/" + "name" * 20 + ".jpg"
    for name, size in (("key.jpg", 0), ("key.rgb", 8**11 - 1), (long, 77)):
        info = tarfile.TarInfo(name)
        info.size = size
        header = info.tobuf(tarfile.USTAR_FORMAT)
        assert parse_tar_header(header) == (name, size)
        assert parse_tar_header(header[:-1]) is None and parse_tar_header(bytes(512)) is None
        assert parse_tar_header(b"x" + header[1:]) is None
        assert parse_tar_header(header[:124] + b"x" * 12 + header[136:]) is None


def test_a_shard_may_hold_one_sample(tmp_path):
    assert len(open_dataset(sharded(tmp_path, 1))) == 1


def test_a_reopened_split_has_descriptors_of_its_own(equal_shards):
    opened = open_dataset(equal_shards)
    first, second = opened.reopen_shards(), opened.reopen_shards()
    (descriptor,) = second.shards.descriptors(np.array([0]))
    first.shards.descriptors(np.array([0]))
    first.shards.close()
    opened.shards.close()
    assert len(os.pread(descriptor, 512, 0)) == 512
    second.shards.close()
