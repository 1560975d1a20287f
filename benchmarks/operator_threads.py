"""The compiled operator in DALI's threads and in our own: whole processes, in pairs, with the same pixels.

Example::

    python benchmarks/operator_threads.py --data shards/train
    python benchmarks/operator_threads.py --data shards/train --rounds 15 --batches 200 --threads 1

Each round starts one process for each way, the first of them in turn. A process opens the data set, takes a few batches
that do not count, and then measures: images/s of wall time, and processor time of all its threads. The last line of the
table says how sure the difference is. The pixels of both are hashed and must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

from machine import command_line, describe, result_path

from alexstream.core.limits import count_cores
from alexstream.core.measure import Ratio, Spread

WAYS = {"auto": "DALI's threads", "threads": "our own threads"}
HASHED = 3  # batches, each of some 77 MB


def measure_way(arguments: argparse.Namespace) -> None:
    """Measure one way in this process, and print it as JSON."""
    from alexstream.pipeline.decode.dali import find_seam_fault
    from alexstream.pipeline.stream import ShardedData

    if fault := find_seam_fault():
        raise SystemExit(f"this DALI cannot call the operator: {fault}")
    begun = time.perf_counter()
    data = ShardedData(
        train=arguments.data, batch_size=arguments.batch_size, num_threads=arguments.threads, decoder=arguments.way
    )
    if "compiled operator" not in data.decode_path():
        raise SystemExit(f"there is no compiled operator, or these shards are not for it: {data.decode_path()}")
    stream, pixels = data.training(), hashlib.sha256()
    for batch in islice(stream, HASHED):
        pixels.update(batch.images_NCHW.numpy())
    opened_s = time.perf_counter() - begun
    for batch in islice(stream, arguments.warmup):
        del batch
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in islice(stream, arguments.batches):
        del batch
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stream.close()
    images = arguments.batches * arguments.batch_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "images/s": images / wall,
                "CPU, µs an image": 1e6 * cpu / images,
                "first batches, s": opened_s,
                "peak memory, MiB": peak,
                "pixels": pixels.hexdigest(),
            }
        )
    )


def run(way: str, arguments: argparse.Namespace) -> dict[str, float | str]:
    """Measure one way in a process of its own."""
    words = [sys.executable, __file__, "--way", way, "--data", arguments.data]
    for name in ("batches", "batch-size", "threads", "warmup"):
        words += [f"--{name}", str(getattr(arguments, name.replace("-", "_")))]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def format_table(rounds: list[dict[str, dict[str, float | str]]]) -> str:
    """Return a row for each quantity: both ways, and their ratio over the rounds."""
    lines = [f"| | {WAYS['auto']} | {WAYS['threads']} | own ÷ DALI's |", "|---|---|---|---|"]
    for name in (name for name in rounds[0]["auto"] if name != "pixels"):
        values = {way: [float(one[way][name]) for one in rounds] for way in WAYS}
        form = ",.2f" if name.endswith(", s") else ",.0f"
        told = [Spread.from_values(values[way]).to_text(form) for way in WAYS]
        lines.append(
            f"| {name} | {' | '.join(told)} | {Ratio.from_rounds(values['threads'], values['auto']).to_text()} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all rounds, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a split of jpeg or raw shards")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--batches", type=int, default=120, help="that count, in each process")
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=count_cores())
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="file for the result [default: benchmarks/results/…]")
    arguments = parser.parse_args()
    if arguments.way:
        return measure_way(arguments)
    rounds = []
    for number in range(arguments.rounds):
        order = list(WAYS) if number % 2 == 0 else list(WAYS)[::-1]
        rounds.append({way: run(way, arguments) for way in order})
        print(f"round {number + 1} of {arguments.rounds}:", rounds[-1], file=sys.stderr)
    pixels = {one[way]["pixels"] for one in rounds for way in WAYS}
    if len(pixels) != 1:
        raise SystemExit(f"the two ways give different pixels: {pixels}")
    text = (
        f"# The compiled operator in DALI's threads and in our own\n\n`{command_line()}`\n\n{describe()}\n\n"
        f"{format_table(rounds)}\n\nMedians over {arguments.rounds} pairs of processes, with the smallest and the "
        f"largest; ratios within pairs. Both gave the same pixels (sha256 {pixels.pop()[:12]} of the first {HASHED} "
        "batches).\n"
    )
    print(text)
    (arguments.out or result_path("operator-threads")).write_text(text)


if __name__ == "__main__":
    main()
