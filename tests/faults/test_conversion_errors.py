"""File systems that refuse: an error at any call of a conversion is one line, and loses and forges nothing."""

import errno
import os
import shutil

import pytest

from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.verify import verify
from tests.faults.conversion import convert, make_source, same, undisturbed, unfinished_or
from tests.faults.sources import draw
from tests.faults.syscall_faults import CALLS, CHANGES, SyscallFault
from tests.support.comparisons import file_hashes

PROMISE = "a file system that refuses is one line, and the same command continues to the same bytes"
REFUSALS = {
    "open": ("EIO", "ENOSPC", "EACCES", "EDQUOT", "EROFS", "EMFILE", "EINTR"),
    "write": ("EIO", "ENOSPC", "EDQUOT", "EFBIG", "EINTR", "short"),
    "fsync": ("EIO", "ENOSPC", "EDQUOT", "EINTR"),
    "rename": ("EIO", "ENOSPC", "EACCES", "EDQUOT"),
    "unlink": ("EIO", "EACCES", "EROFS"),
    "mkdir": ("EIO", "ENOSPC", "EACCES", "EROFS"),
    "look": ("EIO", "EACCES", "EMFILE", "ESTALE", "EINTR"),
    "read": ("EIO", "ESTALE", "EINTR", "short"),
}
HARMLESS = ("EINTR", "short")


def doing(name):
    return "short" if name == "short" else f"errno {getattr(errno, name)}"


def words_of(name):
    return os.strerror(getattr(errno, name))


def is_one_line(done, folder, name):
    """A failure says where and why, and what to do."""
    assert done.code == 1, f"exit code {done.code}: {done.stderr}"
    assert str(folder) in done.error and words_of(name) in done.error, done.error
    assert "[Errno" not in done.error and "again" in done.error, done.error


@pytest.mark.promise(
    PROMISE, fault="an error, once or for good, at every call that changes the output", short=12, long=900
)
def test_an_error_at_any_call_on_the_output_loses_nothing(trials, tmp_path):
    source, folder, notes = draw(tmp_path / "src", 12), tmp_path / "out", tmp_path / "notes"
    watch = SyscallFault(notes, folder)
    expected = undisturbed(source, folder, fault=watch)
    calls = watch.calls()
    places = [(call, name) for call in calls for name in REFUSALS[call.name]]
    for chance in trials:
        shutil.rmtree(folder, ignore_errors=True)
        call, name = places[trials.number * 89 % len(places)]
        times = 1 if name in HARMLESS else chance.choice([1, 10**6])
        fault = SyscallFault(notes, folder, doing(name), call.number, times, CHANGES if times == 1 else call.name)
        done = convert(source, folder, fault=fault)
        if name in HARMLESS:
            assert done.code == 0, done.stderr
        elif done.code != 0:
            is_one_line(done, folder, name)
        if folder.is_dir():
            unfinished_or(folder, expected)
        assert convert(source, folder).code == 0
        same(folder, expected)


@pytest.mark.promise(PROMISE, fault="an error at every call that reads what an earlier run left", short=6, long=300)
def test_an_error_at_any_call_of_a_continuation_loses_nothing(trials, tmp_path):
    source, folder, notes = draw(tmp_path / "src", 12), tmp_path / "out", tmp_path / "notes"
    watch = SyscallFault(notes, folder)
    expected = undisturbed(source, folder, fault=watch)
    quarantine = next(c.number for c in watch.calls() if "quarantine" in c.path)
    convert(source, folder, fault=SyscallFault(notes, folder, "signal 9", quarantine))
    left = shutil.copytree(folder, tmp_path / "left")
    watch = SyscallFault(notes, folder, calls=CALLS)
    assert convert(source, folder, fault=watch).code == 0
    reads = [call for call in watch.calls() if call.name in ("look", "read")]
    assert any(call.path.endswith(".part") for call in reads)
    places = [(call, name) for call in reads for name in REFUSALS[call.name]]
    for _ in trials:
        shutil.rmtree(folder)
        shutil.copytree(left, folder)
        call, name = places[trials.number * 89 % len(places)]
        done = convert(source, folder, fault=SyscallFault(notes, folder, doing(name), call.number, calls=CALLS))
        assert done.code == 0 or name not in HARMLESS, done.stderr
        if done.code:
            is_one_line(done, folder, name)
        unfinished_or(folder, expected)
        assert convert(source, folder).code == 0
        same(folder, expected)


def without_folder_sync(notes, under, name):
    """A file system that answers an fsync of any of its folders with this error."""
    return SyscallFault(notes, under, doing(name), 1, 10**6, "fsync", folders=True)


@pytest.mark.parametrize("name", ["EINVAL", "EOPNOTSUPP", "ENOSYS", "EBADF"])
def test_a_file_system_whose_folders_know_no_fsync_takes_a_conversion(name, tmp_path):
    """It makes ``new/out`` too: their names are those of folders above."""
    source, folder = draw(tmp_path / "src", 6), tmp_path / "new" / "out"
    expected = undisturbed(source, folder)
    shutil.rmtree(tmp_path / "new")
    fault = without_folder_sync(tmp_path / "notes", tmp_path, name)
    done = convert(source, folder, fault=fault)
    assert (done.code, done.stderr) == (0, "")
    assert {os.fspath(folder), os.fspath(folder.parent), os.fspath(tmp_path)} <= {call.path for call in fault.calls()}
    same(folder, expected)


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT"])
def test_names_that_do_not_reach_the_disk_are_an_error(name, tmp_path):
    source, folder = draw(tmp_path / "src", 6), tmp_path / "out"
    done = convert(source, folder, fault=without_folder_sync(tmp_path / "notes", tmp_path, name))
    is_one_line(done, folder, name)
    assert convert(source, folder).code == 0


@pytest.mark.parametrize("name", ["EINVAL", "ENOSYS", "EIO"])
def test_a_file_that_is_not_brought_to_the_disk_is_an_error_whatever_the_file_system_calls_it(name, tmp_path):
    source, folder = draw(tmp_path / "src", 6), tmp_path / "out"
    done = convert(
        source, folder, fault=SyscallFault(tmp_path / "notes", folder / "train-000000.tar", doing(name), 1, 1, "fsync")
    )
    is_one_line(done, folder, name)
    assert not layout.is_dataset(folder)


SOURCE_PROMISE = "a source that cannot be read is one line or a line in quarantine.jsonl, never a lost file"
OF_THE_FILE = ("EACCES",)  # an error that the file itself has: it is listed; others end the work


@pytest.mark.promise(SOURCE_PROMISE, fault="an error, once or for good, at every call on a {form}", short=5, long=300)
@pytest.mark.parametrize("form", ["folder", "tar", "parquet"])
def test_an_error_at_any_call_on_the_source_loses_no_file(form, trials, tmp_path):
    source, folder, notes = make_source(form, tmp_path), tmp_path / "out", tmp_path / "notes"
    watch = SyscallFault(notes, source, calls="look,read")
    expected = undisturbed(source, folder, fault=watch)
    places = [(call, name) for call in watch.calls() for name in REFUSALS[call.name] if name != "EMFILE"]
    for chance in trials:
        shutil.rmtree(folder, ignore_errors=True)
        call, name = places[trials.number * 89 % len(places)]
        for_good = name not in HARMLESS and chance.random() < 0.5
        fault = SyscallFault(notes, call.path, doing(name), 1, 10**6, "look,read")
        if not for_good:
            fault = SyscallFault(notes, source, doing(name), call.number, 1, "look,read")
        done = convert(source, folder, fault=fault)
        if done.code:
            assert name not in HARMLESS
            assert str(source) in done.error and "[Errno" not in done.error and "again" in done.error, done.error
            assert words_of(name) in done.error or (name in OF_THE_FILE and "changed after" in done.error), done.error
        elif file_hashes(folder) != expected:
            is_listed(folder, source, call, name)
            shutil.rmtree(folder)
        assert convert(source, folder).code == 0
        same(folder, expected)


def is_listed(folder, source, call, name):
    """A file that was left out is in the list with the reason, and everything else is as it should be."""
    lines = (folder / layout.QUARANTINE).read_text()
    assert name in OF_THE_FILE and '"unreadable"' in lines, f"{call} {name}: {lines}"
    assert os.path.relpath(call.path, source) in lines and words_of(name) in lines, lines
    assert not verify(folder, quiet=True).findings
