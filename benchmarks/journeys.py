"""Count the functions of the project that run on its three journeys: archive to shards, first batch, training.

Example::

    python benchmarks/journeys.py                                  # this checkout
    python benchmarks/journeys.py --before ../checkout-of-another-version

Every Python function of the project that is called at least once counts once, in all processes of a journey: the
command, its workers, its ranks. Comprehensions, lambdas and modules do not count, nor does what numba or fused.c has
compiled, nor methods that dataclasses generate; class bodies count in the second number only. No time is measured, so
other work does not matter.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import command_line, describe, result_path
from PIL import Image

ROOT = Path(__file__).parent.parent
PACKAGES = ("commands", "core", "report", "trainer", "pipeline", "sharding")

# Runs at the start of every process, workers and ranks included: a line for each function at its first call.
RECORDER = """
import os, sys, threading
root, out, seen = os.environ["JOURNEY_ROOT"], os.environ["JOURNEY_OUT"], set()
names = os.environ["JOURNEY_PACKAGES"].split()
def record_call(frame, event, _):
    code = frame.f_code
    if event != "call" or code in seen:
        return
    seen.add(code)
    path = os.path.relpath(os.path.realpath(code.co_filename), root)
    if path.split(os.sep)[0] in names and not code.co_name.startswith("<"):
        kind = "function" if code.co_flags & 1 else "class"  # whose body runs when its module is imported
        line = f"{kind}\\t{path}\\t{code.co_qualname}:{code.co_firstlineno}\\n".encode()
        file = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line)
        os.close(file)
sys.setprofile(record_call)
threading.setprofile(record_call)
"""

FIRST_BATCH = """
import sys
try:
    from pipeline.loader import ShardedData  # before 0.2; an installed alexstream may be of another checkout
except ImportError:
    from alexstream import ShardedData
data = ShardedData(train=sys.argv[1], batch_size=32)
next(iter(data.training()))
"""


def write_archive(folder: Path) -> None:
    """Write ImageNet's training archive in small: a tar of two tars of three JPEGs each."""
    draw = np.random.default_rng(1)
    folder.mkdir(parents=True)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in ("n01440764", "n01443537"):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for number in range(3):
                    picture = io.BytesIO()
                    pixels = draw.integers(0, 256, (300, 400, 3), np.uint8)
                    Image.fromarray(pixels).save(picture, "JPEG")
                    add(tar, f"{wnid}_{number}.JPEG", picture.getvalue())
            add(outer, f"{wnid}.tar", inner.getvalue())


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


class Checkout:
    """A version of the project, and a folder to work in."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root.resolve(), work
        work.mkdir(parents=True)
        (work / "recorder").mkdir()
        (work / "recorder" / "sitecustomize.py").write_text(RECORDER)

    def run(self, *words: object, out: Path | None = None) -> None:
        """Run Python in the checkout; record its functions in ``out``."""
        environment = {**os.environ, "PYTHONPATH": str(self.root), "NUMBA_CACHE_DIR": str(self.work / "numba")}
        if out is not None:
            environment |= {
                "PYTHONPATH": f"{self.work / 'recorder'}:{self.root}",
                "JOURNEY_ROOT": str(self.root),
                "JOURNEY_OUT": str(out),
                "JOURNEY_PACKAGES": " ".join(PACKAGES),
            }
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=self.root, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def make_journeys(self) -> dict[str, Callable[[Path], None]]:
        """Return the three journeys, by what they are; each is given the file for its functions."""
        cli, source, images, shards = "cli.py", self.work / "archive", self.work / "images", self.work / "shards"
        write_archive(source)
        self.run(cli, "sample", "--out", images, "--train-per-class", 8, "--val-per-class", 4)
        self.run(cli, "shard", "--src", images, "--out", shards)
        shard = (cli, "shard", "--src", source, "--out", self.work / "out", "--workers", 1)
        train = (cli, "train", "--data", shards, "--run", self.work / "run", "--epochs", 1, "--batch-size", 16)
        train += ("--devices", 2, "--device", "cpu", "--width", 0.125)
        return {
            "an archive to a shard": lambda out: self.run(*shard, out=out),
            "a first batch": lambda out: self.run("-c", FIRST_BATCH, shards / "train", out=out),
            "a training of two ranks": lambda out: self.run(*train, out=out),
        }

    def count_functions(self) -> dict[str, set[tuple[str, str, str]]]:
        """Return the functions and class bodies of each journey, as (kind, file, name)."""
        found = {}
        for number, (name, go) in enumerate(self.make_journeys().items()):
            out = self.work / f"functions{number}.tsv"
            go(out)
            found[name] = {tuple(line.split("\t")) for line in out.read_text().splitlines()}
        return found


def describe_counts(found: set[tuple[str, str, str]]) -> str:
    """Return ``223 in 35 files (281 in 39)``."""
    functions = {one for one in found if one[0] == "function"}
    files, all_files = ({path for _, path, _ in some} for some in (functions, found))
    return f"{len(functions)} in {len(files)} files ({len(found)} in {len(all_files)})"


def count_by_package(found: set[tuple[str, str, str]]) -> str:
    """Return the number of functions in each package, in the order in which they lie above each other."""
    paths = [path for kind, path, _ in found if kind == "function"]
    counts = {name: sum(path.split("/")[0] == name for path in paths) for name in PACKAGES}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def main() -> None:
    """Count in this checkout and another, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of another version, with its operator built in place")
    parser.add_argument("--list", action="store_true", help="print the functions of this checkout, too")
    parser.add_argument("--out", type=Path, help="file for the result [default: benchmarks/results/…]")
    arguments = parser.parse_args()
    roots = {"now": ROOT} | ({"before": arguments.before} if arguments.before else {})
    with tempfile.TemporaryDirectory(prefix="journeys-") as folder:
        counts = {name: Checkout(root, Path(folder) / name).count_functions() for name, root in roots.items()}
    heads = ["before"] * bool(arguments.before) + ["now"]
    lines = [f"| | {' | '.join(heads)} | now, by package |", f"|---|{'---|' * (len(heads) + 1)}"]
    for name, found in counts["now"].items():
        told = [describe_counts(counts[head][name]) for head in heads]
        lines.append(f"| {name} | {' | '.join(told)} | {count_by_package(found)} |")
        if arguments.list:
            print(f"\n{name}\n" + "\n".join(" ".join(one) for one in sorted(found)))
    text = "\n".join(["# Functions that run", "", f"`{command_line()}`", "", describe(), "", *lines, "", NOTE, ""])
    print(text)
    (arguments.out or result_path("journeys")).write_text(text)


NOTE = (
    "Distinct Python functions of the project that are called at least once, in all processes, imports included; in "
    "brackets with the class bodies that imports run. The archive: ImageNet's training archive in small, two classes, "
    "`shard --workers 1`. The batch: the first of `ShardedData(train=…).training()`. The training: `train --devices 2 "
    "--epochs 1` on the sample set, with validation and checkpoint."
)


if __name__ == "__main__":
    main()
