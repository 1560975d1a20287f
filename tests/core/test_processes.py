"""A process that another one started ends with it."""

import os
import subprocess
import sys
import time

CHILD = """
import os, time
from alexstream.core.processes import exit_with_parent
exit_with_parent(os.getppid())
print(os.getpid(), flush=True)
time.sleep(300)
"""
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
sys.stdout.buffer.write(child.stdout.readline())
"""


def runs(pid):
    """Whether a process is there and is no dead one that nobody has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_ends_with_its_parent():
    pid = int(subprocess.run([sys.executable, "-c", PARENT], capture_output=True, check=True, timeout=60).stdout)
    deadline = time.monotonic() + 60
    try:
        while runs(pid):
            assert time.monotonic() < deadline, "it outlives its parent"
            time.sleep(0.05)
    finally:
        if runs(pid):
            os.kill(pid, 9)
