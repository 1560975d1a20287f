"""Make ``constraints.txt`` and the files beside this one, from the ranges of pyproject.toml: ``make lock``.

- ``constraints.txt``: the version of every package that any extra brings, for ``pip install -c``.
- ``image.txt``: what the container's image holds, with the sha256 of every file of each version.
- ``run.txt``: what ``make demo`` brings, likewise, but for torch and what its CUDA build alone needs.
- ``dev.txt``: what ``make setup`` brings, likewise; ``run.txt`` is part of it.

All come of one resolution by uv, so that they cannot disagree. Versions stay as they are; ``make lock LOCK=--upgrade``
takes the newest that the ranges allow, ``LOCK="--upgrade-package numpy"`` those of one package.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
CONSTRAINTS, IMAGE = ROOT / "constraints.txt", ROOT / "requirements/image.txt"
RUN, DEV = ROOT / "requirements/run.txt", ROOT / "requirements/dev.txt"
PYTHONS = ("3.11", "3.12", "3.13")
# What torch's build for CUDA needs and its build for CPUs does not; DALI has packages of such names, too.
OF_CUDA = re.compile(r"(torch|triton|cuda|nvidia)(-|$)")
PINNED = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\#]+?))?(?= \\| *#|$)")

CONSTRAINTS_HEAD = """\
# Exact versions of everything that a fresh install brings, with any extra, so that it is repeatable.
# Python 3.11 to 3.13; made from pyproject.toml by `make lock`; with hashes: requirements/. torch is the CPU build or
# that for CUDA 13, whichever the index offers.
"""
IMAGE_HEAD = """\
# What the image of the Dockerfile holds, `[s3,tensorboard,report]`, with the sha256 of every file; made by `make lock`.
# pip install --require-hashes -r requirements/image.txt
"""
RUN_HEAD = """\
# What `make demo` brings, `[report]`, with the sha256 of every file; made by `make lock`. torch and what its build for
# CUDA needs are not here: which build an index offers, and so its sha256, differs.
# pip install --no-deps --require-hashes -r requirements/run.txt
"""
DEV_HEAD = """\
# What `make setup` brings, `[dev]`, with the sha256 of every file; made by `make lock`. torch and what its build for
# CUDA needs are not here: which build an index offers, and so its sha256, differs.
# pip install --no-deps --require-hashes -r requirements/dev.txt
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One line of a resolution: a version, where it is for (empty: everywhere), its hashes, who asked for it."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    via: frozenset[str]

    def to_line(self) -> str:
        """Return it as ``pip install -c`` reads it."""
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")

    def to_hashed_line(self) -> str:
        """Return it as ``pip install --require-hashes -r`` reads it."""
        return " \\\n".join([self.to_line(), *(f"    --hash={one}" for one in self.hashes)])


def resolve(extras: list[str], known: str, arguments: list[str]) -> list[Pin]:
    """Resolve what the project brings with ``extras``.

    Versions of ``known``, a text as of constraints.txt, are kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.txt"
        out.write_text(known)
        words = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "--output-file", str(out)]
        words += ["--universal", "--python-version", PYTHONS[0], "--generate-hashes", "--no-header"]
        words += ["--no-emit-index-url", "--no-emit-find-links", "--annotation-style", "line"]
        words += [word for extra in extras for word in ("--extra", extra)]
        subprocess.run([*words, *arguments], cwd=ROOT, check=True)
        return [pin for block in split_requirements(out.read_text()) if (pin := parse_pin(block)) is not None]


def split_requirements(text: str) -> list[str]:
    """Split a file into its requirements, each with its continued lines."""
    return [block for block in re.split(r"\n(?=\w)", text) if block.strip()]


def parse_pin(block: str) -> Pin | None:
    """Parse a requirement; return None if no Python of ours on Linux needs it."""
    found = PINNED.match(block)
    if found is None:
        raise ValueError(f"uv's answer has a line that is no pinned requirement: {block.splitlines()[0]!r}")
    marker = found["marker"] or ""
    fits = [is_for(python, marker) for python in PYTHONS]
    if not any(fits):
        return None
    via = re.search(r"# via (.+)", block)
    return Pin(
        name=canonicalize_name(found["name"]),
        version=found["version"],
        marker="" if all(fits) else marker,
        hashes=tuple(re.findall(r"--hash=(sha256:[0-9a-f]{64})", block)),
        via=frozenset(re.findall(r"[\w.-]+", via[1].replace("(pyproject.toml)", ""))) if via else frozenset(),
    )


def is_for(python: str, marker: str) -> bool:
    """Tell whether a marker holds for this Python on Linux, x86-64."""
    machine = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"}
    machine |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    versions = {"python_version": python, "python_full_version": f"{python}.9", "implementation_version": f"{python}.9"}
    return not marker or Marker(marker).evaluate(machine | versions)


def without_torch(pins: list[Pin]) -> list[Pin]:
    """Leave out torch, and what nothing but torch's build for CUDA asks for."""
    gone = {"torch"}
    while more := {p.name for p in pins if OF_CUDA.match(p.name) and p.via and p.via <= gone} - gone:
        gone |= more
    return [pin for pin in pins if pin.name not in gone]


def main(arguments: list[str]) -> None:
    """Resolve, and write the four files."""
    known = CONSTRAINTS.read_text()
    everything = resolve(["dev", "heif", "fuzz"], known, arguments)
    known = "".join(f"{pin.to_line()}\n" for pin in everything)
    names = {pin.name for pin in everything}
    cuda12 = [pin for pin in resolve(["cuda12"], known, arguments) if pin.name not in names]
    pins = sorted([*everything, *cuda12], key=lambda pin: (pin.name, pin.to_line()))
    image, dev = resolve(["s3", "tensorboard", "report"], known, []), resolve(["dev"], known, [])
    run = resolve(["report"], known, [])
    CONSTRAINTS.write_text(CONSTRAINTS_HEAD + "".join(f"{pin.to_line()}\n" for pin in pins))
    for path, head, chosen in (
        (IMAGE, IMAGE_HEAD, image),
        (RUN, RUN_HEAD, without_torch(run)),
        (DEV, DEV_HEAD, without_torch(dev)),
    ):
        path.write_text(head + "".join(f"{pin.to_hashed_line()}\n" for pin in chosen))


if __name__ == "__main__":
    main(sys.argv[1:])
