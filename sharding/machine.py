"""What something was measured on: code, hardware, versions and date, as one value. Called for every result."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sharding.workers import default_workers

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "nvidia-dali-cuda130", "numpy", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """``code``: the git commit, where the code lies in a checkout of its own, else the version of alexstream.

    ``cores``: CPU cores that this process may use; ``packages``: versions by name, of those that are installed;
    ``date``: ISO, of today.
    """

    code: str
    cores: int
    cpu: str
    memory_gib: int
    gpus: tuple[str, ...]
    python: str
    packages: Mapping[str, str]
    date: str

    @classmethod
    def here(cls) -> Machine:
        """This machine, now. What cannot be told is ``unknown``, 0 or left out."""
        models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
        sizes = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
        return cls(
            code=_code(),
            cores=default_workers(),
            cpu=(models or ["unknown"])[0],
            memory_gib=(sizes or [0])[0] >> 20,
            gpus=tuple(re.sub(r"^GPU \d+: | \(UUID.*", "", gpu) for gpu in _said_by("nvidia-smi", "-L").splitlines()),
            python=platform.python_version(),
            packages={name: found for name in PACKAGES if (found := _version(name))},
            date=str(datetime.date.today()),
        )

    def line(self) -> str:
        """One paragraph, for people."""
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.code.capitalize()}; {self.cores} cores of {self.cpu}, {self.memory_gib} GiB, "
            f"GPU: {', '.join(self.gpus) or 'none'}; Python {self.python}, {packages}; {self.date}."
        )


def _code() -> str:
    commit = ""
    if (ROOT / ".git").exists():  # not that of a project whose environment the code is installed in
        commit = _said_by("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10")
    return f"commit {commit}" if commit else f"alexstream {_version('alexstream') or 'of unknown version'}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _said_by(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
