"""Struct arrays of MATLAB files: what scipy writes is read as it was; what is damaged is a ValueError."""

import io
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import example, given, settings
from hypothesis import strategies as st

from alexstream.sharding.sources.imagenet.mat import MAX_BYTES, read_struct_rows

TEXTS = st.text(st.characters(min_codepoint=1, max_codepoint=0xFFFF, exclude_categories=["Cs"]), min_size=1, max_size=9)
NUMBERS = st.integers(-(2**53), 2**53)
ROWS = st.lists(st.tuples(NUMBERS, TEXTS), min_size=1, max_size=9)


def written(rows, *, do_compression=False):
    """A file with struct arrays ``other`` and ``synsets``, whose fields are an ID, a WNID and a list."""
    array = np.zeros((len(rows), 1), dtype=[("ID", object), ("WNID", object), ("children", object)])
    for row, (number, text) in zip(array[:, 0], rows, strict=True):
        row["ID"], row["WNID"], row["children"] = float(number), text, np.arange(3.0)
    file = io.BytesIO()
    scipy.io.savemat(file, {"other": array[:1], "synsets": array}, do_compression=do_compression)
    return file.getvalue()


@settings(deadline=None)
@given(ROWS, st.booleans())
def test_what_scipy_writes_is_read_as_it_was(rows, do_compression):
    expected = [{"ID": number, "WNID": text, "children": None} for number, text in rows]
    assert read_struct_rows(written(rows, do_compression=do_compression), "synsets") == expected


@settings(deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_a_value_error(data):
    whole = bytearray(written([(1, "n01440764"), (2, "n01443537")], do_compression=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(whole)))
    try:
        rows = read_struct_rows(bytes(whole[:end]), "synsets")
    except ValueError:
        return
    assert all(isinstance(row, dict) for row in rows)


@example(b"")
@settings(deadline=None)
@given(st.binary(max_size=400))
def test_what_is_no_matlab_file_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"not a MATLAB 5 file|holds no struct array|truncated|without a head"):
        read_struct_rows(data, "synsets")


def test_a_struct_array_of_another_name_is_not_taken():
    with pytest.raises(ValueError, match="holds no struct array 'classes'"):
        read_struct_rows(written([(1, "a")]), "classes")


def test_what_unpacks_to_too_much_is_refused():
    bomb = zlib.compress(bytes(MAX_BYTES + 1), 9)
    data = written([(1, "a")])[:128] + np.array([15, len(bomb)], "<u4").tobytes() + bomb
    with pytest.raises(ValueError, match="more than 64 MiB when unpacked"):
        read_struct_rows(data, "synsets")
