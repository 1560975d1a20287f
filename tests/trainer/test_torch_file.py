"""Checkpoints of strangers: what their pickle would make is refused before it is made, by size, type and time."""

import collections
import io
import math
import os
import pickle
import tracemalloc
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from alexstream.core.text import quote_value
from alexstream.trainer import checkpoint as checkpoints
from alexstream.trainer import torch_file
from alexstream.trainer.checkpoint import load_checkpoint
from alexstream.trainer.errors import CheckpointError
from alexstream.trainer.network.geometry import parameter_shapes
from alexstream.trainer.recipe import Recipe
from alexstream.trainer.torch_file import load_torch_file
from tests.support.processes import within

MOST_BYTES = 50 << 20
NAMES = {
    "schema": checkpoints.SCHEMA_WITHOUT_CHECKSUM, "step": 1, "errors": [], "data": {}, "velocity": {},
    "recipe": asdict(Recipe()),
    "parameters": {},
}  # fmt: skip


class Calls:
    """Pickled as a call of a function with arguments."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def archive(path, pickled, **parts):
    """A zip archive as torch.save makes one, of this pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in parts.items():
            file.writestr(f"archive/{name}", content)
    return path


def refused(path, match=""):
    """Refused in one line, and within seconds of a core."""
    with within(10), pytest.raises(CheckpointError, match=match) as caught:
        load_checkpoint(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 2500


def nested(levels):
    """A list of lists of ten that are the same one: 10**levels leaves, when written out."""
    value = ["x"] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


ASKS_FOR_MORE = {
    "bytearray": NAMES | {"data": {"seed": Calls(bytearray, 6 << 30)}},
    "bytes": NAMES | {"data": {"seed": Calls(bytes, 6 << 30)}},
    "a tensor of nothing": NAMES | {"parameters": {"a": Calls(torch.Tensor, 1 << 20, 1 << 10)}},
    "a size": NAMES | {"data": {"seed": Calls(torch.Size, (1, 2))}},
    "an ordered dict of pairs": NAMES | {"data": Calls(collections.OrderedDict, [("a", 1)])},
    "a counter": NAMES | {"data": Calls(collections.Counter, "aaa")},
    "a set": NAMES | {"data": {"classes": {"a", "b"}}},
    "complex": NAMES | {"errors": [1j]},
    "lists of lists": NAMES | {"data": {"train_digest": nested(9)}},
    "lists of lists as classes": NAMES | {"data": {"classes": nested(9)}},
    "tuples of tuples": NAMES | {"data": {"order": tuple([tuple(["x"] * 10)] * 10)}},
    "dicts twice": NAMES | {"data": {"classes": [{"a": 1}] * 2}},
}

SHARES_VALUES = ("lists of lists", "lists of lists as classes", "tuples of tuples", "dicts twice")


@pytest.mark.parametrize("name", ASKS_FOR_MORE)
def test_what_a_pickle_would_make_is_refused_before_it_is_made(name, tmp_path):
    path = archive(tmp_path / "c.pt", pickle.dumps(ASKS_FOR_MORE[name], 2))
    why = "one of its values is there twice" if name in SHARES_VALUES else "its pickle (names|calls|holds)"
    tracemalloc.start()
    try:
        refused(path, rf"no readable checkpoint \({why}")
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def memos(count):
    """Write the operations that put one object into so many memos: ``r`` and the number, in four bytes."""
    return np.rec.fromarrays([np.full(count, b"r"), np.arange(count)], dtype="S1,<u4").tobytes()


@pytest.mark.parametrize(
    "pickled",
    {
        "marks": b"\x80\x02" + b"(" * 5_000_000 + b".",
        "lists in lists": b"\x80\x02" + b"]" * 900_000 + b"a" * 899_999 + b".",
        "many operations": b"\x80\x02]" + b"(e" * 3_000_000 + b".",
        "a far memo": b"\x80\x02}r\xff\xff\xff\x7f.",
        "many memos": b"\x80\x02}" + memos(1_200_000) + b".",
        "a text again and again": b"\x80\x02]X\x40\x42\x0f\0" + b"x" * 1_000_000 + b"q\0(" + b"h\0" * 400_000 + b"e.",
        "a long number": b"\x80\x02\x8b\x40\x42\x0f\0" + b"\x7f" * 1_000_000 + b".",
        "digits": b"\x80\x02L" + b"9" * 1_000_000 + b"L\n.",
        "a build": b"\x80\x02}}b.",
        "an extension": b"\x80\x02\x82\x01.",
        "a text cut off": b"\x80\x02X\xff\xff\xff\x7fabc.",
        "nothing": b"",
        "no end": b"\x80\x02}",
        "nothing to take": b"\x80\x02\x86.",
        "nothing behind a mark": b"\x80\x02](\x85.",
        "keys that are no texts": b"\x80\x02}K\x01K\x02s.",
        "odd pairs": b"\x80\x02}(X\x01\0\0\0au.",
        "a name of ours called by itself": b"\x80\x02ctorch\nFloatStorage\n)R.",
        "more behind its end": pickle.dumps(NAMES, 2) + b"N.",
        "another protocol": pickle.dumps(NAMES, 2).replace(b"\x80\x02", b"\x80\x63"),
        "a key twice": pickle.dumps(NAMES, 2)[:-2] + b"X\x04\0\0\0stepK\x05u.",
        "a key twice, one by one": pickle.dumps(NAMES, 2)[:-1] + b"X\x04\0\0\0stepK\x05s.",
        "a name of others": b"\x80\x02cos\n" + b"system" * 100_000 + b"\n.",
    }.items(),
    ids=lambda pair: pair[0],
)
def test_a_pickle_of_other_operations_or_too_many_is_refused_soon(pickled, tmp_path):
    refused(archive(tmp_path / "c.pt", pickled[1]), "no readable checkpoint|not of schema")


def tensors(path, change):
    """A checkpoint with one tensor of 3 x 4, its arguments changed: (storage, offset, shape, strides, ...)."""
    torch.save(NAMES | {"parameters": {"a": torch.arange(12.0).reshape(3, 4)}}, path)
    with zipfile.ZipFile(path) as file:
        parts = {one.partition("/")[2]: file.read(one) for one in file.namelist()}
    pickled = parts.pop("data.pkl")
    assert change[0] in pickled
    return archive(path, pickled.replace(*change), **parts)


@pytest.mark.parametrize(
    "change",
    {
        "larger than its storage": (b"K\x03K\x04\x86", b"K\x04K\x04\x86"),
        "terabytes": (b"K\x03K\x04\x86", b"J\xff\xff\xff\x7fK\x04\x86"),
        "below zero": (b"K\x03K\x04\x86", b"J\xff\xff\xff\xffK\x04\x86"),
        "true": (b"K\x03K\x04\x86", b"\x88K\x04\x86"),
        "strides that lead out": (b"K\x04K\x01\x86", b"K\x05K\x01\x86"),
        "one value a thousand million times": (b"K\x03K\x04\x86", b"J\0\0\0\x10K\x04\x86"),
        "one value for a whole axis": (b"K\x04K\x01\x86", b"K\x04K\0\x86"),
        "rows upon one another": (b"K\x04K\x01\x86", b"K\x01K\x01\x86"),
        "behind its storage": (b"QK\0", b"QK\x01"),
        "a storage of more": (b"K\x0ct", b"K\x0dt"),
        "a storage that is not there": (b"X\x01\0\0\x000", b"X\x01\0\0\x001"),
        "other numbers": (b"FloatStorage", b"LongStorage\0"),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_a_tensor_lies_within_what_is_stored_of_it(change, tmp_path):
    refused(tensors(tmp_path / "c.pt", change[1]), "no readable checkpoint")


def test_values_that_many_tensors_share_take_no_more_than_the_file(tmp_path):
    one = torch.ones(1 << 16)
    torch.save(NAMES | {"parameters": {"a": one, "b": one[:1]}}, tmp_path / "few.pt")
    assert load_checkpoint(tmp_path / "few.pt").parameters["b"].tolist() == [1.0]
    torch.save(NAMES | {"parameters": {f"a{i}": one[:] for i in range(100)}}, tmp_path / "many.pt")
    refused(tmp_path / "many.pt", "tensors are larger than the file")
    with pytest.raises(CheckpointError):  # each value four thousand million times
        torch.save(NAMES | {"parameters": {"a": one[:1].expand(1 << 16, 1 << 16)}}, tmp_path / "expanded.pt")
        load_checkpoint(tmp_path / "expanded.pt")


def test_a_file_that_two_readers_would_read_differently_is_refused(tmp_path):
    """torch takes a file from its front, for a pickle of the format before zip archives; zipfile from its end."""
    old = io.BytesIO()
    torch.save(NAMES, old, _use_new_zipfile_serialization=False)
    archive(tmp_path / "c.pt", pickle.dumps(NAMES, 2))
    assert load_checkpoint(tmp_path / "c.pt").step == 1
    (tmp_path / "c.pt").write_bytes(old.getvalue() + (tmp_path / "c.pt").read_bytes())
    refused(tmp_path / "c.pt", "it is no zip archive of torch.save")


def test_bytes_in_which_another_reader_may_find_another_archive_are_refused(tmp_path):
    path = archive(tmp_path / "c.pt", pickle.dumps(NAMES, 2), version=b"3\n")
    whole, other = path.read_bytes(), archive(tmp_path / "o.pt", pickle.dumps(NAMES | {"step": 2}, 2)).read_bytes()
    second = whole.index(b"PK\3\4", 4)
    moved = {  # zipfile itself takes the first and the second as they are
        "before": b"PK\3\4" + bytes(60) + whole,
        "in the comment": whole[:-2] + len(other).to_bytes(2, "little") + other,
        "behind": whole + other,
    }
    for content in moved.values():
        path.write_bytes(content)
        refused(path, "its parts do not lie one behind the other")
    directory = int.from_bytes(whole[-6:-2], "little")
    entry = whole.index(b"PK\1\2", directory + 4)
    between = bytearray(whole[:second] + bytes(60) + whole[second:])  # the second part and the directory 60 bytes on
    between[60 + entry + 42 : 60 + entry + 46] = (second + 60).to_bytes(4, "little")
    between[-6:-2] = (directory + 60).to_bytes(4, "little")
    path.write_bytes(between)
    assert zipfile.ZipFile(path).read("archive/version") == b"3\n"
    refused(path, "its parts do not lie one behind the other")


def test_a_file_of_a_terabyte_that_is_no_archive_of_ours_is_refused_without_reading_it(tmp_path):
    path = archive(tmp_path / "c.pt", pickle.dumps(NAMES, 2))
    os.truncate(path, 1 << 40)  # a hole, which takes no place
    refused(path, "its end is missing")


def test_tensors_larger_than_the_network_are_not_read(tmp_path, monkeypatch):
    """A part of gigabytes may be a hole in the disk."""
    monkeypatch.setattr(checkpoints, "_SMALL", 0)
    recipe = asdict(replace(Recipe(), width=0.125))
    numbers = sum(math.prod(shape) for shape in parameter_shapes(5, recipe=Recipe(width=0.125)).values())
    value = NAMES | {"recipe": recipe, "data": {"classes": list("abcde")}}
    torch.save(value | {"parameters": {"a": torch.zeros(2 * numbers)}}, tmp_path / "c.pt")
    assert len(load_checkpoint(tmp_path / "c.pt").parameters["a"]) == 2 * numbers
    torch.save(value | {"velocity": {"a": torch.zeros(2 * numbers + 1)}}, tmp_path / "c.pt")
    monkeypatch.setattr(torch_file._TensorReader, "_read_values", None)  # nothing is read
    refused(tmp_path / "c.pt", f"its tensors have {2 * numbers + 1:,} numbers")


@pytest.mark.parametrize("most", [zipfile.ZIP_FILECOUNT_LIMIT, 100], ids=["zip", "the end of zip64"])
def test_an_archive_of_very_many_parts_is_refused_before_they_are_listed(most, tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", most)  # as if there were more than 65,535
    for parts in (500, 3000):
        with zipfile.ZipFile(tmp_path / "c.pt", "w") as file:
            file.writestr("archive/data.pkl", pickle.dumps(NAMES, 2))
            for i in range(parts):
                file.writestr(str(i), b"")
        if parts == 500:
            assert load_checkpoint(tmp_path / "c.pt").step == 1
    refused(tmp_path / "c.pt", "its directory has")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a\nb"), RecursionError("deep"), OverflowError()])
def test_whatever_fails_while_it_is_read_and_looked_at_is_one_line(error, tmp_path, monkeypatch):
    def fails(*_):
        raise error

    archive(tmp_path / "c.pt", pickle.dumps(NAMES, 2))
    for place in ((checkpoints, "load_torch_file"), (checkpoints.Checkpoint, "find_non_finite")):
        with monkeypatch.context() as patch:
            patch.setattr(*place, fails)
            refused(tmp_path / "c.pt", "no readable checkpoint")


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", "1"), ("classes", "abc"), ("classes", [1]), ("train_digest", []), ("batch_size", 1.5), ("other", 1)],
)
def test_what_it_says_of_the_data_is_of_the_types_that_were_saved(field, value, tmp_path):
    refused(archive(tmp_path / "c.pt", pickle.dumps(NAMES | {"data": {field: value}}, 2)), f"data.{field}")


def test_what_torch_reads_of_a_file_of_plain_values_is_what_is_read_here(tmp_path):
    """torch's own reader says what is right; tensors that are cut, turned, empty or of no axis among them."""
    one = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    numbers = [0, -1, 255, 256, 65536, -(1 << 31), 1 << 40, -(1 << 62), 1.5, float("inf"), True, False, None]
    value = {
        "numbers": numbers, "texts": ["", "é\0\n", "x" * 300, "a", "a"], "tuple": ((), (1,), (1, 2, 3, 4)), "dict": {},
        "tensors": {"t": one.T, "cut": one[1:3, ::2], "empty": torch.empty(0, 3), "scalar": torch.tensor(2.5)},
        "ordered": collections.OrderedDict(), "gradient": one.clone().requires_grad_(),
    }  # fmt: skip
    torch.save(value, tmp_path / "c.pt")
    ours, theirs = load_torch_file(tmp_path / "c.pt", lambda _: None), torch.load(tmp_path / "c.pt", weights_only=True)
    for name, tensor in theirs.pop("tensors").items():
        assert torch.equal(ours["tensors"][name], tensor) and ours["tensors"][name].shape == tensor.shape
    assert torch.equal(ours.pop("gradient"), theirs.pop("gradient"))
    del ours["tensors"]
    assert ours == theirs


@pytest.mark.parametrize(
    "value",
    [nested(30), "x" * 10_000_000, b"y" * 10_000_000, 10**5000, {"a": nested(30)}, 1.5],
    ids=["lists", "text", "bytes", "digits", "dict", "number"],
)
def test_a_value_is_shown_in_few_characters_and_at_once(value):
    with within(1):
        assert len(quote_value(value)) < 400


def test_short_values_are_shown_as_python_writes_them():
    for value in ("it's", "é\n", 5, -5, 1.5, None, True, ["a", 1], ("a",), {"a": 1}):
        assert quote_value(value) == repr(value)


@pytest.mark.parametrize("packed", ["data.pkl", "other"])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_with_a_packed_part_is_refused(tmp_path, packed, method):
    """Whatever its parts come to: here they are smaller than the file."""
    parts = {"data.pkl": pickle.dumps(NAMES, 2), "other": b"x" * 100, **{f"empty-{i}": b"" for i in range(100)}}
    for chosen in (zipfile.ZIP_STORED, method):
        with zipfile.ZipFile(tmp_path / "c.pt", "w") as file:
            for name, content in parts.items():
                file.writestr(f"archive/{name}", content, chosen if name == packed else zipfile.ZIP_STORED)
        assert sum(map(len, parts.values())) < (tmp_path / "c.pt").stat().st_size
        if chosen == zipfile.ZIP_STORED:
            assert load_checkpoint(tmp_path / "c.pt").step == 1
    refused(tmp_path / "c.pt", "its parts are packed")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"errors": [0.5, math.inf]}, "errors hold inf, expected 0 to 1"),
        ({"errors": [-1.0]}, "errors hold -1.0"),
        ({"data": {"batch_size": 0}}, "data.batch_size 0"),
        ({"data": {"batch_size": -12}}, "data.batch_size -12"),
        ({"data": {"batch_size": 1 << 40}}, "data.batch_size 1099511627776"),
        ({"data": {"order": "sideways"}}, "data.order is 'sideways'"),
    ],
)
def test_facts_that_no_run_has_are_refused(change, match, tmp_path):
    refused(archive(tmp_path / "c.pt", pickle.dumps(NAMES | change, 2)), match)
    good = NAMES | {"errors": [0.0, 1.0, math.nan], "data": {"batch_size": 1, "order": "grouped"}}
    assert load_checkpoint(archive(tmp_path / "c.pt", pickle.dumps(good, 2))).data["batch_size"] == 1


@pytest.mark.parametrize("content", [checkpoints.SCHEMA_WITHOUT_CHECKSUM + "x" * 64, "9" * 5_000_000])
def test_a_part_that_says_more_than_the_schema_is_refused(content, tmp_path):
    path = archive(tmp_path / "c.pt", pickle.dumps(NAMES, 2), alexstream=content)
    refused(path, "its part alexstream is there twice, or has more than 64 bytes")
