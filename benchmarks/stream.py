"""The training stream beside other loaders, in one run: images/s, and ratios within interleaved rounds.

Example::

    python benchmarks/peers/install.py      # once: the other loaders, in environments of their own
    python benchmarks/stream.py --images photos/
    python benchmarks/stream.py --only ours-jpeg bound-jpeg ffcv-jpeg --rounds 9

The images become 256×256 shards, JPEG (quality 95, 4:2:0) and raw, and all loaders read the samples that are stored
there. Every loader is a process that stays alive and is asked for a block of ``--seconds`` in turn, in another order
every round; between its blocks it rests. Each first takes one pass over the set. A block that other processes, or
the machine's host, disturbed is measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, result_path
from peers.install import default_folder, interpreter
from peers.stream_contenders import CONTENDERS
from peers.stream_store import Stored
from photographs import ROOT, default_images, gather
from stream_report import Blocks, plot, report

from pipeline.dataset import open_dataset
from pipeline.lighting import offset_matrix
from sharding.layout import EncodeRecipe, load_manifest, load_mean_image, load_stats
from sharding.pack import ShardRequest, shard

WORKER = Path(__file__).resolve().parent / "peers" / "stream_worker.py"
QUIET_CORES, QUIET_STEAL, TRIES = 0.12, 0.15, 4
DROPPED, END_SECONDS = 8, 20


class Running:
    """A loader's process, waiting for orders."""

    def __init__(self, name: str, folder: Path) -> None:
        """Start it. Raises RuntimeError if it does not come up."""
        environment = CONTENDERS[name].environment
        python = interpreter(default_folder(), environment) if environment else Path(sys.executable)
        self._log = folder / f"{name}.log"
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": folder}
        leave_here = {"HOME": str(folder), "TMPDIR": str(folder)}  # what libraries keep for the next time
        pipes["env"] = {**os.environ, "PYTHONPATH": str(ROOT), **leave_here}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([python, WORKER, name, folder], stderr=log, **pipes)
        self.facts = self._answer()

    def ask(self, **order: float) -> dict[str, float]:
        """Give an order and wait for its answer."""
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """End it by closing its input."""
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended: {self._log.read_text(errors='replace')[-300:]}"}
        if "error" in answer:
            self.stop()
            raise RuntimeError(" ".join(answer["error"].split())[:400])
        return answer


def replicated(images: Sequence[Path], samples: int, folder: Path) -> Path:
    """Links to the images, over and over, until there are ``samples``."""
    for i in range(samples):
        image = images[i % len(images)]
        link = folder / image.parent.name / f"{i:06d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(image)
    return folder


def prepare(source: Path, encoding: str, folder: Path) -> Stored:
    """Shard the images with this encoding, and say where peers find each sample."""
    shards = folder / encoding
    shard(ShardRequest(source=source, folder=shards, encode=EncodeRecipe(encoding=encoding)), quiet=True)
    data, manifest = open_dataset(shards), load_manifest(shards)
    stats = load_stats(shards, manifest)
    stored = Stored(
        folder=folder,
        encoding=encoding,
        shards=shards,
        tars=tuple(shards / f"{record.name}.tar" for record in manifest.shards),
        shard_N=data.shard_N,
        offset_N=data.offset_N,
        size_N=data.size_N,
        label_N=data.label_N,
        mean_HWC=load_mean_image(shards, stats).astype(np.float32),
        colour_C=np.array(stats.mean_rgb_255),
        matrix_CC=offset_matrix(stats, "paper"),
        deviation=float(np.sqrt(np.mean(stats.eigenvalues_255))),
    )
    stored.save()
    return stored


def start(names: Sequence[str], folder: Path, stack: ExitStack, warm: int) -> tuple[dict[str, Running], list[str]]:
    """The loaders that run, each after ``warm`` images; and a sentence for each that does not."""
    running, missing = {}, []
    for name in names:
        try:
            loader = Running(name, folder)
            stack.callback(loader.stop)
            loader.ask(images=warm)
        except RuntimeError as error:
            missing.append(f"{CONTENDERS[name].title} ({CONTENDERS[name].encoding}): not measured: {error}")
            print(missing[-1], file=sys.stderr)
        else:
            running[name] = loader
            print(f"{name} runs: {loader.facts}", file=sys.stderr)
    return running, missing


def quiet_block(loader: Running, seconds: float) -> dict[str, float]:
    """A block that nobody disturbed; after ``TRIES`` the one that was disturbed least."""
    tried: list[dict[str, float]] = []
    while len(tried) < TRIES and not any(block["quiet"] for block in tried):
        block = loader.ask(seconds=seconds, drop=DROPPED)
        tried.append({**block, "quiet": abs(block["others"]) <= QUIET_CORES and block["steal"] <= QUIET_STEAL})
    best = min(tried, key=lambda block: max(abs(block["others"]) / QUIET_CORES, block["steal"] / QUIET_STEAL))
    return {**best, "tries": len(tried)}


def rounds_of(running: dict[str, Running], rounds: int, seconds: float) -> Blocks:
    """Every loader once a round, in random order; those whose ratios matter most are near one another."""
    blocks: Blocks = {name: [] for name in running}
    for i in range(rounds):
        names = random.Random(i).sample([*running], len(running))
        for name in sorted(names, key=lambda name: (CONTENDERS[name].group, CONTENDERS[name].encoding)):
            blocks[name].append(quiet_block(running[name], seconds))
            rate, others = blocks[name][-1]["rate"], blocks[name][-1]["others"]
            print(f"round {i + 1}/{rounds}: {name} {rate:.0f} images/s, others {others:.2f} cores", file=sys.stderr)
    return blocks


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=default_images(), help="[default: %(default)s, or drawn ones]")
    parser.add_argument("--most", type=int, default=0, help="use so many of the images [default: all]")
    parser.add_argument("--samples", type=int, default=8000, help="images in the shards, over and over [%(default)s]")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a block [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*CONTENDERS], default=[*CONTENDERS])
    parser.add_argument("--out", type=Path, help="[default: a name in benchmarks/results]")
    return parser.parse_args()


def measured(args: argparse.Namespace, scratch: Path, picture: Path) -> list[str]:
    """Everything, as lines of a result; and the picture."""
    images, words = gather(args.images, scratch, args.most)
    source = replicated(images, args.samples, scratch / "source")
    for encoding in sorted({CONTENDERS[name].encoding for name in args.only}):
        prepare(source, encoding, scratch)
    with ExitStack() as stack:
        running, missing = start(args.only, scratch, stack, args.samples)
        os.sync()  # so that the disk is not busy with what was written
        blocks = rounds_of(running, args.rounds, args.seconds)
    facts = {name: loader.facts for name, loader in running.items()}
    plot(blocks, picture)
    return [f"{args.samples:,} samples, made of {words}.", "", *report(blocks, facts, missing, picture.name)]


def main() -> None:
    """Measure and write the tables."""
    args = arguments()
    theme = args.images.name if args.images else "drawn"
    path = args.out or result_path(f"stream_{theme}")
    with tempfile.TemporaryDirectory() as scratch:
        lines = measured(args, Path(scratch), path.with_suffix(".svg"))
    command = " ".join(["python benchmarks/stream.py", *sys.argv[1:]])
    head = ["# The training stream, beside other loaders", "", f"`{command}`", "", describe(), ""]
    path.write_text("\n".join([*head, *lines]).rstrip() + "\n")
    print("\n".join([*head, *lines]), f"\nwritten to {path}")


if __name__ == "__main__":
    main()
