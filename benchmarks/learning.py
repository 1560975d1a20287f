"""What the default recipe learns from a folder of images: validation by epoch, for several seeds, and repeated.

Example, about 13 minutes a run on 2 cores::

    python benchmarks/learning.py --images photos/ --epochs 5 --seeds 0 1 --repeat 2

Shards the images, trains with ``cli.py train`` as a user would, and writes ``benchmarks/results/learning_*.md``:
top-1 after each epoch, seconds, and whether runs of one seed gave the same numbers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe, result_path

ROOT = Path(__file__).parent.parent


def cli(*words: object) -> None:
    """Call the command line in a fresh process, with this interpreter."""
    subprocess.run([sys.executable, str(ROOT / "cli.py"), *map(str, words)], check=True)


def train(shards: Path, run: Path, epochs: int, seed: int, extra: list[str]) -> tuple[list[dict], float]:
    """Rows of metrics.jsonl and the elapsed seconds of one run."""
    start = time.perf_counter()
    cli("train", "--data", shards, "--run", run, "--epochs", epochs, "--seed", seed, *extra)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return rows, time.perf_counter() - start


def numbers(rows: list[dict]) -> list[tuple]:
    """What must repeat: every loss and every validation, without the clock's readings."""
    return [(r["step"], r.get("loss"), json.dumps(r.get("validation"))) for r in rows]


def table_row(name: str, rows: list[dict], elapsed_s: float, same: str) -> str:
    """One line of the results table."""
    top1 = " / ".join(f"{100 * r['validation']['top1']:.1f}" for r in rows if "validation" in r)
    losses = [r["loss"] for r in rows if "loss" in r]
    wait = 100 * sum(r.get("wait_s", 0) for r in rows) / sum(r.get("elapsed_s", 0) for r in rows)
    first, last = (sum(part) / len(part) for part in (losses[:10], losses[-10:]))
    return f"| {name} | {top1} | {first:.3f} → {last:.3f} | {elapsed_s:.0f} | {wait:.1f} % | {same} |"


def main() -> None:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--repeat", type=int, default=1, help="runs of each seed")
    parser.add_argument("--train-options", default="", help="further options of cli.py train, in one string")
    args = parser.parse_args()
    extra = args.train_options.split()
    lines = [
        f"# Validation top-1 by epoch, {args.epochs} epochs of `{args.images.name}`",
        "",
        f"`python benchmarks/learning.py --images {args.images.name} --epochs {args.epochs} "
        f"--seeds {' '.join(map(str, args.seeds))} --repeat {args.repeat}"
        + (f' --train-options "{args.train_options}"`' if extra else "`"),
        "",
        describe(),
        "",
        "| seed, run | top-1 % after each epoch | loss, first → last 10 steps | seconds | data-wait | same numbers |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        shards = Path(scratch) / "shards"
        cli("shard", "--src", args.images, "--out", shards)
        for seed in args.seeds:
            first = None
            for run in range(args.repeat):
                rows, elapsed = train(shards, Path(scratch) / f"run-{seed}-{run}", args.epochs, seed, extra)
                same = "–" if first is None else "yes, all of them" if numbers(rows) == first else "NO"
                first = first or numbers(rows)
                lines.append(table_row(f"{seed}, {run + 1}", rows, elapsed, same))
    path = result_path("learning" + "".join(extra).replace("--", "_"))
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"\n\nwritten to {path}")


if __name__ == "__main__":
    main()
