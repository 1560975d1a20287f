"""What a result was measured on: commit, hardware, versions; and where results go."""

from __future__ import annotations

import datetime
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from sharding.workers import default_workers

RESULTS = Path(__file__).parent / "results"


def describe() -> str:
    """One paragraph: commit, cores and model of the CPU, memory, GPUs, versions, date."""
    commit = _said_by("git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty", "--abbrev=10")
    model = next((x.split(":")[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "unknown")
    memory = next((int(x.split()[1]) // 2**20 for x in _lines("/proc/meminfo") if x.startswith("MemTotal")), 0)
    gpus = _said_by("nvidia-smi", "-L") or "none"
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "nvidia-dali-cuda130", "numpy", "pillow"))
    return (
        f"Commit {commit}; {default_workers()} cores of {model}, {memory} GiB, GPU: {gpus}; "
        f"Python {platform.python_version()}, {packages}; {datetime.date.today()}."
    )


def command_line() -> str:
    """The command that made a result; of folders elsewhere on this machine, the names alone."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_local, sys.argv[1:])])


def result_path(theme: str) -> Path:
    """``results/THEME_cpu2_2026-11-21.md``: theme, hardware, date."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{theme}_cpu{default_workers()}_{datetime.date.today()}.md"


def _local(argument: str) -> str:
    return Path(argument).name if Path(argument).is_absolute() else argument


def _said_by(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
