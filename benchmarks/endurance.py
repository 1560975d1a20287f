"""Ten thousand batches in a row: does the stream's memory grow?

Example::

    python benchmarks/endurance.py --data shards/train                 # 10,000 batches of 128
    python benchmarks/endurance.py --data shards/train --batches 500 --augmentation inception

The proportional set size of the process and the number of its open files and threads are looked at forty times, the
first tenth of the batches being warm-up. The slope is that of a straight line through the looks after it.
"""

from __future__ import annotations

import argparse
import os
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from machine import describe, result_path

from alexstream.core.limits import count_cores
from alexstream.pipeline.stream import ShardedData

LOOKS = 40


def look() -> tuple[float, int, int]:
    """MiB of the process that no file backs, open files, threads."""
    lines = Path("/proc/self/status").read_text().splitlines()
    anonymous = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))
    return anonymous, len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def main() -> None:
    """Stream, look, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a training split")
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--augmentation", default="paper")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = ShardedData(train=args.data, num_threads=count_cores(), augmentation=args.augmentation)
    stream, looks, start = data.training(), [], time.perf_counter()
    for _ in range(LOOKS):
        for _ in islice(stream, args.batches // LOOKS):
            pass
        looks.append(look())
    elapsed = time.perf_counter() - start
    memory = np.array([one[0] for one in looks])
    steady = memory[LOOKS // 10 :]
    slope = np.polyfit(np.arange(len(steady)), steady, 1)[0] * LOOKS / args.batches * 1000
    lines = [
        f"# Memory over {args.batches:,} batches of {data.batch_size}, {args.augmentation}",
        "",
        describe(),
        "",
        f"{data.decode_path()}; {args.batches * data.batch_size / elapsed:.0f} images/s, looking included.",
        "",
        "| after batches | MiB | open files | threads |",
        "|---|---|---|---|",
    ]
    for i in (0, LOOKS // 10, LOOKS // 4, LOOKS // 2, 3 * LOOKS // 4, LOOKS - 1):
        lines.append(f"| {(i + 1) * args.batches // LOOKS:,} | {looks[i][0]:.1f} | {looks[i][1]} | {looks[i][2]} |")
    lines += ["", f"After the warm-up: {steady.min():.1f}–{steady.max():.1f} MiB, {slope:+.3f} MiB per 1,000 batches."]
    path = result_path(f"endurance_{data.decode_path().split()[0]}")
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"\n\nwritten to {path}")


if __name__ == "__main__":
    main()
