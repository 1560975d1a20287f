"""Places that hold a data set: a local folder, and a folder of an object store behind a real S3 server."""

import builtins
import errno
import hashlib
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from alexstream.core import storage
from alexstream.core.errors import AlexstreamError, OutputError
from alexstream.core.storage import (
    check_target,
    delete_file,
    list_folder,
    list_objects,
    open_pending,
    parse_location,
    publish_file,
    target_name,
)
from tests.support import ROOT


@pytest.fixture(params=["local", "s3", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        return parse_location(str(tmp_path))
    if request.param == "s3":
        return parse_location(request.getfixturevalue("s3_folder"))
    pytest.importorskip("upath", reason="universal-pathlib is not installed (extra: s3)")
    return parse_location(f"memory://{tmp_path.name}")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_words_without_a_scheme_are_local_paths():
    assert parse_location("/data/x") == Path("/data/x")
    assert parse_location("data") == Path("data")
    assert parse_location("file:///data/x") == Path("/data/x")


def test_what_was_published_is_read_listed_measured_and_deleted_by_the_same_names(folder):
    publish_file(folder / "a-000000.tar", b"0123456789")
    publish_file(folder / "a-000000.idx", b"")
    path = folder / "a-000000.tar"
    assert path.read_bytes() == b"0123456789"
    assert path.stat().st_size == 10
    assert path.is_file() and not (folder / "b.tar").is_file()
    assert names(folder) == ["a-000000.idx", "a-000000.tar"]
    assert [p.name for p in folder.glob("*.tar")] == ["a-000000.tar"]
    (folder / "a-000000.idx").unlink()
    assert names(folder) == ["a-000000.tar"]


def test_a_second_publication_replaces_the_first(folder):
    publish_file(folder / "x", b"first and long")
    publish_file(folder / "x", b"second")
    assert (folder / "x").read_bytes() == b"second"
    assert (folder / "x").stat().st_size == 6


def test_a_file_written_in_pieces_appears_when_it_is_committed(folder):
    data = os.urandom(3 * 2**20)
    with open_pending(folder / "x.tar") as write:
        write.file.write(data[:1000])
        write.file.write(data[1000:])
        assert not (folder / "x.tar").is_file()
        write.commit()
    assert (folder / "x.tar").read_bytes() == data
    assert names(folder) == ["x.tar"]


def test_a_file_that_is_not_committed_leaves_nothing(folder):
    publish_file(folder / "y", b"")
    with open_pending(folder / "x.tar") as write:
        write.file.write(b"half")
    assert names(folder) == ["y"]


COMMITTED_SECOND = """
import sys
from alexstream.core.storage import open_pending, parse_location
path = parse_location({path!r})
with open_pending(path) as write:
    write.file.write(b"theirs, and longer")
    print("begun", flush=True)
    sys.stdin.readline()
    write.commit()
"""


def test_two_processes_that_write_one_name_each_leave_a_whole_file(tmp_path):
    """The first commits after the second began: with one temporary name it would publish the other's bytes."""
    path = tmp_path / "x.tar"
    command = [sys.executable, "-c", COMMITTED_SECOND.format(path=str(path))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    with open_pending(path) as mine, subprocess.Popen(command, **pipes) as other:
        mine.file.write(b"mine")
        assert other.stdout.readline() == "begun\n"
        mine.commit()
        assert path.read_bytes() == b"mine"
        other.communicate("go\n")
        assert other.returncode == 0 and path.read_bytes() == b"theirs, and longer"
    assert names(tmp_path) == ["x.tar"]


def refusing(function, error):
    """``function``, which refuses folders with this error."""

    def refuse(it, *rest):
        if os.path.isdir(it if isinstance(it, Path) else f"/proc/self/fd/{it}"):
            raise OSError(error, os.strerror(error))
        return function(it, *rest)

    return refuse


def test_a_folder_that_may_be_written_but_not_read_takes_files(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "open", refusing(os.open, errno.EACCES))
    publish_file(tmp_path / "x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT", "EROFS", "ENOTTY"])
def test_names_that_may_be_lost_are_an_error(name, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "fsync", refusing(os.fsync, getattr(errno, name)))
    with pytest.raises(OutputError, match=f"^cannot write .*x: {os.strerror(getattr(errno, name))}"):
        publish_file(tmp_path / "x", b"1")


def read(path):
    return hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size


def test_a_place_in_a_bucket_travels_to_a_worker_process(s3_folder):
    path = parse_location(s3_folder) / "x"
    publish_file(path, b"0123456789")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read, (path,)) == read(path)
        pool.close()
        pool.join()


def change(folder):
    publish_file(folder / "theirs", b"2")
    (folder / "mine").unlink()


def test_what_another_process_writes_and_deletes_is_seen_at_once(s3_folder):
    folder = parse_location(s3_folder)
    publish_file(folder / "mine", b"1")
    assert names(folder) == ["mine"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(change, (folder,))
        pool.close()
        pool.join()
    assert names(folder) == ["theirs"] and not (folder / "mine").is_file() and (folder / "theirs").is_file()


def made_in_a_console(store, folder, *keys):
    """A folder of an object store as web consoles make it: an empty object whose name ends in a slash."""
    for key in ("", *keys):
        store.pipe_file(f"{folder.removeprefix('s3://')}/{key}", b"")


def test_objects_that_mark_folders_are_not_listed(s3_folder):
    import s3fs

    store = s3fs.S3FileSystem()
    made_in_a_console(store, s3_folder, "a/", "b/", "c_$folder$")
    publish_file(parse_location(s3_folder) / "b" / "x", b"1")
    publish_file(parse_location(s3_folder) / "folder", b"named as the folder above it")
    listed = {path.name: path for path in list_folder(parse_location(s3_folder))}
    assert sorted(listed) == ["a", "b", "folder"]
    assert list_folder(listed["a"]) == [] and [path.name for path in list_folder(listed["b"])] == ["x"]
    assert sorted(list_objects(parse_location(s3_folder))) == [("a", True), ("b", True), ("folder", False)]
    assert [path.name for path in list_folder(parse_location(s3_folder.rpartition("/")[0]))] == ["folder"]


@pytest.mark.parametrize("name", ["run[1]", "a*b", "what?", "[!x]", "{a,b}", "ha#sh", "sp ace"])
def test_names_that_hold_pattern_characters_are_names(folder, name):
    publish_file(folder / "run1" / "x" if not isinstance(folder, Path) else folder / "run1", b"another's")
    inside = folder / name
    if isinstance(folder, Path):
        inside.mkdir()
    publish_file(inside / name, b"1")
    publish_file(inside / "y", b"2")
    assert names(inside) == sorted([name, "y"]) == sorted(path.name for path in list_folder(inside))
    delete_file(inside / name)
    delete_file(inside / name)  # it is not there any more
    assert names(inside) == ["y"]
    assert (folder / "run1").exists()


LARGE = """
import sys
sys.path.insert(0, {root!r})
from alexstream.core.storage import parse_location, publish_file
path = parse_location({folder!r}) / "large"
print("ready", flush=True)
publish_file(path, bytes(150 * 2**20))
"""


def test_a_writer_that_is_killed_leaves_a_whole_object_or_none(s3_folder):
    """150 MiB go up in parts; the kills come at several moments of it."""
    path = parse_location(s3_folder) / "large"
    for delay in (0.1, 0.3, 0.6):
        command = [sys.executable, "-c", LARGE.format(root=str(ROOT), folder=s3_folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        assert not path.is_file() or path.stat().st_size == 150 * 2**20


def test_a_bucket_that_does_not_exist_is_one_line(s3_server):
    path = parse_location("s3://nobody-made-this/folder") / "x"
    with pytest.raises(OutputError, match=r"^cannot write s3://nobody-made-this/folder/x: .*bucket"):
        publish_file(path, b"x")


def test_keys_that_are_missing_are_one_line(s3_server, monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(OutputError, match=r"^cannot write s3://bucket/x: Unable to locate credentials"):
        publish_file(parse_location("s3://bucket") / "x", b"x")
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/x", "unknown kind of store"),
        ("s3://", "names no bucket"),
        ("gs://bucket/x", "gcsfs"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(text, message):
    pytest.importorskip("upath", reason="universal-pathlib is not installed (extra: s3)")
    with pytest.raises(AlexstreamError, match=f"^.*{message}.*$"):
        parse_location(text)


def test_a_missing_library_is_one_line_that_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without_upath(name, *args, **kwargs):
        if name.split(".")[0] == "upath":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_upath)
    with pytest.raises(AlexstreamError, match=r"^s3://bucket/x: .*pip install alexstream\[s3\]$"):
        parse_location("s3://bucket/x")


def test_a_store_that_refuses_is_one_line_on_the_command_line(s3_server, tmp_path):
    keyless = {name: value for name, value in os.environ.items() if "KEY" not in name}
    keyless |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
    keyless |= {"AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    command = [sys.executable, str(ROOT / "cli.py"), "shard", "--src", "s3://bucket/x", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=keyless)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Unable to locate credentials") and done.stderr.count("\n") == 1


def test_a_temporary_file_is_new_and_its_name_is_not_guessed(tmp_path, monkeypatch):
    """A link that is there already, under the very name that is drawn, is not followed: the write is refused."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(storage.secrets, "token_hex", lambda size: "0" * 2 * size)
    (tmp_path / "x.00000000.tmp").symlink_to(victim)
    with pytest.raises(OutputError, match=r"^cannot write .*x: File exists"):
        publish_file(tmp_path / "x", b"new")
    assert victim.read_text() == "precious" and not (tmp_path / "x").exists()
    monkeypatch.undo()
    with open_pending(tmp_path / "x") as first, open_pending(tmp_path / "x") as second:
        drawn = {path.name for path in tmp_path.iterdir()} - {"victim", "x.00000000.tmp"}
        assert len(drawn) == 2 and str(os.getpid()) not in "".join(drawn)
        assert {target_name(name) for name in drawn} == {"x"}
        first.commit()
        second.commit()


def test_a_published_file_has_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    publish_file(tmp_path / "x", b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_links_are_refused_by_name_and_neither_replaced_nor_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    for name, to in {"link": "victim", "dangling": "nowhere", "loop": "loop", "folder": "."}.items():
        (tmp_path / name).symlink_to(to)
        with pytest.raises(OutputError, match=f"^cannot write .*{name}: .*link") as refused:
            publish_file(tmp_path / name, b"new")
        assert "\n" not in str(refused.value) and os.readlink(tmp_path / name) == to
    assert names(tmp_path) == ["dangling", "folder", "link", "loop", "victim"]
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_folder_that_is_reached_through_a_link_is_written_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    publish_file(tmp_path / "link" / "x", b"1")
    assert names(tmp_path / "real") == ["x"]


def test_a_pipe_takes_what_is_written_and_stays_a_pipe(tmp_path):
    data = os.urandom(300_000)  # more than a pipe holds
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE) as reader:
            thread = threading.Thread(target=wait_and_publish, args=(tmp_path / name, data))
            thread.start()
            assert reader.stdout.read() == data
            thread.join()
        assert names(tmp_path) == ["link", "pipe"] and (tmp_path / "pipe").is_fifo()


def wait_and_publish(path, data):
    """Publish as soon as the pipe has its reader."""
    for _ in range(3000):
        try:
            return publish_file(path, data)
        except OutputError as error:
            assert "no process reads from this pipe" in str(error)
            time.sleep(0.01)
    raise AssertionError("nobody reads")


def test_a_pipe_that_nobody_reads_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="no process reads from this pipe; start its reader first"):
        publish_file(tmp_path / "pipe", b"1")
    assert (tmp_path / "pipe").is_fifo()


def test_a_pipe_that_nobody_reads_is_refused_before_the_work(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        OutputError, match=r"pipe: no process reads from this pipe; start its reader first, or name a file$"
    ):
        check_target(tmp_path / "pipe")


def test_a_pipe_that_is_checked_before_the_work_keeps_its_reader(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_target(pipe)
    with pytest.raises(BlockingIOError):  # and not the end of the file
        os.read(reader, 1)
    publish_file(pipe, b"done")
    assert (os.read(reader, 9), os.read(reader, 9)) == (b"done", b"")
    os.close(reader)


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(OutputError, match="neither a file, a pipe nor a character device"):
            publish_file(tmp_path / "socket", b"1")
    assert (tmp_path / "socket").is_socket()


@pytest.mark.parametrize("kind", ["char", "block"])
def test_devices(tmp_path, kind):
    """Nodes of our own: 1,3 is what /dev/null is, and there is no block device 240,0."""
    node, number = tmp_path / "node", os.makedev(1, 3) if kind == "char" else os.makedev(240, 0)
    mode = stat.S_IFCHR if kind == "char" else stat.S_IFBLK
    try:
        os.mknod(node, mode | 0o600, number)
        if kind == "char":
            os.close(os.open(node, os.O_WRONLY))
    except PermissionError:
        pytest.skip("device nodes cannot be made or opened here (not root, or a file system without devices)")
    if kind == "char":
        publish_file(node, b"swallowed")
    else:
        with pytest.raises(OutputError, match="neither a file, a pipe nor a character device"):
            publish_file(node, b"1")
    assert names(tmp_path) == ["node"] and stat.S_IFMT(node.stat().st_mode) == mode and node.stat().st_rdev == number


def test_contents_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """A power loss between the two would leave the name with an empty file."""
    calls, fsync, rename = [], os.fsync, os.replace

    def watched_fsync(descriptor):
        found = os.fstat(descriptor)
        calls.append("folder" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes")
        fsync(descriptor)

    def watched_rename(source, target):
        calls.append("name")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_rename)
    publish_file(tmp_path / "x", b"0123456789")
    assert calls == ["10 bytes", "name", "folder"]
