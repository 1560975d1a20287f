"""Files of a source that are not what their names promise: a pipe, a device, a hole, folders without end."""

import ast
import io
import os
import signal
import tarfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from alexstream.core.errors import BadImageError, SourceError
from alexstream.core.storage import open_regular, parse_location, read_small
from alexstream.sharding import sources
from alexstream.sharding.images.formats import MAX_PIXELS
from alexstream.sharding.sources import files, reader
from alexstream.sharding.sources.files import list_items, open_range_file, read_small_file, read_start
from alexstream.sharding.sources.parquet_file import SourceParquet
from alexstream.sharding.sources.reader import Reader, read_image_file
from alexstream.sharding.sources.types import WHOLE_FILE
from tests.support.commands import call

NAMES = [
    "labels.csv", "train.csv", "val_annotations.txt", "LOC_synset_mapping.txt", "LOC_val_solution.csv", "a.tar",
    "a.parquet", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz", "manifest.json", "classes.json", "a.bin",
    "README", "train.tar.gz", "val.zip", "words.txt", "synset_words.txt", "meta.mat", "a.zip", "a.tfrecord", "a.idx",
    "a.jsonl",
]  # fmt: skip


@contextmanager
def limited_wait(seconds=60):
    """An error in place of a wait for ever."""

    def stop(*_):
        raise TimeoutError("a pipe is waited for")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def make_classes(folder):
    """Two classes of two images."""
    for name in "xy":
        (folder / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(folder / name / f"{i}.png")
    return folder


def check_dry_run(source):
    """Look at a source: it ends, with at most one line of an error."""
    with limited_wait():
        done = call("shard", "--src", source, "--out", source.parent / "out", "--dry-run", "--quiet")
    assert done.exit_code in (0, 1) and (done.exit_code == 0 or len(done.stderr.strip().splitlines()) == 1), done.output
    return done


@pytest.mark.parametrize("name", NAMES)
def test_a_pipe_with_a_known_name_is_not_waited_for(name, tmp_path):
    source = make_classes(tmp_path / "source")
    os.mkfifo(source / name)
    check_dry_run(source)
    os.mkfifo(source / "x" / name)
    check_dry_run(source)
    alone = tmp_path / "alone"
    alone.mkdir()
    os.mkfifo(alone / name)
    assert check_dry_run(alone).exit_code == 1
    assert check_dry_run(alone / name).exit_code == 1


def test_every_helper_that_opens_a_file_refuses_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with limited_wait(5):
        for ask in (open_regular, SourceParquet, lambda path: read_small(path, 100)):
            with pytest.raises(OSError, match="not a regular file"):
                ask(pipe)
        for ask in (open_range_file, read_small_file):
            with pytest.raises(SourceError, match="pipe: not a regular file"):
                ask(pipe)
        assert read_start(pipe, 10) == b""


def test_no_module_of_the_sources_opens_a_file_without_these_helpers():
    found = []
    for path in Path(sources.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name != "tarfile.open" and name.rpartition(".")[2] in ("open", "read_bytes", "read_text"):
                    found.append((path.name, ast.unparse(node)))
    assert sorted(found) == [
        # A file of the program, an open descriptor, an object of a store.
        (
            "ilsvrc.py",
            "files('alexstream.sharding.sources.imagenet').joinpath('ilsvrc2012_wnids.txt').read_text('ascii')",
        ),
        ("reader.py", "open(descriptor, 'rb', buffering=0)"),
        ("reader.py", "path.read_bytes()"),
    ]


def test_folders_nested_without_end_are_one_line(tmp_path):
    source = make_classes(tmp_path / "source")
    folder = source / "x"
    folder = folder.joinpath(*["d"] * 400)
    folder.mkdir(parents=True)
    (folder / "z.jpg").write_bytes(b"x")
    done = check_dry_run(source)
    assert done.exit_code == 1 and f"folders nested more than {files.MAX_DEPTH} deep" in done.stderr


def test_folders_within_the_limit_are_walked(tmp_path):
    source = make_classes(tmp_path / "source")
    folder = (source / "x").joinpath(*["d"] * (files.MAX_DEPTH - len(source.parts) - 1))
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "z.png")
    assert list_items(folder)[0].name == "z.png"
    assert check_dry_run(source).exit_code == 0


def test_the_limit_of_bytes_is_above_the_largest_image_that_is_decoded():
    assert reader.MAX_IMAGE_BYTES > 2 * 4 * MAX_PIXELS  # 16 bits in four channels, as TIFF has them at most


def test_a_file_larger_than_any_image_is_refused_unread(tmp_path, monkeypatch):
    hole = tmp_path / "h.jpg"
    with hole.open("wb") as file:
        file.truncate(1 << 37)
    monkeypatch.setattr(os, "pread", None)
    with Reader(tmp_path) as source, pytest.raises(BadImageError, match="137,438,953,472 bytes, more than") as told:
        source.read("h.jpg", WHOLE_FILE, 0)
    assert told.value.reason == "too-large"


def test_a_member_larger_than_any_image_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_IMAGE_BYTES", 1000)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for size in (1000, 1001):
            member = tarfile.TarInfo(f"{size}.jpg")
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    with Reader(tmp_path) as source:
        assert len(source.read("a.tar", 512, 1000).data) == 1000
        with pytest.raises(BadImageError, match="1,001 bytes, more than 1,000") as told:
            source.read("a.tar", 512 + 1024 + 512, 1001)
    assert told.value.reason == "too-large"


def test_an_object_larger_than_any_image_is_refused_unread(s3_folder, monkeypatch):
    folder = parse_location(f"{s3_folder}/large")
    (folder / "a.jpg").write_bytes(bytes(1001))
    monkeypatch.setattr(reader, "MAX_IMAGE_BYTES", 1000)
    with Reader(folder) as source, pytest.raises(BadImageError, match="1,001 bytes, more than 1,000") as told:
        source.read("a.jpg", WHOLE_FILE, 0)
    assert told.value.reason == "too-large"


@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_an_image_to_classify_must_be_a_regular_file(kind, tmp_path):
    path = tmp_path / "a.jpg"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "nothing")
    with limited_wait(5), pytest.raises(BadImageError, match="not a regular file") as told:
        read_image_file(path)
    assert told.value.reason == "unreadable"


def test_an_image_to_classify_is_read_to_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MAX_IMAGE_BYTES", 1000)
    path = tmp_path / "a.jpg"
    path.write_bytes(bytes(1000))
    assert read_image_file(path) == bytes(1000)
    path.write_bytes(bytes(1001))
    with pytest.raises(BadImageError, match="1,001 bytes"):
        read_image_file(path)
