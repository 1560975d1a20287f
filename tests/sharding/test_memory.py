"""Memory of a process tree: children count, and are looked at while they live."""

import os
import subprocess
import sys

from sharding.memory import PeakMemory, descendants, pss_mib

HOLD = "import sys; held = bytearray(b'x') * (96 << 20); print(len(held), flush=True); sys.stdin.read()"


def test_the_peak_has_what_a_child_held_and_gave_back():
    before = pss_mib(os.getpid())
    with PeakMemory() as peak:
        command = [sys.executable, "-c", HOLD]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == f"{96 << 20}\n"
            assert child.pid in descendants(os.getpid())
            peak._look()  # as its thread does four times a second
    assert peak.mib > 0.9 * before + 96
    assert pss_mib(child.pid) == 0.0
