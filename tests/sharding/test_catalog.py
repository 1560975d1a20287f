"""Catalogs of kilobytes that would become gigabytes: refused before they are unpacked, whatever their metadata say."""

import io
import tracemalloc
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.parquet_pages import read_column_chunks, read_pages, sum_decompressed_bytes
from alexstream.sharding.dataset_v1.catalog import CATALOG_COLUMNS, CATALOG_INTEGERS, read_catalog
from tests.support.processes import within

MIB = 1 << 20


def columns_of(rows, **changes):
    """Columns of a catalog of so many samples that differ."""
    chance = np.random.default_rng(1)
    columns = {name: [f"{name}{i % 3}" for i in range(rows)] for name in CATALOG_COLUMNS}
    columns |= {name: [int(n) for n in chance.integers(0, 1 << 30, rows)] for name in CATALOG_INTEGERS}
    for name in ("source_sha256", "stored_sha256"):
        columns[name] = [chance.bytes(32).hex() for _ in range(rows)]
    return columns | {"key": [f"n01440764_{i}" for i in range(rows)]} | changes


def parquet(columns, **options):
    """A Parquet file."""
    table = pa.table(
        {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **{"compression": "zstd", "store_schema": False} | options)
    return buffer.getvalue()


def repeated(text, rows):
    """One text for all rows: it is in the file once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))


def refused(data, rows, match, columns=CATALOG_COLUMNS):
    """Refused at once, and before Arrow takes memory for it."""
    before = pa.default_memory_pool().max_memory()
    tracemalloc.start()
    try:
        with within(5), pytest.raises((ValueError, OSError, pa.ArrowException), match=match):
            read_catalog(data, columns, rows)
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB + 20 * len(data)
    finally:
        tracemalloc.stop()
    assert pa.default_memory_pool().max_memory() - before < 64 * MIB


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_catalog_comes_back_as_it_was_however_it_is_packed(compression, version):
    columns = columns_of(5000, notes=[""] * 2500 + ["was PNG"] * 2500, source=[f"é{i}" * 50 for i in range(5000)])
    for use_dictionary in (True, False):
        data = parquet(
            columns, compression=compression, data_page_version=version, use_dictionary=use_dictionary,
            row_group_size=1700, data_page_size=1000,
        )  # fmt: skip
        found = read_catalog(data, CATALOG_COLUMNS, 5000)
        assert {name: array.tolist() for name, array in found.items()} == columns
        assert all(found[name].dtype == np.int64 for name in CATALOG_INTEGERS)


@pytest.mark.parametrize("name", [name for name in CATALOG_COLUMNS if name not in CATALOG_INTEGERS])
def test_one_text_of_many_mebibytes_for_every_row_is_refused(name):
    data = parquet(columns_of(40, **{name: repeated("x" * (64 * MIB), 40)}), dictionary_pagesize_limit=1 << 30)
    assert len(data) < 100_000
    refused(data, 40, f"column {name} unpacks to")
    refused(data, 40, f"column {name} unpacks to", columns=("label",))  # and whatever else is read of it


def test_a_text_that_is_long_and_little_of_the_whole_is_refused():
    columns = columns_of(1000, notes=["x" * 5000, *[""] * 999])
    refused(parquet(columns), 1000, "a text in column notes has 5,000 bytes")


def test_texts_that_begin_alike_take_what_is_written_out_and_are_refused():
    """In DELTA_BYTE_ARRAY a value may be all of the one before, and cost a bit: pages do not say what they become."""
    columns = columns_of(10_000, source=["x" * 30_000] * 10_000)
    data = parquet(columns, use_dictionary=False, column_encoding={"source": "DELTA_BYTE_ARRAY"})
    refused(data, 10_000, "encoding 7, which no catalog has")


def test_many_rows_in_few_bytes_are_refused():
    rows = 1 << 20
    columns = {
        name: pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([values[0]]))
        for name, values in columns_of(1).items()
    }
    data = parquet(columns)
    assert len(data) < 200_000
    refused(data, rows, "cannot hold 1,048,576 rows")
    padded = data[:4] + bytes(rows) + data[4:]  # as many bytes as rows, and before them all that is read of them
    refused(padded, rows, "cannot hold 1,048,576 rows")


def test_the_same_image_under_ten_thousand_names_is_a_catalog():
    """The smallest rows that there are: nothing but key, path and place differ, by one each time."""
    same = {name: [values[0]] * 10_000 for name, values in columns_of(1).items()}
    same |= {"key": [f"a_{i}" for i in range(10_000)], "source": [f"a/{i}.png" for i in range(10_000)]}
    same |= {"offset": [512 + 2048 * i for i in range(10_000)]}
    assert read_catalog(parquet(same), ("key",), 10_000)["key"][-1] == "a_9999"


def test_paths_as_long_as_a_file_system_allows_are_a_catalog():
    columns = columns_of(9000, source=["/".join(["d" * 250] * 16) + f"/{i}.png" for i in range(9000)])
    assert read_catalog(parquet(columns), ("source",), 9000)["source"][-1].endswith("/8999.png")


def test_metadata_that_claim_less_than_the_pages_hold_are_seen_through():
    """What the file says of its columns is not what is made: here it says that the notes unpack to nothing."""
    data = parquet(columns_of(40, notes=repeated("x" * (16 * MIB), 40)), dictionary_pagesize_limit=1 << 30)
    notes = pq.read_metadata(io.BytesIO(data)).row_group(0).column(CATALOG_COLUMNS.index("notes"))
    claimed = varint(notes.total_uncompressed_size)
    assert data.count(claimed) >= 1
    lying = data.replace(claimed, varint(0, len(claimed)))
    refused(lying, 40, "column notes unpacks to|damaged|page")


def varint(value, size=0):
    """Thrift's form of a whole number, in ``size`` bytes at least."""
    value, out = value << 1, []
    while value or not out or len(out) < size:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out[:-1], out[-1] & 127])


def test_what_pages_unpack_to_and_where_they_lie_is_what_the_writer_says():
    """pyarrow's own sum counts the headers too; they have less than 100 bytes each here."""
    data = parquet(columns_of(3000), data_page_size=2000, row_group_size=1200, write_statistics=False)
    metadata = pq.read_metadata(io.BytesIO(data))
    told = [
        metadata.row_group(i).column(j) for i in range(metadata.num_row_groups) for j in range(metadata.num_columns)
    ]
    chunks = read_column_chunks(data)
    assert [chunk.column for chunk in chunks] == [one.path_in_schema for one in told]
    for chunk, one in zip(chunks, told, strict=True):
        assert chunk.start == min(filter(None, (one.dictionary_page_offset, one.data_page_offset)))
        assert chunk.end - chunk.start == one.total_compressed_size
        pages = read_pages(data, chunk)
        assert 0 < one.total_uncompressed_size - sum_decompressed_bytes(pages) < 100 * len(pages)


def test_headers_and_metadata_that_are_damaged_are_an_error_and_no_endless_walk():
    data, chance = parquet(columns_of(300)), np.random.default_rng(2)
    whole = read_column_chunks(data)
    for _ in range(2000):
        damaged = bytearray(data)
        start = int(chance.choice([chance.choice([chunk.start for chunk in whole]), len(data) - 2000]))
        for place in chance.integers(start, start + 2000 if start == len(data) - 2000 else start + 40, 3):
            damaged[place] = chance.integers(256)
        with suppress(ValueError), within(2):
            for chunk in read_column_chunks(bytes(damaged)):
                sum_decompressed_bytes(read_pages(bytes(damaged), chunk))
    for cut in (0, 4, 8, 100, len(data) - 1):
        with pytest.raises(ValueError, match="its end is that of no Parquet file"):
            read_column_chunks(data[:cut])


@pytest.mark.parametrize("kind", [1, 2, 3, 5, 8, 12])
def test_a_list_of_more_than_there_is_ends_with_the_file(kind):
    """A list of 2^62 truths, which took no byte each, would go on for years."""
    footer = bytes([0x49, 0xF0 | kind]) + b"\xff" * 8 + b"\x3f" + b"\1" * 50
    with within(2), pytest.raises(ValueError):
        read_column_chunks(footer + len(footer).to_bytes(4, "little") + b"PAR1")


def test_a_field_that_is_there_twice_is_refused():
    """Arrow mixes the two, so that what is looked at here might not be what is read there."""
    footer = bytes([0x15, 2, 0x05, 2, 2, 0])
    with pytest.raises(ValueError, match="a field twice"):
        read_column_chunks(footer + len(footer).to_bytes(4, "little") + b"PAR1")
