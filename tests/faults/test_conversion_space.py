"""Disks that are full, folders that may not be written, and a second conversion into the same folder."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alexstream.sharding.dataset_v1 import layout
from tests.faults.conversion import convert, ended, launch, same, stem, undisturbed
from tests.faults.sources import draw
from tests.faults.syscall_faults import SyscallFault
from tests.support import ROOT
from tests.support.comparisons import file_hashes

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def disk(tmp_path):
    """A small file system; its size is changed by ``resized``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs here (needs the right to mount)")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def resized(disk, pages):
    """In pages of 4 KiB."""
    subprocess.run(["mount", "-o", f"remount,size={pages * 4096}", disk], check=True)


@pytest.mark.promise("a full disk is one line, and the same command continues when there is space",
                     fault="a disk of any size that is too small, grown in two steps", short=4, long=200)  # fmt: skip
def test_a_disk_of_any_size_is_full_in_one_line_and_nothing_is_lost(trials, disk, tmp_path):
    source = draw(tmp_path / "src", 12)
    resized(disk, 100_000)
    expected = undisturbed(source, disk / "out")
    convert(source, disk / "out")
    needed = sum(-(-path.stat().st_size // 4096) + 1 for path in (disk / "out").iterdir()) + 1000
    for chance in trials:
        shutil.rmtree(disk / "out", ignore_errors=True)
        for pages in sorted(chance.randint(1, needed) for _ in range(2)):
            resized(disk, pages)
            done = convert(source, disk / "out")
            assert done.code == 0 or ("No space left" in done.error and "run the same command again" in done.error)
            assert done.code == 0 or not layout.is_dataset(disk / "out")
        resized(disk, 100_000)
        assert convert(source, disk / "out").code == 0
        same(disk / "out", expected)


def as_nobody(source, folder):
    """A conversion by a user who may do nothing."""
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("cannot become another user here (needs root and setpriv)")
    command = [*NOBODY, *launch_words(source, folder)]
    environment = {**os.environ, "HOME": "/nonexistent"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def launch_words(source, folder):
    return [sys.executable, str(ROOT / "cli.py"), "shard", "--src", str(source), "--out", str(folder), "--quiet"]


@pytest.mark.parametrize(("mode", "place"), [(0o555, "out"), (0o000, "out"), (0o555, ".")])
def test_a_folder_that_may_not_be_written_is_one_line(mode, place, tmp_path):
    source, folder = draw(tmp_path / "src", 4), tmp_path / "data" / "out"
    folder.mkdir(parents=True) if place == "out" else folder.parent.mkdir()
    (folder.parent / place).chmod(mode)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o777 == 0o700:  # pytest's, for its own user alone
            parent.chmod(0o755)
    done = as_nobody(source, folder)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and len(lines) == 1 and "Permission denied" in lines[0], done.stderr
    assert (str(folder) in lines[0] and not folder.is_dir()) or not list(folder.iterdir())
    (folder.parent / place).chmod(0o755)
    assert convert(source, folder).code == 0


def test_a_file_system_that_is_read_only_is_one_line_and_what_is_finished_there_is_recognised(disk, tmp_path):
    source = draw(tmp_path / "src", 4)
    resized(disk, 100_000)
    (disk / "empty").mkdir()
    assert convert(source, disk / "done").code == 0
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = convert(source, disk / "empty")
    assert done.code == 1 and "Read-only file system" in done.error and "again" in done.error
    assert "already complete" in convert(source, disk / "done").stdout


@pytest.mark.promise(
    "one conversion writes to a folder; a second one says so", fault="processes that race", short=2, long=40
)
def test_of_several_conversions_into_one_folder_one_goes_on(trials, tmp_path):
    source, folder = draw(tmp_path / "src", 12), tmp_path / "out"
    expected = undisturbed(source, folder)
    for chance in trials:
        racing = [launch(source, folder) for _ in range(chance.randint(2, 3))]
        done = [ended(process) for process in racing]
        assert any(one.code == 0 for one in done)
        for one in done:
            assert one.code == 0 or "is in use by another conversion; wait for it" in one.error
        same(folder, expected)
        shutil.rmtree(folder)


@pytest.mark.promise("one conversion writes to a folder; a second one says so",
                     fault="a second one while the first stands at any call", short=3, long=90)  # fmt: skip
def test_a_folder_is_held_at_every_call_and_free_when_its_holder_is_killed(trials, tmp_path):
    source, folder = draw(tmp_path / "src", 12), tmp_path / "out"
    watch = SyscallFault(tmp_path / "notes", folder)
    expected = undisturbed(source, folder, fault=watch)
    for _ in trials:
        at = 2 + trials.number * 89 % (len(watch.calls()) - 1)  # before the first there is no folder
        first = launch(source, folder, fault=SyscallFault(tmp_path / "stopped", folder, "signal 19", at))
        try:
            state_is(first.pid, "T")
            before = file_hashes(folder)
            second = convert(source, folder)
            assert second.code == 1 and "is in use by another conversion" in second.error
            assert file_hashes(folder) == before
        finally:
            first.kill()
            ended(first)
        assert convert(source, folder).code == 0
        same(folder, expected)
        shutil.rmtree(folder)


def state_is(pid, state):
    """Wait until a process is in a state."""
    deadline = time.monotonic() + 300
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_stem_is_the_command_line(tmp_path):
    assert "already" not in stem().run("info", tmp_path).stdout
    assert "no data set" in stem().run("info", tmp_path).error
