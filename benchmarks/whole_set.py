"""All that is to be measured on a machine: the stream, the step, what data costs, on GPUs where there are any.

Examples::

    python benchmarks/whole_set.py --images photos/
    python benchmarks/whole_set.py --images photos/ --batch-sizes 128 512 2048 --out results.md
    python benchmarks/whole_set.py --images photos/ --device cpu --batch-sizes 64 --only stream consumer

Shards the images as JPEGs and as pixels, then calls ``cli.py bench``: the stream decoded on the GPU and on the CPU, the
rates at which a consumer without a CPU is kept busy, the step in each precision, and ``overlap`` on one device and,
where there are two (or on a CPU), on two. The file is written after every row, so what was measured stays if the time
runs out; what fails is a row too, with its last line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import command_line, describe, result_path

from alexstream.sharding.sample_set import write_sample_set
from alexstream.trainer.distributed.launch import count_gpus

ROOT = Path(__file__).parent.parent
LIMIT_S = 300.0  # of one row
ENCODINGS = ("jpeg", "raw")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A call of ``cli.py bench``, and how its answer is read."""

    title: str
    words: tuple[str, ...]
    read: Callable[[dict[str, Any]], str]


def stream_row(measured: dict[str, Any]) -> str:
    """Images per second, with augmentation and without, and their ratio."""
    rates = {name: f"{sorted(values)[len(values) // 2]:,.0f}" for name, values in measured["images_per_s"].items()}
    on_off = measured["ratio_to_last"]["paper"]
    return f"{rates['paper']} images/s, with augmentation ÷ without {_ratio(on_off)}; {measured['decode_path']}"


def step_row(measured: dict[str, Any]) -> str:
    """Milliseconds, images per second, memory."""
    ms, rates = (sorted(measured[name]) for name in ("step_ms", "images_per_s"))
    memory = [mib for mib in measured["gpu_peak_mib"] if mib is not None]
    on_gpu = f"; {max(memory):,.0f} MiB of GPU memory" if memory else ""
    return f"{ms[len(ms) // 2]:.2f} ms ({ms[0]:.2f}-{ms[-1]:.2f}), {rates[len(rates) // 2]:,.0f} images/s{on_gpu}"


def overlap_row(measured: dict[str, Any]) -> str:
    """Both costs, the wait, and the verdict."""
    wait = measured["wait"]
    return (
        f"live ÷ cached {_ratio(measured['cost_of_data'])}; on ÷ off {_ratio(measured['cost_of_augmentation'])}; "
        f"{measured['images_per_s']['live']:,.0f} images/s live; waits {100 * wait['share']:.2f} % "
        f"(p99 {1e3 * wait['p99_s']:.2f} ms); {measured['verdict']['line'].split(':')[0]}, "
        f"slowest stage {measured['verdict']['slowest']}"
    )


def consumer_row(measured: dict[str, Any]) -> str:
    """The peak, the waits at shares of it, and the largest share that waits no more than 1 %."""
    waits = [
        f"{100 * row['share_of_peak']:.0f} %: {100 * sorted(row['wait_shares'])[len(row['wait_shares']) // 2]:.2f} % "
        f"({100 * min(row['wait_shares']):.2f}-{100 * max(row['wait_shares']):.2f})"
        for row in measured["waits"]
    ]
    peak, most = measured["peak_images_per_s"], measured["fastest_share_of_peak"]
    told = "none of them" if most is None else f"{100 * most:.0f} %"
    return f"peak {peak['median']:,.0f} images/s; waits at {', '.join(waits)}; 1 % at most up to {told}"


def rows(args: argparse.Namespace, work: Path) -> Iterator[Row]:
    """What is measured, the most telling first."""
    devices = [1, 2] if args.device == "cpu" or count_gpus() > 1 else [1]
    rounds = ("--rounds", str(args.rounds), "--steps", str(args.steps))
    for batch_size in map(str, args.batch_sizes):
        for encoding in ENCODINGS:
            common = ("--data", str(work / encoding), "--batch-size", batch_size, *rounds)
            for device in dict.fromkeys((args.device, "cpu")):
                yield Row(
                    title=f"stream, {encoding}, batch {batch_size}, {device}",
                    words=("stream", *common, "--device", device),
                    read=stream_row,
                )
            yield Row(
                title=f"consumer, {encoding}, batch {batch_size}, {args.device}",
                words=("overlap", *common, "--consumer", "sweep", "--device", args.device),
                read=consumer_row,
            )
        for count in map(str, devices):
            common = ("--device", args.device, "--devices", count, "--batch-size", batch_size, *rounds)
            for precision in args.precisions:
                title = f"batch {batch_size}, {precision}, {count} device(s)"
                yield Row(title=f"step, {title}", words=("step", "--precision", precision, *common), read=step_row)
                for encoding in ENCODINGS:
                    words = ("overlap", "--data", str(work / encoding), "--precision", precision, *common)
                    yield Row(title=f"overlap, {encoding}, {title}", words=words, read=overlap_row)


def answer(row: Row) -> tuple[str, dict[str, Any] | None]:
    """Its cell of the table, and all of its numbers; a failure's last line."""
    command = [sys.executable, str(ROOT / "cli.py"), "bench", *row.words, "--json", "--quiet"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"not done in {LIMIT_S:.0f} s", None
    if done.returncode:
        return f"FAILED: {(done.stderr.strip() or f'exit code {done.returncode}').splitlines()[-1]}", None
    found = json.loads(done.stdout)
    return row.read(found["measured"]), found


def shards_of(args: argparse.Namespace, work: Path) -> None:
    """The images as JPEG and as raw shards."""
    images = args.images
    if images is None:
        images = work / "images"
        write_sample_set(images, quiet=True)
    for encoding in ENCODINGS:
        command = [sys.executable, str(ROOT / "cli.py"), "shard", "--src", str(images), "--encode", encoding, "--quiet"]
        subprocess.run([*command, "--out", str(work / encoding)], check=True, stdout=subprocess.DEVNULL)


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with train/ and val/ [default: the drawn sample set]")
    device = "cuda" if count_gpus() else "cpu"
    parser.add_argument("--device", choices=["cuda", "cpu"], default=device, help="[%(default)s here]")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512], help="[%(default)s]")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "tf32", "bf16"], help="[%(default)s]")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="only rows whose title has one of these"
    )
    parser.add_argument("--steps", type=int, default=20, help="of a block [%(default)s]")
    parser.add_argument("--rounds", type=int, default=7, help="[%(default)s]")
    parser.add_argument("--out", type=Path, default=result_path("whole_set"))
    return parser.parse_args()


def main() -> None:
    """Measure row by row; a table, and beside it all numbers as JSON lines."""
    args = arguments()
    if args.device == "cuda" and not count_gpus():
        raise SystemExit("--device cuda: there is none here; leave it out, or give cpu")
    lines = [
        f"# The parts and their overlap, on {args.device}",
        "",
        f"`{command_line()}`",
        "",
        describe(),
        "",
        "| what | |",
        "|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch, args.out.with_suffix(".jsonl").open("w") as numbers:
        shards_of(args, Path(scratch))
        wanted = (row for row in rows(args, Path(scratch)) if any(text in row.title for text in args.only))
        for row in wanted:
            cell, found = answer(row)
            lines.append(f"| {row.title} | {cell} |")
            print(lines[-1], flush=True)
            args.out.write_text("\n".join(lines) + "\n")
            numbers.write(json.dumps({"row": row.title, **(found or {})}) + "\n")
            numbers.flush()
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
