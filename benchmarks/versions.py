"""Speed of conversion, or of the training stream, beside that of another version, in one interleaved run.

Example::

    git worktree add ../before b25da19
    python benchmarks/versions.py --before ../before
    python benchmarks/versions.py --before ../before --images photos/ --rounds 20
    python benchmarks/versions.py --before ../before --stage stream

Conversion: each round starts fresh processes of both versions (two each), lets each convert the images once, and then
times blocks of both in turn: before, after, after, before. A block is whole passes over the same files, in the page
cache, to shards on the disk.

Stream: both versions read the same set, which the other version made. Each round runs ``bench stream`` of each version
once in a fresh process, and the next round in the other order. The other version needs its compiled operator: run
``make setup`` in its checkout before.

Ratios are those of a round's means. CPU time is user and system time of the processes: it suffers less from what else
the machine does; that of the stream holds the start of its process.
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from conversion import OURS, Running, busy_seconds
from machine import command_line, describe, result_path
from photographs import ROOT, default_images, gather

STREAM_BATCH, STREAM_BLOCKS = 128, 3  # images in a batch; blocks that a process times


def one_round(
    roots: dict[str, Path], images: Path, scratch: Path, blocks: int, seconds: float
) -> dict[str, list[float]]:
    """Measure each version: name → seconds of wall time and of CPU time an image, and cores that others used."""
    with ExitStack() as stack:
        running = {}
        for name, root in roots.items():
            (scratch / name).mkdir(parents=True)
            running[name] = Running(OURS, Path(sys.executable), images, scratch / name, root)
            stack.callback(running[name].stop)
        for tool in running.values():
            tool.warm_up(seconds)
        done = {name: [] for name in running}
        for number in range(blocks):
            for name in [*running][:: -1 if number % 2 else 1]:
                done[name].append(running[name].block())
    return {name: [statistics.mean(values) for values in _columns(rows)] for name, rows in done.items()}


def make_set(root: Path, images: Path, out: Path) -> None:
    """Convert the images, with one version, to the set that both versions read."""
    command = [sys.executable, root / "cli.py", "shard", "--src", images, "--out", out, "--quiet"]
    subprocess.run(command, check=True, cwd=root, env=_environment(root), stdout=subprocess.DEVNULL)


def one_stream_round(roots: dict[str, Path], data: Path, steps: int) -> dict[str, list[float]]:
    """Run each version's stream in a process of its own; the result is that of ``one_round``."""
    return {name: _run_stream(root, data, steps) for name, root in roots.items()}


def _run_stream(root: Path, data: Path, steps: int) -> list[float]:
    what = ["--data", data, "--augmentation", "paper", "--batch-size", STREAM_BATCH, "--steps", steps]
    how = ["--rounds", STREAM_BLOCKS, "--json", "--quiet"]
    command = [sys.executable, root / "cli.py", "bench", "stream", *what, *how]
    busy, start = busy_seconds(), time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), cwd=root, env=_environment(root), stdout=subprocess.PIPE)
    answer = json.loads(process.stdout.read())["measured"]
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or "compiled operator" not in answer["decode_path"]:
        raise SystemExit(f"{root}: exit code {process.returncode}, {answer['decode_path']}; run make setup there")
    cpu, wall = used.ru_utime + used.ru_stime, time.perf_counter() - start
    images = (STREAM_BLOCKS + 1) * steps * STREAM_BATCH  # one block is a warm-up
    each = statistics.mean(1 / rate for rate in answer["images_per_s"]["paper"])
    return [each, cpu / images, (busy_seconds() - busy - cpu) / wall]


def _environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root)}


def _columns(rows: Sequence[dict[str, float]]) -> list[list[float]]:
    return [[1 / row["rate"] for row in rows], [row["cpu"] for row in rows], [row["others"] for row in rows]]


def format_table(rounds: Sequence[dict[str, list[float]]]) -> list[str]:
    """Speed after ÷ before, by wall and by CPU time: median, smallest and largest of the rounds."""
    rows = ["| time | before, ms an image | after, ms an image | speed, after ÷ before | n |", "|---|---|---|---|---|"]
    for column, name in enumerate(("wall", "CPU")):
        before, after = ([1000 * one[version][column] for one in rounds] for version in ("before", "after"))
        ratios = [b / a for b, a in zip(before, after, strict=True)]
        rows.append(
            f"| {name} | {statistics.median(before):.3f} | {statistics.median(after):.3f} | "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) | {len(ratios)} |"
        )
    others = [one[version][2] for one in rounds for version in ("before", "after")]
    return [
        *rows,
        "",
        f"Others used {statistics.median(others):.2f} cores meanwhile (median; at most {max(others):.2f}).",
    ]


def read_commit(root: Path) -> str:
    """The commit of a checkout; its folder's name where git does not know it."""
    done = subprocess.run(["git", "-C", root, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or root.name


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("conversion", "stream"), default="conversion", help="[%(default)s]")
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the other version")
    parser.add_argument("--images", type=Path, default=default_images(), help="[default: %(default)s, or drawn ones]")
    parser.add_argument("--most", type=int, default=0, help="use so many of the images [default: all]")
    parser.add_argument("--rounds", type=int, default=12, help="[%(default)s]")
    parser.add_argument("--blocks", type=int, default=4, help="blocks of each version in a round [%(default)s]")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a block, in whole passes [%(default)s]")
    parser.add_argument("--steps", type=int, default=30, help="batches of a block of the stream [%(default)s]")
    parser.add_argument("--out", type=Path, help="[default: a name in benchmarks/results]")
    return parser.parse_args()


def _measure(args: argparse.Namespace, roots: dict[str, Path], scratch: Path) -> Iterator[dict[str, list[float]]]:
    if args.stage == "stream":
        make_set(roots["before"], scratch / "images", scratch / "set")
    for number in range(args.rounds):
        if args.stage == "stream":
            in_turn = dict(sorted(roots.items(), reverse=number % 2 == 0))
            row = one_stream_round(in_turn, scratch / "set", args.steps)
        else:
            row = one_round(roots, scratch / "images", scratch / f"round{number}", args.blocks, args.seconds)
        print(f"round {number + 1}/{args.rounds}: {row}", file=sys.stderr)
        yield row


def main() -> None:
    """Measure and write the table."""
    args = parse_arguments()
    roots = {"before": args.before.resolve(), "after": ROOT}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        _, words = gather(args.images, scratch, args.most)
        rounds = list(_measure(args, roots, scratch))
    title = f"# {args.stage.capitalize()} beside that of another version"
    head = [title, "", f"`{command_line()}`", "", describe(), ""]
    lines = [
        *head,
        f"Before: commit {read_commit(roots['before'])}. On {words}.",
        "",
        *format_table(rounds),
        "",
        _how(args),
    ]
    path = args.out or result_path("versions" if args.stage == "conversion" else "versions_stream")
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"\n\nwritten to {path}")


def _how(args: argparse.Namespace) -> str:
    if args.stage == "stream":
        return (
            f"`bench stream` of each version, a fresh process in each of {args.rounds} rounds: after a warm-up, "
            f"{STREAM_BLOCKS} blocks of {args.steps} batches of {STREAM_BATCH} images, recipe `paper`, from one "
            "JPEG set that the earlier version made."
        )
    return (
        f"Two processes of each version, fresh in each of {args.rounds} rounds; after a warm-up, {args.blocks} blocks "
        "of each in turn. All that a worker of `cli.py shard` does, from files in the page cache to an archive on the "
        "disk."
    )


if __name__ == "__main__":
    main()
