"""Freed memory stays while it is asked to: taking as much again costs no page faults. Afterwards it goes back."""

import ctypes
import json
import subprocess
import sys

import pytest

from tests.support import ROOT

FAULTS = """
import json, resource, sys
from contextlib import nullcontext
from pathlib import Path
import torch
from alexstream.trainer.cpu.memory import keep_freed_memory

def faults():
    torch.ones(25_000_000)  # 100 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

with keep_freed_memory() if sys.argv[1] == "keep" else nullcontext():
    before = [faults() for _ in range(20)][-1]
    after = [faults() for _ in range(5)][-1]
    inside = held()
print(json.dumps([(after - before) * resource.getpagesize(), inside - held()]))
"""

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")


def measured(how):
    """Bytes that were taken fresh by five times 100 MB, and bytes given back at the end."""
    words = [sys.executable, "-c", FAULTS, how]
    return json.loads(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def test_what_is_freed_is_used_again_and_given_back_at_the_end():
    fresh, given_back = measured("keep")
    assert fresh < 1_000_000 and given_back > 90_000_000
    assert measured("as it comes")[0] > 400_000_000  # or the test shows nothing
