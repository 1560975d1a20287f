"""Compute what the pages of a Parquet file decompress to from their headers alone, without decompressing.

The size in a Parquet file's metadata is a claim; the header before each page determines the allocation. A page of
kilobytes may decompress to gigabytes, and more in encodings that repeat values. Metadata and headers are Thrift compact
protocol, parsed here because pyarrow crashes the process on some damaged ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

ENCODINGS = frozenset({0, 2, 3, 4, 8})  # PLAIN, dictionaries, RLE, bits: no value takes more than is stored for it
MOST_METADATA = 1 << 20  # bytes: hundreds of row groups
_MOST_VALUES = 1_000_000  # of the metadata: numbers, texts and structs
_MAX_NESTING = 16
_MOST_COLUMNS, _MOST_LEVELS = 10_000, 32  # pyarrow walks a schema in C++, level by level
_HEADERS = (1 << 10, 1 << 16, 1 << 22)  # bytes that are read of a page, for its header; statistics may be in it
_INTEGERS, _BINARY, _LISTS, _STRUCT = (4, 5, 6), 8, (9, 10), 12
_DICTIONARY = 2
_PAGES = {0: (5, 2), _DICTIONARY: (7, 2), 3: (8, 4)}  # kind → field of its own header, and therein that of the encoding


@dataclass(frozen=True, slots=True)
class Page:
    """Bytes of a page unpacked and packed, the number of its encoding in Parquet's list, and how many values it has.

    ``is_dictionary``: the values are those that the pages behind it name by their numbers.
    """

    num_bytes: int
    packed_bytes: int
    encoding: int
    num_values: int
    is_dictionary: bool


@dataclass(frozen=True, slots=True)
class ColumnChunk:
    """The byte range of a column's pages in a row group; ``column`` is its name, parts joined by dots."""

    column: str
    start: int
    end: int
    num_values: int


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that lie together, and the pages of each of their columns, in the order of the schema."""

    num_rows: int
    chunks: tuple[ColumnChunk, ...]


def read_column_chunks(file: bytes) -> list[ColumnChunk]:
    """Read from a file's metadata where its pages lie. Raises ValueError if they are damaged."""
    size = read_metadata_size(file[-8:], len(file), MOST_METADATA)
    return [chunk for group in parse_row_groups(file[-8 - size : -8], len(file)) for chunk in group.chunks]


def read_metadata_size(end: bytes, num_bytes: int, most: int) -> int:
    """Tell how many bytes the metadata have, by the last 8 of a file of ``num_bytes``; they lie before those.

    Raises ValueError if that is the end of no Parquet file, of an encrypted one, or if they are more than ``most``.
    """
    size = int.from_bytes(end[-8:-4], "little")
    if end[-4:] == b"PARE":
        raise ValueError("it is encrypted, which is not read")
    if end[-4:] != b"PAR1" or size + 8 > num_bytes or size > most:
        raise ValueError("its end is that of no Parquet file, or of a far larger one")
    return size


def parse_row_groups(metadata: bytes, num_bytes: int) -> list[RowGroup]:
    """Read the row groups from the metadata of a file of ``num_bytes``.

    Raises ValueError if they are damaged, of more than a million values, or if its columns are more, or nested deeper,
    than those of any table.
    """
    found, _ = _ThriftReader(metadata).read_struct(0, 0)
    if 8 in found:
        raise ValueError("it is encrypted, which is not read")
    columns = _parse_column_names(_get_list(found, 2))
    return [_parse_row_group(group, columns, num_bytes) for group in _get_list(found, 4)]


def _parse_column_names(schema: list[Any]) -> list[str]:
    """Names of the columns that have pages. The schema is a tree, written from the front: nodes before their parts."""
    if not 0 < len(schema) <= _MOST_COLUMNS:
        raise ValueError(f"it has {len(schema):,} columns, expected 1 to {_MOST_COLUMNS:,}")
    found, left, path = [], [1], [""]  # parts that are still to come, and the name, of each node on the way down
    for number, node in enumerate(schema):
        while left and not left[-1]:
            left.pop()
            path.pop()
        if not left:
            raise ValueError("its metadata are damaged")
        left[-1] -= 1
        parts = _get_integer(node, 5) if isinstance(node, dict) and 5 in node else 0
        name = node.get(4) if isinstance(node, dict) else None
        if not isinstance(name, bytes) or parts < 0:
            raise ValueError("its metadata are damaged")
        if parts:
            left.append(parts)
            path.append(_decode_name(name))
            if len(left) > _MOST_LEVELS:
                raise ValueError(f"its columns are nested deeper than {_MOST_LEVELS} levels")
        elif number:
            found.append(".".join([*path[2:], _decode_name(name)]))  # without what is above the root, and the root
    if any(left):
        raise ValueError("its metadata are damaged")
    return found


def _decode_name(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _parse_row_group(group: Any, columns: list[str], num_bytes: int) -> RowGroup:
    chunks = tuple(_parse_chunk(one, num_bytes) for one in _get_list(group, 1))
    # Arrow takes a column by its place; one that is called otherwise would be looked at in another's stead.
    if [chunk.column for chunk in chunks] != columns:
        raise ValueError("the columns of its row groups are not those of its schema")
    num_rows = _get_integer(group, 3)
    if num_rows < 0:
        raise ValueError("its metadata are damaged")
    return RowGroup(num_rows, chunks)


def _parse_chunk(column: Any, num_bytes: int) -> ColumnChunk:
    fields = column.get(3) if isinstance(column, dict) else None
    if not isinstance(fields, dict) or 1 in column:  # 1: the pages are in another file
        raise ValueError("its metadata are damaged")
    start = _get_integer(fields, 9)
    if 11 in fields and 0 < _get_integer(fields, 11) < start:
        start = _get_integer(fields, 11)
    end = start + _get_integer(fields, 7)
    if not 0 < start <= end <= num_bytes:
        raise ValueError("a column lies outside the file")
    parts = [one for one in _get_list(fields, 3) if isinstance(one, bytes)]
    return ColumnChunk(".".join(map(_decode_name, parts)), start, end, _get_integer(fields, 5))


def read_pages(file: bytes, chunk: ColumnChunk) -> list[Page]:
    """Read the headers of a column's pages. Raises ValueError where they are none, or lead out of the column."""
    return list(walk_pages(lambda at, size: file[at : at + size], chunk))


def walk_pages(read_at: Callable[[int, int], bytes], chunk: ColumnChunk) -> Iterator[Page]:
    """Yield a column's pages from their headers; ``read_at`` gives bytes of the file by offset and size.

    Raises ValueError where there is no header, or where one leads out of the column.
    """
    at = chunk.start
    while at < chunk.end:
        fields, at = _read_page_header(read_at, at, chunk.end)
        kind, unpacked, packed = (_get_integer(fields, number) for number in (1, 2, 3))
        if kind not in _PAGES or unpacked < 0 or packed < 0 or packed > chunk.end - at:
            raise ValueError("a page lies outside its column")
        own, encoding = _PAGES[kind]
        header = fields.get(own, {})
        yield Page(unpacked, packed, _get_integer(header, encoding), _get_integer(header, 1), kind == _DICTIONARY)
        at += packed


def _read_page_header(read_at: Callable[[int, int], bytes], at: int, end: int) -> tuple[Mapping[int, Any], int]:
    """Read the fields of a page's header, and where in the file it ends."""
    for size in _HEADERS:
        data = read_at(at, min(size, end - at))
        try:
            fields, num_bytes = _ThriftReader(data).read_struct(0, 0)
        except _CutOffError:
            if size < end - at and size != _HEADERS[-1]:
                continue
            raise
        return fields, at + num_bytes
    raise AssertionError("the last size returns or raises")


def sum_decompressed_bytes(pages: Iterable[Page]) -> int:
    """Return the bytes of all decompressed pages. Raises ValueError for encodings that may expand further."""
    pages = list(pages)
    if odd := next((page.encoding for page in pages if page.encoding not in ENCODINGS), None):
        raise ValueError(f"a column has the encoding {odd}, which no catalog has")
    return sum(page.num_bytes for page in pages)


def _get_integer(fields: Any, number: int) -> int:
    value = fields.get(number) if isinstance(fields, dict) else None
    if type(value) is not int:
        raise ValueError("a page's header, or the metadata, are damaged")
    return value


def _get_list(fields: Any, number: int) -> list[Any]:
    value = fields.get(number) if isinstance(fields, dict) else None
    if not isinstance(value, list):
        raise ValueError("its metadata are damaged")
    return value


class _CutOffError(ValueError):
    """The bytes end within a value."""


class _ThriftReader:
    """Reads values of Thrift's compact protocol from bytes; a position goes in, a value and where it ends come out."""

    def __init__(self, data: bytes) -> None:
        self._data, self._left = data, _MOST_VALUES

    def read_struct(self, at: int, depth: int) -> tuple[Mapping[int, Any], int]:
        """Read the fields of a struct by number, and where it ends."""
        if depth > _MAX_NESTING:
            raise ValueError("its metadata are nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while kind := (head := self._read_byte(at)) & 15:
            at += 1
            self._count_value()
            if head >> 4:
                number += head >> 4
            else:
                number, at = self._read_zigzag(at)
            if number in fields:  # Arrow would mix the two
                raise ValueError("its metadata have a field twice")
            fields[number], at = (kind == 1, at) if kind in (1, 2) else self._read_value(at, kind, depth)
        return fields, at + 1

    def _read_value(self, at: int, kind: int, depth: int) -> tuple[Any, int]:
        """Read a value, which takes one byte at least, and where it ends."""
        if kind in _INTEGERS:
            return self._read_zigzag(at)
        if kind == _BINARY:
            size, at = self._read_varint(at)
            return self._data[at : at + size], at + size
        if kind in _LISTS:
            return self._read_list(at, depth)
        if kind == _STRUCT:
            return self.read_struct(at, depth + 1)
        if kind not in (1, 2, 3, 7):  # maps are in none of these
            raise ValueError("its metadata are damaged")
        return None, at + (8 if kind == 7 else 1)

    def _read_list(self, at: int, depth: int) -> tuple[list[Any], int]:
        if depth > _MAX_NESTING:
            raise ValueError("its metadata are nested too deeply")
        head, at = self._read_byte(at), at + 1
        size = head >> 4
        if size == 15:
            size, at = self._read_varint(at)
        found = []
        for _ in range(size):
            self._read_byte(at)  # raises behind the end
            self._count_value()
            value, at = self._read_value(at, head & 15, depth + 1)
            found.append(value)
        return found, at

    def _count_value(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"its metadata have more than {_MOST_VALUES:,} values")

    def _read_byte(self, at: int) -> int:
        if at >= len(self._data):
            raise _CutOffError("a page's header is cut off")
        return self._data[at]

    def _read_varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            byte, at = self._read_byte(at), at + 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
        raise ValueError("a page's header is damaged")

    def _read_zigzag(self, at: int) -> tuple[int, int]:
        value, at = self._read_varint(at)
        return value >> 1 ^ -(value & 1), at
