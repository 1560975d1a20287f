"""Memory of a process tree: children count, and are looked at while they live."""

import os
import subprocess
import sys
from pathlib import Path

from alexstream.core.memory import PeakMemory, list_descendants, read_pss_mib

HOLD = "import sys; held = bytearray(b'x') * (96 << 20); print(len(held), flush=True); sys.stdin.read()"


def test_the_peak_has_what_a_child_held_and_gave_back():
    before = read_pss_mib(os.getpid())
    with PeakMemory() as peak:
        command = [sys.executable, "-c", HOLD]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == f"{96 << 20}\n"
            assert child.pid in list_descendants(os.getpid())
            peak._take_sample()  # as its thread does four times a second
    assert peak.mib > 0.9 * before + 96
    assert read_pss_mib(child.pid) == 0.0


def test_memory_is_told_in_mebibytes(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda _: "55d0-7ffe ---p [rollup]\nRss:  9999 kB\nPss:  3072 kB\n")
    assert read_pss_mib(1) == 3.0
