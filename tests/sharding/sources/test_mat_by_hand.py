"""Struct arrays as MATLAB itself writes them and scipy does not: texts of 16 bits, either order of bytes."""

import struct

import numpy as np
import pytest

from alexstream.sharding.sources.imagenet.mat import read_struct_rows

INT8, INT32, UINT16, UINT32, DOUBLE, MATRIX, UTF8, UTF16 = 1, 5, 4, 6, 9, 14, 16, 17
STRUCT, CHARS, DOUBLES = 2, 4, 6


def element(order, kind, data):
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(order, kind, name, *parts, count=1):
    """A matrix of ``count`` entries in a row: flags, shape, name, and what it holds."""
    flags = element(order, UINT32, struct.pack(f"{order}II", kind, 0))
    shape = element(order, INT32, struct.pack(f"{order}ii", 1, count))
    return element(order, MATRIX, b"".join([flags, shape, element(order, INT8, name), *parts]))


def text(order, value, kind):
    encoding = {UINT16: "utf-16", UTF16: "utf-16", UTF8: "utf-8"}[kind]
    if encoding == "utf-16":
        encoding += "-le" if order == "<" else "-be"
    return matrix(order, CHARS, b"", element(order, kind, value.encode(encoding)), count=len(value))


def number(order, value):
    return matrix(order, DOUBLES, b"", element(order, DOUBLE, np.array([value], f"{order}f8").tobytes()))


def mat_file(order, *rows):
    """A file with the struct array ``synsets`` of these rows of fields ``ID`` and ``WNID``."""
    fields = element(order, INT32, struct.pack(f"{order}i", 8)) + element(
        order, INT8, b"ID".ljust(8, b"\0") + b"WNID".ljust(8, b"\0")
    )
    version = struct.pack(f"{order}H", 0x0100) + (b"IM" if order == "<" else b"MI")
    values = [value for row in rows for value in row]
    return b" " * 124 + version + matrix(order, STRUCT, b"synsets", fields, *values, count=len(rows))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [UINT16, UTF8, UTF16])
def test_numbers_and_texts_are_read_in_either_order_of_bytes(order, kind):
    rows = [(number(order, 3.0), text(order, "n01440764", kind)), (number(order, 999.0), text(order, "Äpfel", kind))]
    expected = [{"ID": 3, "WNID": "n01440764"}, {"ID": 999, "WNID": "Äpfel"}]
    assert read_struct_rows(mat_file(order, *rows), "synsets") == expected


def test_a_number_with_a_fraction_is_none_of_ours():
    (row,) = read_struct_rows(mat_file("<", (number("<", 2.5), number("<", float("inf")))), "synsets")
    assert row == {"ID": None, "WNID": None}


def test_a_field_too_few_is_damage():
    whole = (number("<", 1.0), text("<", "a", UTF8))
    with pytest.raises(ValueError, match="3 values for 2 entries of 2 fields"):
        read_struct_rows(mat_file("<", whole, (number("<", 2.0),)), "synsets")
