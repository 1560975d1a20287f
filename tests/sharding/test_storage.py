"""Places that hold a data set: a local folder, and a folder of an object store behind a real S3 server."""

import builtins
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sharding.errors import AlexstreamError, OutputError
from sharding.storage import location, pending, publish
from tests.conftest import ROOT


@pytest.fixture(params=["local", "s3", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        return location(str(tmp_path))
    if request.param == "s3":
        return location(request.getfixturevalue("s3_folder"))
    pytest.importorskip("upath", reason="universal-pathlib is not installed (extra: s3)")
    return location(f"memory://{tmp_path.name}")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_words_without_a_scheme_are_local_paths():
    assert location("/data/x") == Path("/data/x")
    assert location("data") == Path("data")
    assert location("file:///data/x") == Path("/data/x")


def test_what_was_published_is_read_listed_measured_and_deleted_by_the_same_names(folder):
    publish(folder / "a-000000.tar", b"0123456789")
    publish(folder / "a-000000.idx", b"")
    path = folder / "a-000000.tar"
    assert path.read_bytes() == b"0123456789"
    assert path.stat().st_size == 10
    assert path.is_file() and not (folder / "b.tar").is_file()
    assert names(folder) == ["a-000000.idx", "a-000000.tar"]
    assert [p.name for p in folder.glob("*.tar")] == ["a-000000.tar"]
    (folder / "a-000000.idx").unlink()
    assert names(folder) == ["a-000000.tar"]


def test_a_second_publication_replaces_the_first(folder):
    publish(folder / "x", b"first and long")
    publish(folder / "x", b"second")
    assert (folder / "x").read_bytes() == b"second"
    assert (folder / "x").stat().st_size == 6


def test_a_file_written_in_pieces_appears_when_it_is_committed(folder):
    data = os.urandom(3 * 2**20)
    with pending(folder / "x.tar") as write:
        write.file.write(data[:1000])
        write.file.write(data[1000:])
        assert not (folder / "x.tar").is_file()
        write.commit()
    assert (folder / "x.tar").read_bytes() == data
    assert names(folder) == ["x.tar"]


def test_a_file_that_is_not_committed_leaves_nothing(folder):
    publish(folder / "y", b"")
    with pending(folder / "x.tar") as write:
        write.file.write(b"half")
    assert names(folder) == ["y"]


def read(path):
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size


def test_a_place_in_a_bucket_travels_to_a_worker_process(s3_folder):
    path = location(s3_folder) / "x"
    publish(path, b"0123456789")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read, (path,)) == read(path)
        pool.close()
        pool.join()


def change(folder):
    publish(folder / "theirs", b"2")
    (folder / "mine").unlink()


def test_what_another_process_writes_and_deletes_is_seen_at_once(s3_folder):
    folder = location(s3_folder)
    publish(folder / "mine", b"1")
    assert names(folder) == ["mine"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(change, (folder,))
        pool.close()
        pool.join()
    assert names(folder) == ["theirs"] and not (folder / "mine").is_file() and (folder / "theirs").is_file()


LARGE = """
import sys
sys.path.insert(0, {root!r})
from sharding.storage import location, publish
path = location({folder!r}) / "large"
print("ready", flush=True)
publish(path, bytes(150 * 2**20))
"""


def test_a_writer_that_is_killed_leaves_a_whole_object_or_none(s3_folder):
    """150 MiB go up in parts; the kills come at several moments of it."""
    path = location(s3_folder) / "large"
    for delay in (0.1, 0.3, 0.6):
        command = [sys.executable, "-c", LARGE.format(root=str(ROOT), folder=s3_folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        assert not path.is_file() or path.stat().st_size == 150 * 2**20


def test_a_bucket_that_does_not_exist_is_one_line(s3_server):
    path = location("s3://nobody-made-this/folder") / "x"
    with pytest.raises(OutputError, match=r"^cannot write s3://nobody-made-this/folder/x: .*bucket"):
        publish(path, b"x")


def test_keys_that_are_missing_are_one_line(s3_server, monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(OutputError, match=r"^cannot write s3://bucket/x: Unable to locate credentials"):
        publish(location("s3://bucket") / "x", b"x")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/x", "no known kind of store"),
        ("s3://", "names no bucket"),
        ("gs://bucket/x", "gcsfs"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(text, message):
    pytest.importorskip("upath", reason="universal-pathlib is not installed (extra: s3)")
    with pytest.raises(AlexstreamError, match=f"^.*{message}.*$"):
        location(text)


def test_a_missing_library_is_one_line_that_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without_upath(name, *args, **kwargs):
        if name.split(".")[0] == "upath":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_upath)
    with pytest.raises(AlexstreamError, match=r"^s3://bucket/x: .*pip install alexstream\[s3\]$"):
        location("s3://bucket/x")


def test_a_store_that_refuses_is_one_line_on_the_command_line(s3_server, tmp_path):
    keyless = {name: value for name, value in os.environ.items() if "KEY" not in name}
    keyless |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
    keyless |= {"AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    command = [sys.executable, str(ROOT / "cli.py"), "shard", "--src", "s3://bucket/x", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=keyless)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Unable to locate credentials") and done.stderr.count("\n") == 1
