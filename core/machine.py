"""Record the environment of a measurement: code, hardware, versions and date. Part of every result."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from alexstream.core.limits import count_cores, memory_limit_bytes

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "nvidia-dali-cuda130", "numpy", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The environment of a measurement.

    ``code``: the git commit in a checkout, else the version of alexstream. ``cores``, ``memory_gib``: what this process
    may use, in a container less than the machine has. ``packages``: versions of the installed packages by name.
    ``date``: today, ISO.
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
        """Describe this machine, now. What cannot be determined is ``unknown``, 0 or left out."""
        models = [
            line.partition(":")[2].strip() for line in _read_lines("/proc/cpuinfo") if line.startswith("model name")
        ]
        return cls(
            code=_describe_code(),
            cores=count_cores(),
            cpu=(models or ["unknown"])[0],
            memory_gib=memory_limit_bytes() >> 30,
            gpus=tuple(
                re.sub(r"^GPU \d+: | \(UUID.*", "", gpu) for gpu in _run_command("nvidia-smi", "-L").splitlines()
            ),
            python=platform.python_version(),
            packages={name: found for name in PACKAGES if (found := _find_version(name))},
            date=str(datetime.date.today()),
        )

    def to_text(self) -> str:
        """Return one paragraph for people."""
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.code.capitalize()}; {self.cores} cores of {self.cpu}, {self.memory_gib} GiB, "
            f"GPU: {', '.join(self.gpus) or 'none'}; Python {self.python}, {packages}; {self.date}."
        )


def _describe_code() -> str:
    commit = ""
    if (ROOT / ".git").exists():  # our own repository, not one whose environment has us
        commit = _run_command("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10")
    return f"commit {commit}" if commit else f"alexstream {_find_version('alexstream') or 'of unknown version'}"


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _run_command(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _read_lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
