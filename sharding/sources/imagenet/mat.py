"""Read a struct array from a MATLAB 5 file: the part of the format that ``meta.mat`` needs, with all sizes checked.

scipy's reader crashes the process on some damaged files; among other things it recurses in C for nested matrices.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice

import numpy as np

from alexstream.core.text import quote_value

MAX_BYTES = 64 << 20  # decompressed; the meta.mat of ILSVRC2012 has less than a megabyte
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15  # types of elements; the numeric ones follow
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_STRUCT, _CHARS = 2, 4  # classes of matrices; from 6 on they are numeric

Row = dict[str, str | int | None]


def read_struct_rows(data: bytes, name: str) -> list[Row]:
    """Return the rows of the struct array ``name``; a value is text, a whole number, or None for anything else.

    Raises ValueError if there is no such array, or if the file is damaged or unpacks to more than MOST_BYTES.
    """
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise ValueError("not a MATLAB 5 file")
    order = "<" if data[126:128] == b"IM" else ">"
    room = MAX_BYTES
    for kind, content in _iter_elements(memoryview(data)[_HEADER:], order):
        if kind == _COMPRESSED:
            unpacked = _decompress(content, room)
            room -= len(unpacked)
            kind, content = next(_iter_elements(memoryview(unpacked), order), (0, content))
        if kind == _MATRIX:
            shape, called, parts = _parse_matrix(content, order)
            if called == name and shape[0] == _STRUCT:
                return _parse_rows(shape[1], parts, order)
    raise ValueError(f"holds no struct array {quote_value(name)}")


def _decompress(content: memoryview, room: int) -> bytes:
    try:
        data = zlib.decompressobj().decompress(content, room + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) > room:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB when unpacked")
    return data


def _iter_elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Yield type and content of each element. Raises ValueError for one that is truncated."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, end = at + 8, at + 8 + size
        if kind >> 16:  # small element: up to four bytes are stored in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = at + 4, at + 4 + size
        if end > len(data) or (start == at + 4 and size > 4):
            raise ValueError("an element is truncated")
        yield kind, data[start:end]
        at = at + 8 if start == at + 4 else end + (0 if kind == _COMPRESSED else -size % 8)


def _parse_matrix(content: memoryview, order: str) -> tuple[tuple[int, int], str, Iterator[tuple[int, memoryview]]]:
    """Return class and number of entries of a matrix, its name, and the elements that follow."""
    parts = _iter_elements(content, order)
    head = list(islice(parts, 3))
    if len(head) < 3 or len(head[0][1]) < 4 or len(head[1][1]) % 4:
        raise ValueError("a matrix without a head")
    flags = struct.unpack_from(f"{order}I", head[0][1])[0]
    count = math.prod(np.frombuffer(head[1][1], f"{order}i4").tolist())
    return (flags & 0xFF, count), bytes(head[2][1]).decode("latin-1"), parts


def _parse_rows(count: int, parts: Iterator[tuple[int, memoryview]], order: str) -> list[Row]:
    head = list(islice(parts, 2))
    if len(head) < 2 or len(head[0][1]) != 4:
        raise ValueError("a struct array without fields")
    length, names = struct.unpack(f"{order}i", head[0][1])[0], bytes(head[1][1])
    if not 1 <= length <= 64 or not names:
        raise ValueError("a struct array without fields")
    fields = [names[i : i + length].partition(b"\0")[0].decode("latin-1") for i in range(0, len(names), length)]
    values = [_parse_value(content, order) if kind == _MATRIX else None for kind, content in parts]
    if len(values) != count * len(fields):
        raise ValueError(f"{len(values)} values for {count} entries of {len(fields)} fields")
    return [dict(zip(fields, values[i : i + len(fields)], strict=True)) for i in range(0, len(values), len(fields))]


def _parse_value(content: memoryview, order: str) -> str | int | None:
    if not len(content):
        return None
    (kind, count), _, parts = _parse_matrix(content, order)
    stored, data = next(parts, (0, memoryview(b"")))
    if kind == _CHARS:
        encoding = _TEXTS.get(stored, "latin-1")
        return bytes(data).decode(encoding + ("-le" if order == "<" else "-be") * (encoding == "utf-16"))
    if kind < 6 or count != 1 or stored not in _NUMBERS:
        return None
    code = np.dtype(f"{order}{_NUMBERS[stored]}")
    if len(data) != code.itemsize:
        raise ValueError("a number of the wrong length")
    number = np.frombuffer(data, code)[0]
    return int(number) if np.isfinite(number) and number == int(number) else None
