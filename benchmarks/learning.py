"""What the recipe learns from a folder of images, and what it learns without each of its parts.

Examples; a run of 10 passes over 6,400 images takes about 20 minutes on 2 cores::

    python benchmarks/learning.py --images photos/ --epochs 10 --seeds 1 2 3
    python benchmarks/learning.py --images photos/ --epochs 10 --seeds 1 2 3 --work runs/ablations \
        --without lighting crops dropout lrn
    python benchmarks/learning.py --images photos/ --epochs 5 --seeds 1 --repeat 2

Shards the images, trains with ``cli.py train`` as a user would, evaluates with ``cli.py evaluate``, and writes top-1
after each epoch with one view and with ten, seconds, and whether runs of one seed gave the same numbers. With
``--work``, finished runs are kept and not done again: a long table can be made in several sittings.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import command_line, describe, result_path

ROOT = Path(__file__).parent.parent
RESULT = "learned.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run: what is left out (nothing: the whole recipe), which seed, and which of its repetitions."""

    without: str
    seed: int
    repetition: int

    @property
    def name(self) -> str:
        """A folder's name."""
        return f"{self.title.replace(' ', '-')}-seed{self.seed}-{self.repetition}"

    @property
    def title(self) -> str:
        """In tables."""
        return f"without {self.without}" if self.without else "the whole recipe"


def cli(*words: object) -> str:
    """Call the command line in a fresh process, with this interpreter; its standard output."""
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def learned(run: Run, shards: Path, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate, unless that was done; the rows of its metrics, seconds, and top-1 of ten views by epoch."""
    done = folder / RESULT
    if done.is_file():
        return json.loads(done.read_text())
    started = list(folder.glob("latest"))
    options = [*shlex.split(args.train_options), *([f"--no-{run.without}"] if run.without else [])]
    options += ["--resume"] if started else []
    start = time.perf_counter()
    cli(
        "train", "--data", shards, "--run", folder, "--epochs", args.epochs, "--seed", run.seed, "--keep", 999, *options
    )
    seconds = time.perf_counter() - start
    checkpoints = sorted(folder.glob("checkpoint-*.pt"))
    ten = [ten_views(shards, path) for path in checkpoints[0 if args.ten_views == "each" else -1 :]]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = {"rows": rows, "seconds": None if started else seconds, "ten": ten}
    done.write_text(json.dumps(result))
    for path in checkpoints[:-1]:
        path.unlink()
    return result


def ten_views(shards: Path, checkpoint: Path) -> float:
    """Top-1 of a checkpoint with the mean of ten views."""
    words = ("evaluate", "--data", shards, "--checkpoint", checkpoint, "--views", 10, "--batch-size", 32, "--json")
    return float(json.loads(cli(*words))["top1"])


def one_view(result: dict[str, Any]) -> list[float]:
    """Top-1 after each epoch."""
    return [row["validation"]["top1"] for row in result["rows"] if "validation" in row]


def numbers(result: dict[str, Any]) -> list[tuple]:
    """What must repeat: every loss and every validation, without the clock's readings."""
    return [(r["step"], r.get("loss"), json.dumps(r.get("validation"))) for r in result["rows"]]


def percent(values: list[float]) -> str:
    """``43.2 / 48.9``."""
    return " / ".join(f"{100 * value:.1f}" for value in values)


def run_row(run: Run, result: dict[str, Any], first: dict[str, Any]) -> str:
    """One run, as a line of the table."""
    rows = result["rows"]
    losses = [r["loss"] for r in rows if "loss" in r]
    wait = 100 * sum(r.get("wait_s", 0) for r in rows) / sum(r.get("elapsed_s", 0) for r in rows)
    begin, end = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    same = "–" if result is first else "yes, all of them" if numbers(result) == numbers(first) else "NO"
    seconds = "resumed" if result["seconds"] is None else f"{result['seconds']:.0f}"
    return (
        f"| {run.title} | {run.seed}, {run.repetition} | {percent(one_view(result))} | "
        f"{percent(result['ten'])} | {begin:.3f} → {end:.3f} | {seconds} | {wait:.1f} % | {same} |"
    )


def summary(results: dict[Run, dict[str, Any]], variants: list[str]) -> list[str]:
    """Mean and spread over the seeds at the end, and against the whole recipe with the same seed."""
    lines = [
        "| | one view, mean (spread) | ten views | against the whole, same seeds, one view | n |",
        "|---|---|---|---|---|",
    ]
    last = {run: 100 * one_view(result)[-1] for run, result in results.items() if run.repetition == 1}
    ten = {run: 100 * result["ten"][-1] for run, result in results.items() if run.repetition == 1}
    whole = {run.seed: value for run, value in last.items() if not run.without}
    for variant in variants:
        runs = [run for run in last if run.without == variant]
        differences = [last[run] - whole[run.seed] for run in runs if variant and run.seed in whole]
        against = spread(differences, "+.1f") if differences else "–"
        one, many = spread([last[run] for run in runs], ".1f"), spread([ten[run] for run in runs], ".1f")
        lines.append(f"| {runs[0].title} | {one} | {many} | {against} | {len(runs)} |")
    return lines


def spread(values: list[float], form: str) -> str:
    """Mean (smallest to largest)."""
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each seed")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="runs with cli.py train --no-NAME too")
    parser.add_argument("--train-options", default="", help="further options of all runs, in one string")
    parser.add_argument(
        "--ten-views", choices=["each", "last"], default="last", help="after which epochs [%(default)s]"
    )
    parser.add_argument("--work", type=Path, help="keep runs here, and do not repeat those that are finished")
    return parser.parse_args()


def main() -> None:
    """Run and write the table."""
    args = arguments()
    variants = ["", *args.without]
    results: dict[Run, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        if not (work / "shards").is_dir():
            cli("shard", "--src", args.images, "--out", work / "shards")
        for seed in args.seeds:
            for variant in variants:
                for repetition in range(1, args.repeat + 1):
                    run = Run(without=variant, seed=seed, repetition=repetition)
                    results[run] = learned(run, work / "shards", work / run.name, args)
    lines = [f"# What is learned in {args.epochs} epochs of `{args.images.name}`", "", f"`{command_line()}`", ""]
    lines += [describe(), "", *summary(results, variants), ""]
    lines += [
        "| left out | seed, run | one view, top-1 % by epoch | ten views | loss, first → last 10 steps | seconds |"
    ]
    lines[-1] += " data-wait | same numbers |"
    lines += ["|---|---|---|---|---|---|---|---|"]
    for run, result in results.items():
        first = results[Run(without=run.without, seed=run.seed, repetition=1)]
        lines.append(run_row(run, result, first))
    path = result_path("learning")
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"\n\nwritten to {path}")


if __name__ == "__main__":
    main()
