"""Control groups for tests: below the one that the test itself is in, removed when it ends."""

import os
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from alexstream.core.limits import _iter_cgroups

_numbers = count()


class Group:
    """A control group of version 1 or 2, empty until a process enters it."""

    def __init__(self, folder):
        self.folder = folder

    def allow_cores(self, cores):
        """Processor time of so many cores."""
        if (self.folder / "cpu.max").exists():
            self._set("cpu.max", f"{int(100_000 * cores)} 100000")
        else:
            self._set("cpu.cfs_quota_us", int(100_000 * cores))

    def allow_bytes(self, limit):
        """So much memory, and no swap."""
        names = ("memory.max", "memory.limit_in_bytes")
        self._set(next(name for name in names if (self.folder / name).exists()), limit)
        for name, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", limit)):
            with suppress(OSError):
                if (self.folder / name).exists():
                    self._set(name, value)

    def enter(self):
        """Put the calling process into it; for ``preexec_fn``."""
        self._set("cgroup.procs", os.getpid())

    def remove(self):
        """Wait for its processes to end."""
        for _ in range(100):
            with suppress(OSError):
                return self.folder.rmdir()
            time.sleep(0.05)

    def _set(self, name, value):
        (self.folder / name).write_text(str(value))


@pytest.fixture
def cgroup():
    """Makes groups with a controller; skips where that is not allowed, as in most containers."""
    made = []

    def make(controller):
        above = next(_iter_cgroups(controller, Path("/proc")))
        folder = above / f"alexstream-test-{os.getpid()}-{next(_numbers)}"
        file = {"cpu": ("cpu.max", "cpu.cfs_quota_us"), "memory": ("memory.max", "memory.limit_in_bytes")}[controller]
        try:
            folder.mkdir()
            made.append(Group(folder))
        except OSError as error:
            pytest.skip(f"no control group may be made in {above}: {error.strerror}")
        if not any((folder / name).exists() for name in file):
            pytest.skip(f"{above} hands {controller} on to no group below it")
        return made[-1]

    yield make
    for group in made:
        group.remove()
