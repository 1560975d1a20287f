"""Images/s of conversion beside other converters, as ratios measured side by side in one run; and their fidelity.

Example::

    python benchmarks/peers/install.py      # once: the other converters, in environments of their own
    python benchmarks/conversion.py
    python benchmarks/conversion.py --images photos/ --rounds 3 --tools alexstream-lanczos,pillow-bicubic

Every tool runs in two processes. A block is whole passes over the same files (in the page cache), as many as last
``--seconds``; blocks are interleaved round by round; process start and two first blocks are left out. A block that
other processes disturbed is measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from fidelity import IDENTICAL_DB, decoded, psnr, references, spread
from machine import command_line, describe, result_path
from peers.install import default_folder, interpreter
from peers.tools import TOOLS
from photographs import ROOT, default_images, gather

WORKER = Path("benchmarks") / "peers" / "worker.py"
BASE, OURS = "pillow-bicubic", "alexstream-lanczos"
QUIET_CORES, TRIES = 0.2, 4
STAGES = ("decode", "encode", "verify")
WORK_DONE = (
    "Two processes each, one thread each; from files in the page cache to an archive on the disk. alexstream: all that "
    "a worker of `cli.py shard` does, that is strict decode, resampling, encoding, decoding the stored bytes again, "
    "pixel statistics, hashes of source, sample and shard, catalog, index, fsync. The others (Pillow, img2dataset's "
    "`Resizer`, Pillow-SIMD) write with webdataset's TarWriter, check nothing and wait for no disk. FFCV's writer "
    "limits the longer side and crops nothing: it is handed Pillow's central square, limited to 256, and timed from "
    "its first image to its return. All encode at quality 95, 4:2:0. Bound: the three stages one after the other, and "
    "nothing else: 1 / (1 / decode + 1 / encode + 1 / decode again)."
)
PSNR_DONE = (
    "PSNR to full decode and Pillow's Lanczos of the same window (the nearest of the three windows that tools call the "
    f"central square, which differ by less than a pixel): median / 5th percentile / smallest. {IDENTICAL_DB:.0f} "
    "stands for identical. Pillow rounds to 8 bits between its two passes: who does not is about 55 dB from it. "
    "n leaves out what a tool gave no 256×256 pixels of (FFCV enlarges nothing, and now and then rounds down to 255)."
)
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NO_ALBUMENTATIONS_UPDATE")}


class Running:
    """A tool's processes, waiting for orders; ``root``: the checkout whose code they run."""

    def __init__(self, name: str, python: Path, images: Path, scratch: Path, root: Path = ROOT) -> None:
        """Start them. Raises RuntimeError if one does not come up."""
        self.log = scratch / f"{name}.log"
        self.passes = 1
        folders = [scratch / f"{name}-{part}" for part in range(TOOLS[name].processes)]
        for folder in folders:
            folder.mkdir()
        commands = [[python, root / WORKER, name, images, folder, str(part)] for part, folder in enumerate(folders)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(root)}
        with self.log.open("ab") as log:
            self._processes = [subprocess.Popen(c, stderr=log, env=environment, **pipes) for c in commands]
        said = [self._answer(process) for process in self._processes]
        self.versions: dict[str, str] = said[0]["versions"]

    def block(self) -> dict[str, float]:
        """Images per second of ``passes`` passes, CPU seconds an image, and how many cores others used meanwhile."""
        busy, start = busy_seconds(), time.perf_counter()
        answers = self._ask({"passes": self.passes})
        wall = time.perf_counter() - start
        cpu = sum(a["cpu"] for a in answers)
        return {
            "rate": sum(a["images"] / a["seconds"] for a in answers),
            "cpu": cpu / sum(a["images"] for a in answers),
            "seconds": max(a["seconds"] for a in answers),
            "others": (busy_seconds() - busy - cpu) / wall,
        }

    def warm_up(self, seconds: float) -> None:
        """One block, from which the number of passes that last ``seconds`` follows."""
        self.block()
        self.passes = max(1, round(seconds / self.block()["seconds"]))

    def pixels(self, out: Path, count: int) -> None:
        """Save pixels and JPEGs of the first images."""
        self._ask({"pixels": str(out), "count": count}, self._processes[:1])

    def stop(self) -> None:
        """End the processes by closing their input."""
        for process in self._processes:
            process.stdin.close()
            process.wait()

    def _ask(self, order: dict[str, Any], processes: Sequence[Any] = ()) -> list[dict[str, Any]]:
        for process in processes or self._processes:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        return [self._answer(process) for process in processes or self._processes]

    def _answer(self, process: Any) -> dict[str, Any]:
        line = process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended: {self.log.read_text()[-300:]}"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def busy_seconds() -> float:
    """Processor seconds that the whole machine has spent working."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:8]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # without idle and waiting for disks


def start(names: Sequence[str], images: Path, scratch: Path, stack: ExitStack) -> tuple[dict[str, Running], list[str]]:
    """The tools that can be started, and a sentence for each that cannot."""
    running, missing = {}, []
    for name in names:
        entry = TOOLS[name]
        try:
            python = interpreter(default_folder(), entry.environment) if entry.environment else Path(sys.executable)
            running[name] = Running(name, python, images, scratch)
            stack.callback(running[name].stop)
        except RuntimeError as error:
            missing.append(f"{entry.title}: not installed: {error}")
    return running, missing


def quiet_block(tool: Running) -> dict[str, float]:
    """A block that others left alone; after ``TRIES`` the one that they disturbed least."""
    tried: list[dict[str, float]] = []
    while len(tried) < TRIES and not any(block["others"] < QUIET_CORES for block in tried):
        tried.append(tool.block())
    return min(tried, key=lambda block: block["others"])


def rounds_of(running: dict[str, Running], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Every tool once a round; each round begins with another, so that no tool always follows the same one."""
    blocks: dict[str, list[dict[str, float]]] = {name: [] for name in running}
    for i in range(rounds):
        names = [*running]
        for name in names[i % len(names) :] + names[: i % len(names)]:
            blocks[name].append(quiet_block(running[name]))
            rate, others = blocks[name][-1]["rate"], blocks[name][-1]["others"]
            print(f"round {i + 1}/{rounds}: {name} {rate:.0f} images/s, others {others:.2f} cores", file=sys.stderr)
    return blocks


def speed_table(rates: dict[str, list[float]]) -> list[str]:
    """Rows with median, range, and the ratios to Pillow and to the bound within the rounds."""
    heads = ("converter", "images/s", "smallest–largest", "÷ Pillow, bicubic", "÷ bound", "n")
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, values in rates.items():
        title = TOOLS[name].title if name in TOOLS else name
        rows.append(
            f"| {title} | {statistics.median(values):.0f} | {min(values):.0f}–{max(values):.0f} | "
            f"{_ratio(values, rates.get(BASE))} | {_ratio(values, rates.get('bound'))} | {len(values)} |"
        )
    return rows


def _ratio(values: list[float], base: list[float] | None) -> str:
    if base is None:
        return "–"
    ratios = [v / b for v, b in zip(values, base, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def with_bound(rates: dict[str, list[float]]) -> dict[str, list[float]]:
    """Stages last, and after them the bound that they make: one after the other, and nothing else."""
    ordered = {name: rates[name] for name in sorted(rates, key=lambda name: TOOLS[name].stage)}
    if all(stage in rates for stage in STAGES):
        ordered["bound"] = [1 / sum(1 / r for r in row) for row in zip(*(rates[s] for s in STAGES), strict=True)]
    return ordered


def end_to_end(images: Sequence[Path], scratch: Path, copies: int, rounds: int) -> list[str]:
    """One sentence: images/s of the whole command, on ``copies`` links to every image."""
    source = scratch / "copies"
    for path in images:
        for i in range(copies):
            link = source / path.parent.name / f"{i:03d}_{path.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(path)
    rates = []
    for i in range(rounds):
        command = [sys.executable, "cli.py", "shard", "--src", source, "--out", scratch / f"end{i}", "--workers", "2"]
        begun = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        rates.append(len(images) * copies / (time.perf_counter() - begun))
    return [
        f"`cli.py shard --workers 2` on {len(images) * copies:,} files ({copies} links to each), with its start, "
        f"listing, planning and statistics: {statistics.median(rates):.0f} images/s "
        f"({min(rates):.0f}–{max(rates):.0f}, n = {rounds}).",
        "",
    ]


def fidelity_table(running: dict[str, Running], images: Sequence[Path], scratch: Path) -> list[str]:
    """PSNR of every tool's pixels against full decode and Pillow's Lanczos, before and after encoding."""
    wanted = [references(path.read_bytes()) for path in sorted(images)]
    rows = ["| converter | dB before encoding | dB after encoding | bytes | n |", "|---|---|---|---|---|"]
    for name, tool in running.items():
        if TOOLS[name].stage:
            continue
        out = scratch / f"{name}.npz"
        tool.pixels(out, len(wanted))
        with np.load(out, allow_pickle=False) as saved:
            kept, pixels, sizes, jpegs = (saved[key] for key in ("kept", "pixels", "sizes", "jpegs"))
        ends = np.cumsum(sizes)
        stored = {i: jpegs[ends[i] - sizes[i] : ends[i]].tobytes() for i in kept.tolist()}
        before = [_nearest(p, wanted[i]) for p, i in zip(pixels, stored, strict=True)]
        after = [_nearest(decoded(jpeg), wanted[i]) for i, jpeg in stored.items()]
        mean = statistics.mean(len(jpeg) for jpeg in stored.values())
        rows.append(f"| {TOOLS[name].title} | {spread(before)} | {spread(after)} | {mean:,.0f} | {len(kept)} |")
    return rows


def _nearest(pixels: np.ndarray, wanted: Sequence[np.ndarray]) -> float:
    return max(psnr(pixels, reference) for reference in wanted)


def notes(running: dict[str, Running], blocks: dict[str, list[dict[str, float]]]) -> list[str]:
    """What each tool is, and how quiet the machine was."""
    others = [max(0.0, block["others"]) for values in blocks.values() for block in values]
    lines = [
        WORK_DONE,
        "",
        f"Other processes used {statistics.median(others):.2f} cores while a block ran (median; at most "
        f"{max(others):.2f}). A block during which they use {QUIET_CORES} or more is measured again, up to "
        f"{TRIES - 1} times, and the least disturbed counts.",
        "",
    ]
    for name, tool in running.items():
        lines.append(f"- {TOOLS[name].title}: " + ", ".join(f"{p} {v}" for p, v in tool.versions.items()))
    return lines


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=default_images(), help="[default: %(default)s, or drawn ones]")
    parser.add_argument("--most", type=int, default=0, help="use so many of the images [default: all]")
    parser.add_argument("--tools", default=",".join(TOOLS), help="[default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a block, in whole passes [%(default)s]")
    parser.add_argument("--rounds", type=int, default=7, help="[%(default)s]")
    parser.add_argument("--copies", type=int, default=20, help="links to an image for the whole command; 0: without")
    parser.add_argument("--fidelity", type=int, default=300, help="images for PSNR; 0: without [%(default)s]")
    parser.add_argument("--out", type=Path, help="[default: a name in benchmarks/results]")
    return parser.parse_args()


def measured(args: argparse.Namespace, scratch: Path) -> list[str]:
    """Everything, as lines of a result."""
    images, words = gather(args.images, scratch, args.most)
    with ExitStack() as stack:
        running, missing = start(args.tools.split(","), scratch / "images", scratch, stack)
        for tool in running.values():
            tool.warm_up(args.seconds)
        blocks = rounds_of(running, args.rounds)
        rates = {name: [block["rate"] for block in values] for name, values in blocks.items()}
        lines = [f"On {words}.", "", *speed_table(with_bound(rates)), "", *notes(running, blocks)]
        lines += [f"- {sentence}" for sentence in missing] + [""]
        if args.fidelity:
            some = sorted(images)[: args.fidelity]
            lines += [PSNR_DONE, "", *fidelity_table(running, some, scratch), ""]
    return lines + (end_to_end(images, scratch, args.copies, min(args.rounds, 3)) if args.copies else [])


def main() -> None:
    """Measure and write the tables."""
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        lines = measured(args, Path(scratch))
    command = command_line()
    head = ["# Conversion, beside other converters", "", f"`{command}`", "", describe(), ""]
    path = args.out or result_path("conversion")
    path.write_text("\n".join([*head, *lines]).rstrip() + "\n")
    print("\n".join([*head, *lines]), f"\nwritten to {path}")


if __name__ == "__main__":
    main()
