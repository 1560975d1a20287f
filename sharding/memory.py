"""How much memory a process and all below it take together, as Linux counts it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Self

INTERVAL_S = 0.25


def pss_mib(pid: int) -> float:
    """Proportional set size of a process, MiB: what it shares with others counts in parts. 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def descendants(pid: int) -> list[int]:
    """A process and all below it, whichever thread started them."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [below for child in children.read_text().split() for below in descendants(int(child))]
        except OSError:  # a thread that has just ended
            continue
    return found


class PeakMemory:
    """The most that this process and all below it took together while a ``with`` lasted, looked at four times a second.

    ``mib`` is the proportional set size of them all, MiB; 0 where the system does not tell it.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.mib = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Look from now on."""
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look once more, and no longer."""
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        self.mib = max(self.mib, sum(map(pss_mib, descendants(os.getpid()))))
