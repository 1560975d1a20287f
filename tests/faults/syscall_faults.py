"""Faults at the border between a program and its files, made by ``syscall_faults.c``: what happens at which call."""

import atexit
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("syscall_faults.c")
CHANGES = "open,write,fsync,rename,unlink,mkdir"  # what makes a folder another one
CALLS = CHANGES + ",look,read"


@cache
def build_library():
    """``syscall_faults.c`` as a library that is loaded before a program."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make faults with")
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "syscall_faults.so", SOURCE, "-ldl"], check=True)
    return folder / "syscall_faults.so"


@dataclass(frozen=True)
class Call:
    """One call that was counted; ``second`` is the new name of a file that is renamed."""

    number: int
    name: str
    path: str
    second: str


class SyscallFault:
    """A fault: ``do`` at call number ``at`` of ``calls`` on paths under ``under``; every such call is logged.

    ``folders``: only calls on folders count.
    """

    def __init__(self, notes, under, do="", at=0, times=1, calls=CHANGES, *, folders=False):
        self.notes = Path(notes)
        shutil.rmtree(self.notes, ignore_errors=True)
        (self.notes / "grave").mkdir(parents=True)
        (self.notes / "count").write_bytes(bytes(8))
        (self.notes / "log").touch()
        self.environment = {
            "EDGE_UNDER": str(under), "EDGE_DO": do, "EDGE_AT": str(at), "EDGE_TIMES": str(times),
            "EDGE_CALLS": f",{calls},", "EDGE_COUNTER": str(self.notes / "count"),
            "EDGE_LOG": str(self.notes / "log"), "EDGE_GRAVE": str(self.notes / "grave"),
        }  # fmt: skip
        if folders:
            self.environment["EDGE_FOLDERS"] = "1"

    def calls(self):
        """What was called, in order."""
        lines = [line.split("\t") for line in os.fsdecode((self.notes / "log").read_bytes()).splitlines()]
        return sorted((Call(int(n), name, path, second) for n, name, path, second in lines), key=lambda c: c.number)

    def grave(self, call):
        """Where the file stays that this call replaced or deleted, if there was one."""
        return self.notes / "grave" / str(call.number)
