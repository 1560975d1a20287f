"""Open a Parquet file of a stranger, and read columns of it in bounded memory.

A file of kilobytes may unpack to gigabytes, or say so and make Arrow take the memory. So its metadata and the headers
of its pages are read here first (``core.parquet_pages``), and Arrow is given what fits: pages of 64 MiB or of 16 times
their packed size, whichever is more, and some rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from alexstream.core.arrow import open_parquet
from alexstream.core.errors import SourceError
from alexstream.core.parquet_pages import (
    ENCODINGS,
    ColumnChunk,
    Page,
    RowGroup,
    parse_row_groups,
    read_metadata_size,
    walk_pages,
)
from alexstream.sharding.sources.files import RangeFile

MOST_TEXT = 4096  # bytes of a label in words, or of an image's path
_MOST_METADATA = 32 << 20  # bytes: names of 10^5 classes, or statistics of thousands of row groups
_BATCH_BYTES = 64 << 20  # that the rows that are read at once may take
_MOST_PAGE, _MOST_TIMES = 64 << 20, 16  # bytes of a page when it is unpacked, or so many times its packed size
_ROOM = 1 << 20  # bytes of a column of texts or numbers beside those of its rows
_FEW_ROWS = 10_000  # that any file may have; more take a byte each
_NUMBERS = frozenset({5, 9})  # deltas of whole numbers, split bytes: none takes more than a number
_NAMES = {6: "DELTA_LENGTH_BYTE_ARRAY", 7: "DELTA_BYTE_ARRAY"}
_SCHEMA = b"ARROW:schema"


class ParquetLimitError(ValueError):
    """A Parquet file would take more memory than any that holds images needs, or is packed so that none can tell."""


class SourceParquet:
    """An open Parquet file: ``schema`` of Arrow, ``num_row_groups``. Not for many threads."""

    def __init__(self, path: Path) -> None:
        """Open it and check its metadata.

        Raises ParquetLimitError, ValueError, OSError or pyarrow.ArrowException if it is no Parquet file, is cut off,
        encrypted, or of more metadata than a data set has.
        """
        self._ranges = RangeFile(path)
        try:
            metadata = self._read_metadata()
            self._groups = parse_row_groups(metadata, self._ranges.size)
            # Types are those of Parquet itself: Arrow's description of them may name one part a million times.
            self._file = open_parquet(path, metadata.replace(_SCHEMA, _SCHEMA.lower()))
        except BaseException:
            self._ranges.close()
            raise
        self.schema = self._file.schema_arrow
        self.num_row_groups = len(self._groups)
        self.num_rows = sum(group.num_rows for group in self._groups)

    def _read_metadata(self) -> bytes:
        num_bytes = self._ranges.size
        end = self._ranges.read_at(max(0, num_bytes - 8), 8)
        if end[-4:] == b"PARE":
            raise ParquetLimitError("it is encrypted, which is not read")
        size = read_metadata_size(end, num_bytes, num_bytes)
        if size > _MOST_METADATA:
            raise ParquetLimitError(f"its metadata have {size:,} bytes, expected {_MOST_METADATA:,} at most")
        return self._ranges.read_at(num_bytes - 8 - size, size)

    def count_rows_at_once(self, group: int, columns: Sequence[str], most: int, *, are_texts: bool = False) -> int:
        """Tell how many rows to read at once, ``most`` at most: no value takes more than a page of its column.

        Raises ParquetLimitError or ValueError for pages that take more memory than is due, or are damaged;
        ``are_texts``: each column is of labels or paths, and all of it takes no more than those do.
        """
        self._check_rows()
        found = self._groups[group]
        most_bytes = _ROOM + found.num_rows * (MOST_TEXT + 16) if are_texts else None
        largest = [self._largest_page(one, found, most_bytes) for one in found.chunks if one.column in columns]
        return max(1, min(most, _BATCH_BYTES // max(1, sum(largest))))

    def _largest_page(self, chunk: ColumnChunk, group: RowGroup, most_bytes: int | None) -> int:
        """Return the bytes of the largest page of a column, unpacked; ``most_bytes``: that all of them may have."""
        if chunk.num_values != group.num_rows:
            raise ValueError(f"column {chunk.column} has {chunk.num_values:,} values for {group.num_rows:,} rows")
        largest = total = 0
        for page in walk_pages(self._ranges.read_at, chunk):
            _check_page(page, chunk, group)
            largest, total = max(largest, page.num_bytes), total + page.num_bytes
            if most_bytes is not None and total > most_bytes:
                raise ParquetLimitError(
                    f"column {chunk.column} unpacks to {total:,} bytes and more, expected {most_bytes:,} at most, for "
                    f"labels or paths of {group.num_rows:,} rows"
                )
        return largest

    def iter_row_batches(self, group: int, columns: Sequence[str], rows: int) -> Iterator[Any]:
        """Record batches of ``rows`` rows of a row group, as ``count_rows_at_once`` tells how many."""
        # One thread: there is a worker process for every core already.
        names = list(columns)
        batches: Iterator[Any] = self._file.iter_batches(rows, row_groups=[group], columns=names, use_threads=False)
        return batches

    def _check_rows(self) -> None:
        rows, num_bytes = self.num_rows, self._ranges.size
        if rows > _FEW_ROWS + num_bytes:
            raise ParquetLimitError(f"it claims {rows:,} rows, which {num_bytes:,} bytes cannot hold")

    def close(self) -> None:
        """Close it, once."""
        self._file.close()
        self._ranges.close()

    def __enter__(self) -> SourceParquet:
        """Use as a context, which closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def _check_page(page: Page, chunk: ColumnChunk, group: RowGroup) -> None:
    if page.encoding not in ENCODINGS | _NUMBERS:
        # The page itself says how many values to make room for, in its packed part.
        raise ParquetLimitError(
            f"column {chunk.column} is in encoding {_NAMES.get(page.encoding, page.encoding)}, whose pages do not tell "
            "what they unpack to"
        )
    if page.num_bytes > max(_MOST_PAGE, _MOST_TIMES * page.packed_bytes):
        raise ParquetLimitError(
            f"a page of column {chunk.column} unpacks from {page.packed_bytes:,} to {page.num_bytes:,} bytes, expected "
            f"{_MOST_PAGE >> 20} MiB, or {_MOST_TIMES} times as many, at most"
        )
    # A dictionary may have more than there are rows: pandas writes all categories. Arrow makes room for what it says.
    most = _FEW_ROWS + page.num_bytes // 4 if page.is_dictionary else group.num_rows
    if not 0 <= page.num_values <= most:
        raise ValueError(f"a page of column {chunk.column} has {page.num_values:,} values for {group.num_rows:,} rows")


def to_source_error(path: Path, error: ParquetLimitError) -> SourceError:
    """Return the error to raise for a file that is larger than it may be."""
    return SourceError(
        f"{path}: {error}; leave the file out, or write it anew: pyarrow.parquet.write_table(TABLE, FILE, "
        "row_group_size=100)"
    )
