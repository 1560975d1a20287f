"""A struct array of a MATLAB 5 file: as much of the format as ``meta.mat`` needs, read without belief in its sizes.

scipy's reader ends the process on some damaged files: it follows nested matrices by recursion in C, and more.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice

import numpy as np

MOST_BYTES = 64 << 20  # unpacked; the meta.mat of ILSVRC2012 has less than a megabyte
_HEADER = 128
_MATRIX, _PACKED = 14, 15  # kinds of elements; those of numbers are
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
_STRUCT, _CHARS = 2, 4  # classes of matrices; from 6 on they are of numbers

Row = dict[str, str | int | None]


def struct_rows(data: bytes, name: str) -> list[Row]:
    """The rows of the struct array ``name``; a field is a text, a whole number, or None for anything else.

    Raises ValueError if there is none, or the file is damaged or larger than any of ours.
    """
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise ValueError("no MATLAB 5 file")
    order = "<" if data[126:128] == b"IM" else ">"
    room = MOST_BYTES
    for kind, content in _elements(memoryview(data)[_HEADER:], order):
        if kind == _PACKED:
            unpacked = _unpacked(content, room)
            room -= len(unpacked)
            kind, content = next(_elements(memoryview(unpacked), order), (0, content))
        if kind == _MATRIX:
            shape, called, parts = _matrix(content, order)
            if called == name and shape[0] == _STRUCT:
                return _rows(shape[1], parts, order)
    raise ValueError(f"holds no struct array {name!r}")


def _unpacked(content: memoryview, room: int) -> bytes:
    try:
        data = zlib.decompressobj().decompress(content, room + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) > room:
        raise ValueError(f"more than {MOST_BYTES >> 20} MiB when unpacked")
    return data


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Kind and content of each element. Raises ValueError for one that is cut off."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, end = at + 8, at + 8 + size
        if kind >> 16:  # up to four bytes lie in the tag itself
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = at + 4, at + 4 + size
        if end > len(data) or (start == at + 4 and size > 4):
            raise ValueError("an element is cut off")
        yield kind, data[start:end]
        at = at + 8 if start == at + 4 else end + (0 if kind == _PACKED else -size % 8)


def _matrix(content: memoryview, order: str) -> tuple[tuple[int, int], str, Iterator[tuple[int, memoryview]]]:
    """Class and number of entries of a matrix, its name, and the elements that follow."""
    parts = _elements(content, order)
    head = list(islice(parts, 3))
    if len(head) < 3 or len(head[0][1]) < 4 or len(head[1][1]) % 4:
        raise ValueError("a matrix without a head")
    flags = struct.unpack_from(f"{order}I", head[0][1])[0]
    count = math.prod(np.frombuffer(head[1][1], f"{order}i4").tolist())
    return (flags & 0xFF, count), bytes(head[2][1]).decode("latin-1"), parts


def _rows(count: int, parts: Iterator[tuple[int, memoryview]], order: str) -> list[Row]:
    head = list(islice(parts, 2))
    if len(head) < 2 or len(head[0][1]) != 4:
        raise ValueError("a struct array without fields")
    length, names = struct.unpack(f"{order}i", head[0][1])[0], bytes(head[1][1])
    if not 1 <= length <= 64 or not names:
        raise ValueError("a struct array without fields")
    fields = [names[i : i + length].partition(b"\0")[0].decode("latin-1") for i in range(0, len(names), length)]
    values = [_value(content, order) if kind == _MATRIX else None for kind, content in parts]
    if len(values) != count * len(fields):
        raise ValueError(f"{len(values)} values for {count} entries of {len(fields)} fields")
    return [dict(zip(fields, values[i : i + len(fields)], strict=True)) for i in range(0, len(values), len(fields))]


def _value(content: memoryview, order: str) -> str | int | None:
    if not len(content):
        return None
    (kind, count), _, parts = _matrix(content, order)
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
