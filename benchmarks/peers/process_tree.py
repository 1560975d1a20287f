"""What a process and all its descendants use, and what the whole machine does, as Linux counts it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_HZ = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            for child in children.read_text().split():
                found += tree(int(child))
    return found


def cpu_seconds() -> float:
    """Of this process and all its descendants, ended ones included."""
    total = 0
    for pid in tree(os.getpid()):
        with contextlib.suppress(OSError):
            total += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return total / _HZ


def memory_mib() -> float:
    """Memory that is this tree's own (anonymous and shared between its processes): files in the cache do not count."""
    total = 0
    for pid in tree(os.getpid()):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1])
    return total / 1024


def machine_seconds() -> tuple[float, float]:
    """Processor seconds that the whole machine has worked, and those that its host gave to others."""
    user, nice, system, _idle, _disk, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq) / _HZ, steal / _HZ
