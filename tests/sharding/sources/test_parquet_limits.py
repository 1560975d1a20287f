"""Parquet of strangers: what would take gigabytes is refused in one line before Arrow makes it; images are not."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.errors import SourceError
from alexstream.core.parquet_pages import ColumnChunk, RowGroup, walk_pages
from alexstream.sharding.sources.detect import detect_source
from alexstream.sharding.sources.parquet_file import SourceParquet, _check_page
from alexstream.sharding.sources.reader import Reader
from tests.support import imagenet_miniature as mini
from tests.support.processes import within
from tests.support.source_layouts import list_splits
from tests.support.source_splits import read_split

MIB = 1 << 20
NAME = "train-00000-of-00001.parquet"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(rows=4, *, image=None, label=None, **columns):
    """So many rows, all with the same bytes for an image where some are given."""
    images = [{"bytes": image if image is not None else mini.jpeg(i), "path": f"{i}.jpg"} for i in range(rows)]
    labels = pa.array([i % 2 for i in range(rows)]) if label is None else label
    return pa.table({"image": pa.array(images, IMAGE), "label": labels, **columns})


def repeated(text, rows):
    """One text for all rows: it is in the file once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def write(folder, content, **options):
    pq.write_table(content, folder / NAME, **{"compression": "zstd", "dictionary_pagesize_limit": 1 << 30} | options)
    return folder / NAME


def convert(folder):
    """List a source, and read each of its images, as ``shard`` does."""
    with Reader(folder) as reader:
        entries = list(read_split(detect_source(folder).splits["train"]).entries)
        return [reader.read(entry.container, entry.offset, entry.size).data for entry in entries]


def refused(folder, match):
    """In one line, soon, and before Arrow takes the memory."""
    before = pa.default_memory_pool().max_memory()
    with within(5), pytest.raises(SourceError, match=match) as caught:
        convert(folder)
    assert str(caught.value).isprintable() and NAME in str(caught.value)
    assert pa.default_memory_pool().max_memory() - before < 200 * MIB


@pytest.mark.parametrize("compression", ["zstd", "gzip", "brotli", "snappy", "lz4"])
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_page_that_unpacks_to_far_more_than_it_has_is_refused(tmp_path, compression, use_dictionary):
    path = write(tmp_path, table(1, image=bytes(65 * MIB)), compression=compression, use_dictionary=use_dictionary)
    assert path.stat().st_size < 4 * MIB
    refused(tmp_path, r"a page of column image\.bytes unpacks from [\d,]+ to 68,157,4\d\d bytes, .*leave the file out")


def header(unpacked, packed, num_values=1, encoding=0, kind=0):
    """The header of a page in Thrift's compact protocol, by hand: fields 1, 2, 3, and 5 or 7, a struct."""
    own = b"\x15" + varint(num_values) + b"\x15" + varint(encoding) + b"\x15\x06\x15\x06\x00"
    field = b"\x4c" if kind == 2 else b"\x2c"
    return b"\x15" + varint(kind) + b"\x15" + varint(unpacked) + b"\x15" + varint(packed) + field + own + b"\x00"


def varint(value):
    value, out = value << 1, []
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize(
    ("claimed", "packed", "error"),
    [
        ({}, 100, None),
        ({"unpacked": (1 << 31) - 1}, 100, "unpacks from 100 to 2,147,483,647 bytes"),
        ({"unpacked": 64 * MIB}, 100, None),
        ({"unpacked": 64 * MIB + 1}, 100, "unpacks from"),
        ({"unpacked": 80 * MIB}, 5 * MIB, None),
        ({"unpacked": 80 * MIB + 1}, 5 * MIB, "unpacks from"),
        ({"num_values": 7}, 100, None),
        ({"num_values": 8}, 100, "has 8 values for 7 rows"),
        ({"num_values": (1 << 31) - 1}, 100, "has 2,147,483,647 values for 7 rows"),
        ({"kind": 2, "num_values": 10_025}, 100, None),
        ({"kind": 2, "num_values": 10_026}, 100, "has 10,026 values for 7 rows"),
        ({"encoding": 6}, 100, "in encoding DELTA_LENGTH_BYTE_ARRAY, whose pages do not tell"),
        ({"encoding": 7}, 100, "in encoding DELTA_BYTE_ARRAY"),
        ({"encoding": 8}, 100, None),
        ({"encoding": 99}, 100, "in encoding 99"),
    ],
)
def test_what_the_header_of_a_page_may_claim(claimed, packed, error):
    content = header(**{"unpacked": 100, "packed": packed} | claimed)
    chunk = ColumnChunk("image.bytes", 0, len(content) + packed, 7)
    (page,) = walk_pages(lambda at, size: content[at : at + size], chunk)
    if error is None:
        return _check_page(page, chunk, RowGroup(7, (chunk,)))
    with pytest.raises(ValueError, match=error):
        _check_page(page, chunk, RowGroup(7, (chunk,)))


@pytest.mark.parametrize("claimed", [{"packed": 101}, {"packed": (1 << 31) - 1}, {"kind": 4}])
def test_a_page_that_leads_out_of_its_column_is_refused(claimed):
    """Else pages could be skipped, and their sizes with them."""
    content = header(**{"unpacked": 100, "packed": 100} | claimed)
    chunk = ColumnChunk("image.bytes", 0, len(content) + 100, 7)
    with pytest.raises(ValueError, match="a page lies outside its column"):
        list(walk_pages(lambda at, size: content[at : at + size], chunk))


@pytest.mark.parametrize(
    ("label", "error"),
    [
        ("x" * (70 * MIB), r"a page of column label unpacks from"),
        ("x" * (20 * MIB), r"column label unpacks to 20,97\d,\d\d\d bytes and more, expected 1,065,024 at most"),
        ("x" * 4097, r"a label has more than 4,096 bytes"),
    ],
)
def test_labels_of_megabytes_are_refused(tmp_path, label, error):
    write(tmp_path, table(4, label=repeated(label, 4)))
    refused(tmp_path, error)


def test_labels_in_many_pages_are_counted_together(tmp_path):
    labels = pa.array([f"{i}" * 900_000 for i in range(4)])
    write(tmp_path, table(4, label=labels), use_dictionary=False, data_page_size=1, write_batch_size=1)
    refused(tmp_path, r"column label unpacks to 1,800,\d\d\d bytes and more")


def test_a_path_of_megabytes_is_refused(tmp_path):
    images = [{"bytes": mini.jpeg(i), "path": "x" * (20 * MIB)} for i in range(2)]
    write(tmp_path, pa.table({"image": pa.array(images, IMAGE), "label": [0, 1]}))
    refused(tmp_path, r"column image\.path unpacks to")


def test_millions_of_rows_in_few_bytes_are_refused(tmp_path):
    nothing = pa.array([{"bytes": None, "path": None}], IMAGE)
    rows = pa.array(np.zeros(1 << 21, np.int32))
    path = write(tmp_path, pa.table({"image": nothing, "label": [0]}).take(rows))
    assert path.stat().st_size < MIB
    refused(tmp_path, r"it claims 2,097,152 rows, which [\d,]+ bytes cannot hold")


def test_a_footer_that_claims_more_rows_than_there_are_is_refused(tmp_path):
    path = write(tmp_path, table(40))
    content = path.read_bytes()
    for claimed in (1 << 40, 1 << 20):
        size = int.from_bytes(content[-8:-4], "little")
        footer = content[-8 - size : -8].replace(b"\x16\x50", b"\x16" + varint(claimed))  # 64-bit numbers that are 40
        path.write_bytes(content[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
        refused(tmp_path, f"it claims {claimed:,} rows, which")


def deep(levels, rows=4):
    kind = pa.int64()
    for _ in range(levels):
        kind = pa.list_(kind)
    return pa.nulls(rows, kind)


def test_columns_that_are_nested_deeply_are_refused_and_those_of_annotations_are_not(tmp_path):
    write(tmp_path, table(4, boxes=deep(8)))
    assert len(convert(tmp_path)) == 4
    write(tmp_path, table(4, boxes=deep(40)))
    refused(tmp_path, "nested deeper than 32 levels")


def test_metadata_larger_than_any_data_sets_are_refused_and_those_of_many_classes_are_not(tmp_path):
    names = [f"n{i:08} a name of some length, and another" for i in range(22_000)]
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    write(tmp_path, table().replace_schema_metadata({"huggingface": json.dumps(features)}))
    assert list_splits(tmp_path)["train"].classes[:2] == tuple(names[:2])
    write(tmp_path, table().replace_schema_metadata({"huggingface": "x" * (20 * MIB)}))
    refused(tmp_path, "its metadata have [0-9,]+ bytes, expected 33,554,432 at most")


def test_very_many_columns_are_refused(tmp_path):
    write(tmp_path, table(1, **{f"c{i}": pa.array([1]) for i in range(10_100)}))
    refused(tmp_path, "it has 10,10[0-9] columns, expected 1 to 10,000")


@pytest.mark.parametrize("kind", [b"\x11" * (20 * MIB), b"\x15\x02\x19\xfc\x80\x80\x80\x0a" + bytes(20 * MIB)])
def test_metadata_of_very_many_values_are_refused(tmp_path, kind):
    """A byte of a file each, and hundreds in memory: truths, and nodes of a schema that are empty."""
    (tmp_path / NAME).write_bytes(b"PAR1" + kind + len(kind).to_bytes(4, "little") + b"PAR1")
    refused(tmp_path, "have more than 1,000,000 values|a field twice")


@pytest.mark.parametrize("cut", [1, 8, 100, 3000])
def test_a_file_that_is_cut_off_is_refused(tmp_path, cut):
    path = write(tmp_path, table(40))
    path.write_bytes(path.read_bytes()[:-cut])
    refused(tmp_path, "no whole Parquet file .*fetch it again")


def test_an_encrypted_file_is_said_to_be_one(tmp_path):
    path = write(tmp_path, table())
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")
    refused(tmp_path, "it is encrypted, which is not read; leave the file out")


@pytest.mark.parametrize("options", [
    {}, {"compression": "snappy"}, {"compression": "gzip"}, {"compression": "brotli"}, {"compression": "lz4"},
    {"compression": "none"}, {"data_page_version": "2.0"}, {"use_dictionary": False}, {"row_group_size": 7},
    {"data_page_size": 1000}, {"store_schema": False}, {"write_page_index": True, "write_page_checksum": True},
    {"use_content_defined_chunking": True}, {"version": "1.0"},
])  # fmt: skip
def test_files_of_every_writer_are_read_as_before(tmp_path, options):
    content = table(50, label=pa.array(["a", "b"] * 25).dictionary_encode(), boxes=deep(2, 50))
    write(tmp_path, content, **options)
    assert convert(tmp_path) == [mini.jpeg(i) for i in range(50)]
    assert list_splits(tmp_path)["train"].classes == ("a", "b")


def test_images_of_many_megabytes_are_read_in_one_page(tmp_path):
    """Photographs do not pack: a page of them may have any size."""
    images = [{"bytes": os.urandom(8 * MIB), "path": None} for _ in range(10)]
    content = pa.table({"image": pa.array(images, IMAGE), "label": [0, 1] * 5})
    write(tmp_path, content, use_dictionary=False, data_page_size=1 << 30)
    assert convert(tmp_path) == [image["bytes"] for image in images]
    write(tmp_path, table(6, image=bytes(60 * MIB)))  # one image, named six times
    with SourceParquet(tmp_path / NAME) as file:
        assert file.count_rows_at_once(0, ["image.bytes"], 16) == 1


def test_a_column_that_is_named_otherwise_below_is_refused(tmp_path):
    """Arrow takes columns by their place; looked at is what the name says."""
    path = write(tmp_path, table(), store_schema=False)
    content = path.read_bytes()
    at = content.rindex(b"label")
    path.write_bytes(content[:at] + b"lebal" + content[at + 5 :])
    refused(tmp_path, "the columns of its row groups are not those of its schema")
