"""Measure the memory of a process and all its descendants together, as Linux counts it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Self

INTERVAL_S = 0.25


def read_pss_mib(pid: int) -> float:
    """Return the proportional set size of a process, MiB, which divides shared pages among sharers; 0 if gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def list_descendants(pid: int) -> list[int]:
    """Return a process and all its descendants, whichever threads started them."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [below for child in children.read_text().split() for below in list_descendants(int(child))]
        except OSError:  # the thread has just ended
            continue
    return found


class PeakMemory:
    """A context manager that measures the peak memory of this process and its descendants, every 0.25 s.

    ``mib``: the sum of their proportional set sizes, MiB; 0 where the system does not report it.
    """

    def __init__(self) -> None:
        self.mib = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._take_sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Sample once more and stop."""
        self._ended.set()
        self._thread.join()
        self._take_sample()

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self._take_sample()

    def _take_sample(self) -> None:
        self.mib = max(self.mib, sum(map(read_pss_mib, list_descendants(os.getpid()))))
