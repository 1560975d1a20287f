"""The catalog of a shard, a Parquet file with a row for each sample: write it, and read it in bounded memory.

A catalog of kilobytes could expand to gigabytes. Before decompression, the number of rows is checked against the bytes
of the file, and the decompressed size of the pages against what so many rows can take. Texts stay dictionary-encoded,
so that a value repeated in 10^6 rows is stored once; the longest value is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexstream.core.errors import DatasetError
from alexstream.core.parquet_pages import ColumnChunk, read_column_chunks, read_pages, sum_decompressed_bytes
from alexstream.sharding.dataset_v1.document import read_limited
from alexstream.sharding.dataset_v1.layout import shard_paths
from alexstream.sharding.dataset_v1.manifest import Manifest, ShardRecord

CATALOG_COLUMNS = (
    "key", "extension", "shard", "offset", "size", "label", "wnid", "source", "source_sha256", "stored_sha256",
    "source_width", "source_height", "source_format", "notes",
)  # fmt: skip
CATALOG_INTEGERS = frozenset({"offset", "size", "label", "source_width", "source_height"})
# Characters, as bytes of UTF-8, that a text has at most. Paths are those of the source, which may be escaped and lie in
# an archive within an archive.
_MAX_TEXT_BYTES = {"key": 128, "notes": 1 << 12, "wnid": 1 << 12, "source": 1 << 15}
_MAX_TEXT_BYTES |= dict.fromkeys(("extension", "shard", "source_sha256", "stored_sha256", "source_format"), 64)
_NUMBER_BYTES = 16  # bytes of one and of its place in a list
# Each row has another key, and mostly other hashes: where all images are the same one, rows take 7 bytes each.
BYTES_PER_ROW, _MAX_EXPANSION, _MIN_LIMIT_BYTES = 5, 64, 64 << 20
_MARGIN_BYTES = 1 << 20  # of a column
READER_THREADS = 4  # threads for reading catalogs
_MAX_CATALOG_BYTES = 1 << 30  # of a catalog


def encode_catalog(rows: Sequence[Mapping[str, Any]], shard: str) -> bytes:
    """Return the catalog of the shard named ``shard`` as bytes; texts that are not UTF-8 are escaped."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(c, pa.int64() if c in CATALOG_INTEGERS else pa.string()) for c in CATALOG_COLUMNS])
    buffer = pa.BufferOutputStream()
    shown = [{"shard": shard, **{name: escape_invalid_utf8(value) for name, value in row.items()}} for row in rows]
    pq.write_table(pa.Table.from_pylist(shown, schema=schema), buffer, compression="zstd")
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def escape_invalid_utf8(value: Any) -> Any:
    """Escape bytes of file names that are not UTF-8 with backslashes, since Parquet text must be UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def load_catalog(folder: Path, manifest: Manifest, columns: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read the named catalog columns of all shards, in shard order, as arrays of length ``num_samples``.

    Row number = sample id. Raises DatasetError as ``load_catalog_shard`` does.
    """
    with ThreadPoolExecutor(READER_THREADS) as pool:  # hashing and Parquet release the GIL
        parts = list(pool.map(lambda shard: load_catalog_shard(folder, shard, columns), manifest.shards))
    return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def load_catalog_shard(folder: Path, shard: ShardRecord, columns: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read the named catalog columns of one shard: integers as int64 arrays, text as object arrays.

    Raises DatasetError if the file is missing, is not the one in the manifest, has another number of rows, or has
    columns of other types.
    """
    path = shard_paths(folder, shard.name).catalog
    if not path.is_file():
        raise DatasetError(f"{path} is missing; restore it or shard the source again")
    data = read_limited(path, most_catalog(shard))
    if hashlib.sha256(data).hexdigest() != shard.catalog_sha256:
        raise DatasetError(f"{path}: sha256 differs from the manifest's; restore it or shard the source again")
    arrays = _parse_catalog(path, data, shard, columns)
    _check_sample_ranges(path, shard, arrays)
    return arrays


def _check_sample_ranges(path: Path, shard: ShardRecord, arrays: dict[str, NDArray[Any]]) -> None:
    """Raise DatasetError unless samples are within the shard: readers allocate what the catalog claims."""
    offset, size = arrays.get("offset"), arrays.get("size")
    if offset is None or size is None:
        return
    # Not offset + size > num_bytes: the sum may overflow.
    if (offset < 512).any() or (size < 0).any() or (size > shard.num_bytes - offset).any():
        raise DatasetError(f"{path}: points outside {shard.name}.tar; restore both, or shard the source again")


def load_catalog_rows(
    folder: Path, shard: ShardRecord, columns: tuple[str, ...], rows: list[int]
) -> list[dict[str, Any]]:
    """Read a few rows of one shard's catalog by number; ``load_catalog`` has checked the file before."""
    path = shard_paths(folder, shard.name).catalog
    arrays = _parse_catalog(path, read_limited(path, most_catalog(shard)), shard, columns)
    values = {name: array[rows].tolist() for name, array in arrays.items()}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def _parse_catalog(path: Path, data: bytes, shard: ShardRecord, columns: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    import pyarrow as pa

    try:
        return read_catalog(data, columns, shard.num_samples)
    except RowCountError as error:
        raise DatasetError(
            f"{path} has {error.found} rows, but the manifest says {shard.num_samples} samples; restore both, or "
            "shard the source again"
        ) from error
    except (pa.ArrowException, MemoryError, OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise DatasetError(f"{path}: unreadable catalog ({reason}); shard the source again") from error


def most_catalog(shard: ShardRecord) -> int:
    """Return the most bytes that a catalog may have: paths are up to 32 KiB and may not compress."""
    return min(_MAX_CATALOG_BYTES, (1 << 20) + shard.num_samples * (1 << 16))


def read_catalog(data: bytes, columns: tuple[str, ...], num_rows: int) -> dict[str, NDArray[Any]]:
    """Read the named columns: integers as int64 arrays, texts as object arrays, each of length ``num_rows``.

    Raises ValueError, OSError or pyarrow.ArrowException if they are missing, of other types, or take more memory than
    so many rows of a file of this size can.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.allocate_buffer(len(data))  # Arrow's own: its threads may free it when Python ends
    memoryview(buffer).cast("B")[:] = data
    metadata = pq.read_metadata(pa.BufferReader(buffer))
    _check_rows(metadata.num_rows, num_rows, len(data))
    _check_types(metadata.schema.to_arrow_schema(), columns, "string")
    chunks = read_column_chunks(data)
    for name in sorted(CATALOG_INTEGERS | _MAX_TEXT_BYTES.keys()):  # of all: what one command refuses no other takes
        _check_size(name, data, [chunk for chunk in chunks if chunk.column == name], num_rows)
    texts = [name for name in columns if name not in CATALOG_INTEGERS]
    with pq.ParquetFile(pa.BufferReader(buffer), metadata=metadata, read_dictionary=texts) as file:
        _check_types(file.schema_arrow, columns, "dictionary<values=string, indices=int32, ordered=0>")
        table = file.read(list(columns))
    if table.num_rows != num_rows or any(column.null_count for column in table.columns):
        raise ValueError("values are missing")
    table.validate(full=True)
    return {name: _to_array(name, table.column(name)) for name in columns}


def _check_rows(found: int, expected: int, num_bytes: int) -> None:
    if found != expected:
        raise RowCountError(found)
    if found * BYTES_PER_ROW > num_bytes:
        raise ValueError(f"{num_bytes:,} bytes cannot hold {found:,} rows that differ")


class RowCountError(ValueError):
    """A catalog has another number of rows, ``found``."""

    def __init__(self, found: int) -> None:
        super().__init__(f"has {found} rows")
        self.found = found


def _check_types(schema: Any, columns: tuple[str, ...], text: str) -> None:
    kinds = {one.name: str(one.type) for one in schema}
    for name in columns:
        expected = "int64" if name in CATALOG_INTEGERS else text
        if (kind := kinds.get(name, "missing")) != expected:
            raise ValueError(f"column {name} is {kind}, expected {expected}")


def _check_size(name: str, data: bytes, chunks: list[ColumnChunk], num_rows: int) -> None:
    """Raise ValueError if a column decompresses to more than its rows, or a file of this size, can hold."""
    pages = [page for chunk in chunks for page in read_pages(data, chunk)]
    most = _MARGIN_BYTES + num_rows * (_NUMBER_BYTES + _MAX_TEXT_BYTES.get(name, 0))
    most = min(most, _MIN_LIMIT_BYTES + _MAX_EXPANSION * len(data))
    if (found := sum_decompressed_bytes(pages)) > most:
        raise ValueError(f"column {name} unpacks to {found:,} bytes, more than {num_rows:,} samples take ({most:,})")


def _to_array(name: str, column: Any) -> NDArray[Any]:
    """Return a column as an array, without pyarrow's ``to_numpy`` and ``take``, which load pandas for a second."""
    if name in CATALOG_INTEGERS:
        return np.from_dlpack(column.combine_chunks())
    parts = [_to_text_array(name, chunk) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty(0, object)


def _to_text_array(name: str, chunk: Any) -> NDArray[Any]:
    import pyarrow.compute as pc

    longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
    if longest > _MAX_TEXT_BYTES[name]:
        raise ValueError(f"a text in column {name} has {longest:,} bytes, expected {_MAX_TEXT_BYTES[name]:,} at most")
    texts = np.empty(len(chunk.dictionary), object)
    texts[:] = chunk.dictionary.to_pylist()
    taken: NDArray[Any] = texts[np.from_dlpack(chunk.indices)]
    return taken
