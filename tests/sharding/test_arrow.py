"""Arrow's threads hold nothing of Python's: one that lets go of it while Python ends kills the process.

Which thread reads and deletes a Python file is noted by the file itself; the source is searched for other ways in.
"""

import ast
import io
import os
import threading
import weakref

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexstream.core.arrow import open_buffer
from alexstream.sharding.dataset_v1.catalog import load_catalog, load_catalog_rows
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.sources.parquet import ImageColumns, RowGroupImages, _iter_rows
from alexstream.sharding.sources.parquet_file import SourceParquet
from tests.support import ROOT
from tests.support.small_dataset import Small

ROWS = 3000


class Noted(io.BytesIO):
    """A file that notes which threads read it and delete it."""

    def __init__(self, data, threads):
        super().__init__(data)
        self.threads = threads

    def read(self, *size):
        self.threads.add(threading.current_thread())
        return super().read(*size)

    def __del__(self):
        self.threads.add(threading.current_thread())
        super().__del__()


class InAStore:
    """As much of a path in an object store as is opened."""

    def __init__(self, data):
        self.data, self.threads = data, set()

    def open(self, mode):
        assert mode == "rb"
        return Noted(self.data, self.threads)

    @property
    def fs(self):
        return self

    path = "x"

    def cat_file(self, _, start, end):
        return self.data[start:end]

    def stat(self):
        return os.stat_result((0,) * 6 + (len(self.data), 0, 0, 0))

    def is_dir(self):
        return False

    def __truediv__(self, name):
        return self


@pytest.fixture(scope="module")
def parquet():
    """Images with names and labels in three row groups."""
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = [{"bytes": b"%d" % i * 100, "path": f"{i}.jpg"} for i in range(ROWS)]
    stream = pa.BufferOutputStream()
    table = pa.table({"image": pa.array(images, kind), "label": pa.array([i % 7 for i in range(ROWS)])})
    pq.write_table(table, stream, row_group_size=1000)
    return stream.getvalue().to_pybytes()


def test_what_is_noted_sees_the_threads_of_a_reader_that_has_some(parquet):
    """Without this, an Arrow that reads in another way would leave the next test empty."""
    threads = set()
    for _ in range(20):
        pq.ParquetFile(Noted(parquet, threads)).read()
    assert threads - {threading.main_thread()}


def test_a_file_of_a_store_is_read_and_deleted_by_its_caller_alone(parquet):
    place = InAStore(parquet)
    columns = ImageColumns(image="image.bytes", path="image.path", label="label")
    rows = list(_iter_rows(place, ["x"], columns))
    assert [(row.path, row.label) for row in rows] == [(f"{i}.jpg", i % 7) for i in range(ROWS)]
    for group in range(3):
        images = RowGroupImages(SourceParquet(place), group)
        assert images[999] == b"%d" % (1000 * group + 999) * 100 and images[0] == b"%d" % (1000 * group) * 100
    del images
    assert place.threads == {threading.main_thread()}


class Weak(bytearray):
    """Bytes whose end can be noted."""


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
def test_what_arrow_owns_is_a_copy_that_keeps_nothing_of_pythons_alive(data):
    given = Weak(data)
    ended = weakref.ref(given)
    reader = open_buffer(given)
    del given
    assert ended() is None and reader.read_buffer().to_pybytes() == data
    kept = Weak(data)
    reader, ended = pa.BufferReader(kept), weakref.ref(kept)
    del kept
    assert ended() is not None, "a reader of Python's memory keeps it: the same test would see it"


def test_a_catalog_reaches_arrow_in_memory_of_its_own(tmp_path, monkeypatch):
    """No Python object is given to Arrow that it could keep: the reader is native, its buffer has no Python owner."""
    Small(tmp_path)
    given = []
    real = pq.ParquetFile

    def noted(source, *args, **kwargs):
        given.append(source)
        return real(source, *args, **kwargs)

    monkeypatch.setattr(pq, "ParquetFile", noted)
    manifest = load_manifest(tmp_path)
    load_catalog(tmp_path, manifest, ("key", "label"))
    load_catalog_rows(tmp_path, manifest.shards[0], ("key",), [0])
    assert len(given) == len(manifest.shards) + 1 and all(type(source) is pa.BufferReader for source in given)


PACKAGES = ("commands", "core", "pipeline", "report", "sharding", "trainer")
# What gives Arrow something to read or to write to; ``memory_map`` and native files are Arrow's own.
ENTRANCES = {
    "ParquetFile",
    "read_table",
    "read_metadata",
    "read_csv",
    "PythonFile",
    "py_buffer",
    "read_schema",
    "open_csv",
}


def calls(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield node, node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_arrows(argument):
    """Whether what is given to Arrow is a reader over its own memory."""
    text = ast.unparse(argument)
    return text.startswith(("owned_reader(", "pa.BufferReader(buffer"))


def test_every_way_into_arrow_is_one_of_those():
    """Parquet is opened here alone, or over Arrow's memory; batches are decoded by their caller."""
    found = 0
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for call, name in calls(path):
            if name in ENTRANCES and path != ROOT / "core" / "arrow.py":
                found += 1
                assert is_arrows(call.args[0]), f"{path}:{call.lineno}: {ast.unparse(call)}"
            if name == "iter_batches":
                found += 1
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert given.get("use_threads") == "False", f"{path}:{call.lineno}: {ast.unparse(call)}"
            if name in ("write_table", "write_csv"):
                found += 1
                assert "BytesIO" not in ast.unparse(call), f"{path}:{call.lineno}: {ast.unparse(call)}"
    assert found >= 4
