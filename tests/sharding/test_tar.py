"""Shards against the standard library's archive of the same members, byte for byte."""

import hashlib
import io
import tarfile

import pytest

from alexstream.sharding.dataset_v1.tar import Member, TarWriter, count_label_digits, encode_index, padded_bytes
from tests.support.small_dataset import tar_of

SIZES = {
    "none": [],
    "one": [77],
    "block": [512, 511, 513, 0],
    "full record": [7680],  # 8,192 bytes of the image, 1,024 of the label, 1,024 of the end: one record
    "record and a block": [7681],
    "many": [3000 * i for i in range(20)],
}


def written(sizes, digits=4):
    """A shard of images of these sizes; the writer and the file."""
    file = io.BytesIO()
    writer = TarWriter(file, digits)
    for i, size in enumerate(sizes):
        writer.add(f"key{i}", "jpg", bytes([i]) * size, i)
    writer.finish()
    return writer, file.getvalue()


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_a_shard_is_the_archive_that_tarfile_writes(sizes):
    writer, data = written(sizes)
    members = [(f"key{i}.{end}", content) for i, size in enumerate(sizes)
               for end, content in (("jpg", bytes([i]) * size), ("cls", b"%04d" % i))]  # fmt: skip
    assert data == tar_of(members)
    assert len(data) == writer.num_bytes and len(data) % 10240 == 0 and not any(data[-1024:])
    assert writer.sha256 == hashlib.sha256(data).hexdigest()


def test_members_lie_where_the_writer_says():
    writer, data = written(SIZES["many"], digits=5)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(one.name, one.offset_data, one.size) for one in tar.getmembers()]
    assert [(m.name, m.offset, m.size) for pair in writer.samples for m in pair] == expected
    for i, (image, label) in enumerate(writer.samples):
        assert data[image.offset : image.offset + image.size] == bytes([i]) * (3000 * i)
        assert data[label.offset : label.offset + label.size] == b"%05d" % i


def test_the_index_is_dalis_format():
    writer, _ = written([10, 600])
    assert encode_index(writer.samples) == (
        b"v1.2 2\n"
        b"jpg 512 10 key0.jpg cls 1536 4 key0.cls\n"
        b"jpg 2560 600 key1.jpg cls 4096 4 key1.cls\n"
    )  # fmt: skip
    assert encode_index([]) == b"v1.2 0\n"


@pytest.mark.parametrize(("size", "room"), [(0, 512), (1, 1024), (512, 1024), (513, 1536)])
def test_a_member_takes_a_header_and_whole_blocks(size, room):
    assert padded_bytes(size) == room


@pytest.mark.parametrize("length", [99, 100])
def test_a_name_may_be_as_long_as_its_field(length):
    file = io.BytesIO()
    writer = TarWriter(file)
    key = "k" * (length - 4)
    writer.add(key, "jpg", b"x", 1)
    writer.finish()
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar:
        assert tar.getnames() == [f"{key}.jpg", f"{key}.cls"]


@pytest.mark.parametrize("length", [101, 102, 155])
def test_a_longer_name_is_refused(length):
    writer = TarWriter(io.BytesIO())
    with pytest.raises(ValueError, match=f"{length} bytes, at most 100 fit"):
        writer.add("k" * (length - 4), "jpg", b"x", 1)


def test_a_name_that_is_no_ascii_is_refused():
    with pytest.raises(ValueError, match="ascii"):
        TarWriter(io.BytesIO()).add("käse", "jpg", b"x", 1)


def test_an_extension_is_all_behind_the_first_dot():
    assert Member(name="a.b.jpg", offset=0, size=0).extension == "b.jpg"
    assert Member(name="a", offset=0, size=0).extension == ""


@pytest.mark.parametrize(("classes", "digits"), [(1, 4), (9999, 4), (10_000, 4), (10_001, 5), (100_001, 6)])
def test_the_largest_label_of_a_set_fits(classes, digits):
    assert count_label_digits(classes) == digits >= len(str(classes - 1))
