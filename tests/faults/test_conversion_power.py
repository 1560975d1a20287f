"""Power loss: what was not brought to the disk may be gone, in any combination; what counts is brought there first."""

import os
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.verify import verify
from tests.faults.conversion import convert, same, undisturbed
from tests.faults.sources import draw
from tests.faults.syscall_faults import SyscallFault
from tests.support.comparisons import file_hashes

PROMISE = "after a power loss a conversion continues to the same bytes, and a finished one is on the disk"


class Disk:
    """What of a folder is on the disk, by the calls that were made: contents since fsync, names since the folder's."""

    def __init__(self, calls, fault):
        self.fault = fault
        self.dirty = set()  # files whose content is not on the disk
        self.loose = defaultdict(list)  # folder → calls that changed its names and are not on the disk
        for call in calls:
            self._follow(call)

    def _follow(self, call):
        folder = os.path.dirname(call.path)
        if call.name in ("open", "write"):
            self.dirty.add(call.path)
        elif call.name == "fsync":
            self.dirty.discard(call.path)
            self.loose.pop(call.path, None)
        elif call.name == "rename":
            self.loose[folder].append(call)
            if call.path in self.dirty:
                self.dirty ^= {call.path, call.second}
        elif call.name in ("unlink", "mkdir"):
            self.loose[folder].append(call)
            self.dirty.discard(call.path)

    def lose(self, chance):
        """Take back, at random, what is not on the disk."""
        for path in self.dirty:
            if os.path.isfile(path):
                spoil(Path(path), chance)
        for calls in self.loose.values():
            for call in reversed(calls):
                if chance.random() < 0.5:
                    self._take_back(call)

    def _take_back(self, call):
        old = self.fault.grave(call)
        if call.name == "rename" and os.path.isfile(call.second):
            os.replace(call.second, call.path)
        if call.name == "mkdir":
            shutil.rmtree(call.path, ignore_errors=True)
        elif old.is_file() and os.path.isdir(os.path.dirname(call.path)):
            shutil.copy(old, call.second or call.path)


def spoil(path, chance):
    """A file whose content was not brought to the disk: cut, or zeros in it, or whole after all."""
    data = path.read_bytes()
    cut = chance.randint(0, len(data))
    path.write_bytes(chance.choice([data[:cut], data[:cut] + bytes(len(data) - cut), data]))


@pytest.mark.promise(
    PROMISE, fault="power loss before every call, unsynced data and names lost at random", short=10, long=900
)
def test_what_a_power_loss_takes_is_made_again(trials, tmp_path):
    source, folder, notes = draw(tmp_path / "src", 12), tmp_path / "out", tmp_path / "notes"
    watch = SyscallFault(notes, folder)
    expected = undisturbed(source, folder, fault=watch)
    total = len(watch.calls())
    for chance in trials:
        at = 1 + trials.number * 89 % total
        fault = SyscallFault(notes, folder, "signal 9", at)
        assert convert(source, folder, fault=fault).code == -9
        Disk(fault.calls()[:-1], fault).lose(chance)  # the last call was not made
        if folder.is_dir() and layout.is_dataset(folder):
            assert not [f for f in verify(folder, fast=True, quiet=True).findings if "not part of" not in f.problem]
        assert convert(source, folder).code == 0
        same(folder, expected)
        shutil.rmtree(folder)


def test_when_a_conversion_says_done_everything_is_on_the_disk(tmp_path):
    """``data/`` and ``data/out/`` too, which it made."""
    source, folder = draw(tmp_path / "src", 12), tmp_path / "data" / "out"
    fault = SyscallFault(tmp_path / "notes", tmp_path / "data")
    (tmp_path / "notes" / "grave").mkdir(exist_ok=True)
    fault.environment["EDGE_UNDER"] = str(tmp_path)
    assert convert(source, folder, fault=fault).code == 0
    disk = Disk(fault.calls(), fault)
    assert not {path for path in disk.dirty if os.path.exists(path)}
    loose = [
        call for calls in disk.loose.values() for call in calls if str(folder) in call.path or call.name == "mkdir"
    ]
    assert [call for call in loose if call.name != "unlink"] == []
    assert file_hashes(folder)


def test_no_file_gets_its_name_before_its_content_is_on_the_disk(tmp_path):
    """In the trace of one conversion, at each rename; where it ends, a later fsync would hide an early rename."""
    source, folder = draw(tmp_path / "src", 12), tmp_path / "out"
    fault = SyscallFault(tmp_path / "notes", folder)
    assert convert(source, folder, fault=fault).code == 0
    calls = fault.calls()
    renamed = [number for number, call in enumerate(calls) if call.name == "rename"]
    assert len(renamed) >= 10 and {calls[n].second for n in renamed} >= {f"{folder}/manifest.json"}
    early = [calls[n] for n in renamed if calls[n].path in Disk(calls[:n], fault).dirty]
    assert early == []
