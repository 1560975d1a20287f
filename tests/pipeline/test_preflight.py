"""Looks before reading: the header of a stored sample, which is USTAR and nothing like it, and the size of a shard."""

import os
import tarfile

import numpy as np
import pytest

from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.preflight import parse_tar_header
from alexstream.pipeline.reading.shards import LocalShards
from alexstream.sharding.dataset_v1.manifest import load_manifest
from tests.support.small_dataset import Small


def ustar(name, size, magic=b"ustar\00000"):
    """A header by the standard library, with another magic and the checksum that belongs to it."""
    info = tarfile.TarInfo(name)
    info.size = size
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[257:265] = magic
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_name_and_size_are_those_of_the_header():
    assert parse_tar_header(ustar("a.jpg", 1234)) == ("a.jpg", 1234)
    assert parse_tar_header(ustar("b/" + "c" * 99, 5)) == ("b/" + "c" * 99, 5)


def test_what_is_no_ustar_header_is_none():
    assert parse_tar_header(ustar("a.jpg", 1234, magic=bytes(8))) is None  # of the time before USTAR
    assert parse_tar_header(ustar("a.jpg", 1234)[:511]) is None
    broken = bytearray(ustar("a.jpg", 1234))
    broken[0] ^= 1
    assert parse_tar_header(bytes(broken)) is None
    assert parse_tar_header(bytes(512)) is None


def test_a_shard_that_shrinks_after_it_was_checked_is_an_error_when_it_is_opened(tmp_path):
    small = Small(tmp_path / "train")
    manifest = load_manifest(small.folder)
    shards = LocalShards(small.folder, manifest.shards)
    tar = small.folder / f"{manifest.shards[1].name}.tar"
    os.truncate(tar, 1024)
    assert len(shards.descriptors(np.array([0]))) == 1
    with pytest.raises(StreamError, match=rf"{tar} has 1024 bytes, but the manifest says"):
        shards.descriptors(np.array([1]))
    shards.close()
