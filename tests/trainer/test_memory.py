"""Freed memory stays: taking as much again costs no page faults."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

FAULTS = """
import resource, sys
import torch
from trainer.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def faults():
    torch.ones(25_000_000)  # 100 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before = [faults() for _ in range(20)][-1]
after = [faults() for _ in range(5)][-1]
print((after - before) * resource.getpagesize())
"""


def fresh_bytes(how):
    words = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's way")
def test_what_is_freed_is_used_again():
    assert fresh_bytes("keep") < 1_000_000
    assert fresh_bytes("as it comes") > 400_000_000  # or the test shows nothing
