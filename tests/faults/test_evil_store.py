"""A store that means harm: an error of one line, in bounded time and memory, and Ctrl-C works meanwhile."""

import os
import signal
import subprocess
import sys
import time

import pytest

from alexstream.core import object_store as stores
from alexstream.core.errors import DatasetError, SourceError
from alexstream.core.storage import list_folder, list_objects, parse_location, read_small
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.sources.files import LinkFollower, as_path, list_items, walk_files
from tests.faults.evil_store import evil_store
from tests.support import ROOT, forked_commands

S3FileSystem = pytest.importorskip("s3fs").S3FileSystem
MOST_SENT = 200 << 20  # what a socket and two pieces hold


@pytest.fixture
def at(monkeypatch):
    """A folder of a store."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")

    def folder(server, path="b/train"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        S3FileSystem.clear_instance_cache()  # one is kept for each set of arguments, whatever the environment says
        return parse_location(f"s3://{path}")

    yield folder
    S3FileSystem.clear_instance_cache()


def test_a_manifest_without_end_is_refused_before_it_is_read(at):
    with evil_store("endless") as server, pytest.raises(DatasetError, match="more than 67,108,864 bytes"):
        load_manifest(at(server))
    assert server.sent == 0


def test_more_bytes_than_the_store_said_are_not_taken(at):
    with evil_store("more than said") as server, pytest.raises(DatasetError, match="more bytes than were requested"):
        load_manifest(at(server))
    assert server.sent < MOST_SENT


@pytest.mark.parametrize("mode", ["slow", "silent"])
def test_an_answer_that_does_not_come_is_not_waited_for(mode, at, monkeypatch):
    monkeypatch.setattr(stores, "TIMEOUT_S", 0.5)
    start = time.monotonic()
    with evil_store(mode) as server, pytest.raises(DatasetError, match=r"in time|did not answer"):
        load_manifest(at(server))
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("mode", "match"),
    [
        ("same token", "has no end"),
        ("no token", "has no end"),
        ("endless keys", "more than 5,000 entries|has no end"),
        ("elsewhere", "outside the requested folder"),
    ],
)
def test_a_listing_that_does_not_end_is_an_error(mode, match, at, monkeypatch):
    monkeypatch.setattr(stores, "MAX_KEYS", 5000)
    with evil_store(mode) as server:
        folder = at(server)
        assert mode == "elsewhere" or folder.is_dir()  # of one answer
        for ask in (list_objects, list_folder, list_items):
            with pytest.raises((OSError, SourceError), match=match):
                ask(folder)
        assert server.requests < 40


@pytest.mark.parametrize(
    ("mode", "match"),
    [("endless listing body", "more bytes than"), ("nested listing", "more than 250,000 tags")],
)
def test_one_answer_that_is_no_page_of_a_listing_is_not_taken_whole(mode, match, at):
    with evil_store(mode) as server:
        folder = at(server)
        for ask in (list_objects, list_folder, list_items, is_folder):
            with pytest.raises((OSError, SourceError), match=match):
                ask(folder)
        assert server.sent < 4 * MOST_SENT


def is_folder(folder):
    """A question that is one listing too."""
    return folder.is_dir()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("cut XML", "Internal Server Error"),  # so the library calls what it cannot parse
        ("web page", "the store answered with a web page"),
        ("redirects", "the store redirects from one address to the next without end"),
    ],
)
def test_an_answer_that_is_none_is_told_with_its_address(mode, words, at, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with evil_store(mode) as server, pytest.raises(OSError, match=words) as told:
        list_objects(at(server))
    assert told.value.filename.startswith("s3://b/train")


def test_a_listing_by_the_library_itself_ends_too(at):
    with evil_store("same token") as server:
        folder = at(server)
        with pytest.raises(OSError, match="has no end"):
            folder.fs.ls(folder.path)


def test_folders_in_folders_without_end_are_an_error(at):
    with evil_store("endless folders") as server:
        folder = as_path(at(server))
        with pytest.raises(SourceError, match="folders nested"):
            list(walk_files(folder, "train", LinkFollower()))
        assert server.requests < 100


def test_small_files_are_read_as_they_are_and_no_larger_ones(s3_folder):
    folder = parse_location(f"{s3_folder}/small")
    for size in (0, 1, 1000):
        (folder / f"{size}.bin").write_bytes(bytes(size))
        assert read_small(folder / f"{size}.bin", 1000) == bytes(size)
    with pytest.raises(OSError, match="more than 999 bytes"):
        read_small(folder / "1000.bin", 999)


def test_folders_of_a_store_are_listed_with_names_kinds_and_sizes(s3_folder):
    folder = parse_location(f"{s3_folder}/listed")
    names = ["a.txt", "é ü.txt", "b/c.txt", "b/d/e.txt", "f/g.txt"]
    for name in names:
        (folder / name).write_bytes(b"12345")
    found = stores.list_store_folder(folder.fs, folder.path)
    assert sorted(found) == [("a.txt", False, 5), ("b", True, 0), ("f", True, 0), ("é ü.txt", False, 5)]
    assert (folder / "b").is_dir() and not (folder / "a.txt").is_dir() and not (folder / "x").is_dir()
    with pytest.raises(FileNotFoundError):
        stores.list_store_folder(folder.fs, f"{folder.path}/nothing")


@pytest.mark.parametrize(
    ("words", "place"),
    [(["info", "s3://b/train"], "b/train"), (["shard", "--src", "s3://b/images", "--out", "set"], "b/images")],
)
def test_a_store_that_refuses_is_named_with_what_was_asked_of_it(words, place, at, tmp_path, monkeypatch):
    with evil_store("forbidden") as server:
        at(server)
        monkeypatch.chdir(tmp_path)
        done = forked_commands.run(words)
    error = f"Error: s3://{place}: Forbidden (from the object store; check its address and keys)\n"
    assert (done.returncode, done.stderr.replace("/:", ":")) == (1, error)


def test_an_answer_that_never_comes_names_its_address(at, monkeypatch):
    monkeypatch.setattr(stores, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(stores, "ATTEMPTS", 1)
    with evil_store("mute") as server, pytest.raises(OSError, match="did not answer within") as told:
        at(server).is_dir()
    assert str(told.value.filename).startswith("s3://b/train")


def test_a_store_that_does_not_answer_is_named_while_it_is_waited_for(at, monkeypatch, capsys):
    monkeypatch.setattr(stores, "TIMEOUT_S", 0.2)
    with evil_store("mute") as server, pytest.raises(OSError, match=r"did not answer within 0\.2 s, 2 times"):
        at(server).is_file()
    assert "s3://b/train: no answer from the object store for 0.2 s; asking again (2 of 2)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("info", "s3://b/train"), ("shard", "--src", "s3://b/photos", "--out", "out")])
def test_ctrl_c_ends_a_wait_for_a_store(words, tmp_path):
    mode = "silent" if words[0] == "info" else "endless keys"
    with evil_store(mode) as server:
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
        environment = {**os.environ, **keys, "AWS_ENDPOINT_URL": server.address}
        command = [sys.executable, str(ROOT / "cli.py"), *words]
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also in the background
        ) as process:  # fmt: skip
            deadline = time.monotonic() + 60
            while server.requests < 3 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert len(said.strip().splitlines()) == 1, said
