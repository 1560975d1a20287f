"""The training stream beside other loaders, in one run: images/s, and ratios within interleaved rounds.

Example::

    python benchmarks/peers/install.py      # once: the other loaders, in environments of their own
    python benchmarks/stream.py --images photos/
    python benchmarks/stream.py --only ours-jpeg bound-jpeg ffcv-jpeg --rounds 9

The images become 256×256 shards, JPEG (quality 95, 4:2:0) and raw, and all loaders read the samples that are stored
there. Every loader is a process that stays alive and is asked for a block of ``--seconds`` in turn, in another order
every round; between its blocks it rests. Each first takes one pass over the set. A block that other processes, or
the machine's host, disturbed is measured again. Loaders of JPEGs come first; those of raw shards start when they have
ended, since together they would hardly fit into 24 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, describe, result_path
from peers.install import default_folder, interpreter
from peers.stream_contenders import CONTENDERS
from peers.stream_store import Stored
from photographs import ROOT, default_images, gather
from stream_report import Results, plot, report

from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.transforms.lighting import offset_matrix
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import load_mean_image, load_stats
from alexstream.sharding.pack import shard_split
from alexstream.sharding.split_plans import ShardRequest

WORKER = Path(__file__).resolve().parent / "peers" / "stream_worker.py"
QUIET_CORES, QUIET_STEAL = 0.12, 0.15
DROPPED, END_SECONDS = 8, 20


class Running:
    """A loader's process, waiting for orders."""

    def __init__(self, name: str, folder: Path) -> None:
        """Start it. Raises RuntimeError if it does not come up."""
        environment = CONTENDERS[name].environment
        python = interpreter(default_folder().absolute(), environment) if environment else Path(sys.executable)
        self._log = folder / f"{name}.log"
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": folder}
        leave_here = {"HOME": str(folder), "TMPDIR": str(folder)}  # what libraries keep for the next time
        pipes["env"] = {**os.environ, "PYTHONPATH": str(ROOT), **leave_here}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([python, WORKER, name, folder], stderr=log, **pipes)
        self.facts = self._answer()

    def ask(self, **order: float) -> dict[str, float]:
        """Give an order and wait for its answer."""
        with suppress(BrokenPipeError):  # the answer says why
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
    shard_split(ShardRequest(source=source, folder=shards, encode=EncodeRecipe(encoding=encoding)), quiet=True)
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


def start(names: Sequence[str], folder: Path, stack: ExitStack, warm: int, results: Results) -> dict[str, Running]:
    """The loaders that run, each after ``warm`` images; facts of them are noted."""
    running = {}
    for name in names:
        with noted_failure(name, results):
            loader = Running(name, folder)
            stack.callback(loader.stop)
            loader.ask(images=warm)
            running[name], results.facts[name], results.blocks[name] = loader, loader.facts, []
            print(f"{name} runs: {loader.facts}", file=sys.stderr)
    return running


@contextmanager
def noted_failure(name: str, results: Results) -> Iterator[None]:
    """A loader that fails is left out of the results, and a sentence says why."""
    try:
        yield
    except RuntimeError as error:
        results.facts.pop(name, None)
        results.blocks.pop(name, None)
        results.missing.append(f"{CONTENDERS[name].title} ({CONTENDERS[name].encoding}): not measured: {error}")
        print(results.missing[-1], file=sys.stderr)


def quiet_block(loader: Running, seconds: float, tries: int) -> dict[str, float]:
    """A block that nobody disturbed; after so many tries the one that was disturbed least."""
    tried: list[dict[str, float]] = []
    while len(tried) < tries and not any(block["quiet"] for block in tried):
        block = loader.ask(seconds=seconds, drop=DROPPED)
        tried.append({**block, "quiet": abs(block["others"]) <= QUIET_CORES and block["steal"] <= QUIET_STEAL})
    best = min(tried, key=lambda block: max(abs(block["others"]) / QUIET_CORES, block["steal"] / QUIET_STEAL))
    return {**best, "tries": len(tried)}


def take_rounds(running: dict[str, Running], args: argparse.Namespace, results: Results) -> None:
    """Every loader once a round, in random order; those whose ratios matter most are close together."""
    for i in range(args.rounds):
        names = random.Random(i).sample([*running], len(running))
        for name in sorted(names, key=lambda name: CONTENDERS[name].group):
            if name not in results.blocks:
                continue
            with noted_failure(name, results):
                block = quiet_block(running[name], args.seconds, args.tries)
                results.blocks[name].append(block)
                words = f"{block['rate']:.0f} images/s, others {block['others']:.2f} cores"
                print(f"round {i + 1}/{args.rounds}: {name} {words}", file=sys.stderr)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=default_images(), help="[default: %(default)s, or drawn ones]")
    parser.add_argument("--most", type=int, default=0, help="use so many of the images [default: all]")
    parser.add_argument("--samples", type=int, default=8000, help="images in the shards, over and over [%(default)s]")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a block [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--tries", type=int, default=4, help="for a block that others disturb [%(default)s]")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*CONTENDERS], default=[*CONTENDERS])
    parser.add_argument("--out", type=Path, help="[default: a name in benchmarks/results]")
    return parser.parse_args()


def measured(args: argparse.Namespace, scratch: Path, picture: Path) -> list[str]:
    """Everything, as lines of a result; and the picture."""
    images, words = gather(args.images, scratch, args.most)
    source, results = replicated(images, args.samples, scratch / "source"), Results()
    for encoding in sorted({CONTENDERS[name].encoding for name in args.only}):
        prepare(source, encoding, scratch)
        names = [name for name in args.only if CONTENDERS[name].encoding == encoding]
        with ExitStack() as stack:
            running = start(names, scratch, stack, args.samples, results)
            os.sync()  # so that the disk is not busy with what was written
            take_rounds(running, args, results)
    if not results.blocks:
        raise SystemExit("nothing was measured")
    plot(results.blocks, picture)
    return [f"{args.samples:,} samples, made of {words}.", "", *report(results, picture.name)]


def main() -> None:
    """Measure and write the tables."""
    args = arguments()
    theme = args.images.name if args.images else "drawn"
    path = args.out or result_path(f"stream_{theme}")
    with tempfile.TemporaryDirectory() as scratch:
        lines = measured(args, Path(scratch), path.with_suffix(".svg"))
    command = command_line()
    head = ["# The training stream, beside other loaders", "", f"`{command}`", "", describe(), ""]
    path.write_text("\n".join([*head, *lines]).rstrip() + "\n")
    print("\n".join([*head, *lines]), f"\nwritten to {path}")


if __name__ == "__main__":
    main()
