"""Images/s of conversion and of the stream, as ratios measured side by side in one run.

Example::

    python benchmarks/throughput.py                          # on the drawn sample set
    python benchmarks/throughput.py --images photos/ --rounds 9

Rows: conversion with 1 worker and with one per core; the training stream with augmentation on and off, and DALI's
part of it alone (uint8 crops, no finish), in interleaved blocks after a warm-up. Medians, with the smallest and
largest of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from machine import describe, result_path

from alexstream.core.limits import count_cores
from alexstream.pipeline.batch import BatchSlice
from alexstream.pipeline.batch_plan import make_training_planner
from alexstream.pipeline.decode.dali import Engine, run_crop_graph
from alexstream.pipeline.reading.dataset import open_dataset
from alexstream.pipeline.sampling.order import Order
from alexstream.pipeline.stream import ShardedData
from alexstream.pipeline.transforms.augment import PAPER
from alexstream.pipeline.transforms.preprocessing import Preprocessing
from alexstream.sharding.pack import shard_all
from alexstream.sharding.sample_set import write_sample_set
from alexstream.sharding.split_plans import ShardRequest

BATCH = 128


def rate(stream: Iterator[object], batches: int) -> float:
    """Images per second over ``batches`` batches of a running stream."""
    start = time.perf_counter()
    for _ in islice(stream, batches):
        pass
    return batches * BATCH / (time.perf_counter() - start)


def conversion_rate(images: Path, scratch: Path, workers: int) -> float:
    """Images per second of ``shard``, process start included."""
    request = ShardRequest(source=images, folder=scratch, num_workers=workers)
    start = time.perf_counter()
    total = sum(m.counts.found for _, m, _ in shard_all(request, quiet=True))
    return total / (time.perf_counter() - start)


def streams(shards: Path) -> dict[str, Iterator[object]]:
    """The streams that are compared, each with one decoding thread per core."""
    data = open_dataset(shards)
    augmenter = Preprocessing.from_folder(shards, data.manifest, PAPER).make_augmenter(0, 256)
    steps = make_training_planner(data, augmenter, Order(num_samples=len(data), seed=0), BATCH, BatchSlice())
    engine = Engine(batch_size=BATCH, num_threads=count_cores())
    common = {"train": shards, "batch_size": BATCH, "num_threads": count_cores()}
    return {
        "stream, augmentation on": ShardedData(**common).training(),
        "stream, augmentation off": ShardedData(**common, augmentation="none").training(),
        "DALI alone (uint8 crops)": run_crop_graph(data, steps, engine, augmenter),
    }


def rounds_of(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Every measure once a round, in turn, so that a slow minute of the machine hits all of them."""
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            rates[name].append(measure())
    return rates


def table(rates: dict[str, list[float]], base: str) -> list[str]:
    """Rows with median, range, and the ratio to ``base`` within the rounds."""
    rows = ["| what | images/s | smallest–largest | ÷ " + base + " | n |", "|---|---|---|---|---|"]
    for name, values in rates.items():
        ratios = [v / b for v, b in zip(values, rates[base], strict=True)]
        rows.append(
            f"| {name} | {statistics.median(values):.0f} | {min(values):.0f}–{max(values):.0f} | "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}) | {len(values)} |"
        )
    return rows


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with train/ and val/ [default: the drawn sample set]")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=20, help="batches in a block")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        images = args.images or scratch / "images"
        if args.images is None:
            write_sample_set(images, quiet=True)
        counter = iter(range(1000))
        conversion = rounds_of(
            {
                "1 worker": lambda: conversion_rate(images, scratch / f"s{next(counter)}", 1),
                f"{count_cores()} workers": lambda: conversion_rate(
                    images, scratch / f"s{next(counter)}", count_cores()
                ),
            },
            min(args.rounds, 3),
        )
        converted = scratch / "s0"  # one split, or a folder of splits
        running = streams(converted / "train" if (converted / "train").is_dir() else converted)
        for stream in running.values():
            rate(stream, 5)
        measures = {name: (lambda s=s: rate(s, args.batches)) for name, s in running.items()}
        streaming = rounds_of(measures, args.rounds)
    lines = [f"# Throughput on {images.name if args.images else 'the drawn sample set'}", "", describe(), ""]
    lines += ["Conversion:", "", *table(conversion, "1 worker"), ""]
    lines += [f"Stream, batches of {BATCH}:", "", *table(streaming, "stream, augmentation off")]
    path = result_path("throughput" + (f"_{args.images.name}" if args.images else ""))
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), f"\n\nwritten to {path}")


if __name__ == "__main__":
    main()
