"""What a result says of its machine and its command, and where results go."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path

from alexstream.core.limits import count_cores
from alexstream.core.machine import Machine

RESULTS = Path(__file__).parent / "results"


def describe() -> str:
    """One paragraph: commit, cores and model of the CPU, memory, GPUs, versions, date."""
    return Machine.here().to_text()


def command_line() -> str:
    """The command that made a result; of folders elsewhere on this machine, the names alone."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_local, sys.argv[1:])])


def result_path(theme: str) -> Path:
    """``results/THEME_cpu2_2026-11-21.md``: theme, hardware, date."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{theme}_cpu{count_cores()}_{datetime.date.today()}.md"


def _local(argument: str) -> str:
    return Path(argument).name if Path(argument).is_absolute() else argument
