"""Time and memory to plan a conversion of many images: labels, unique keys, the global shuffle, the plan's digest.

Example::

    python benchmarks/planning.py                     # 14.2 million images of 21,841 classes, as in ImageNet-21k
    python benchmarks/planning.py --images 1281167 --classes 1000

The listing is synthetic (names in the style of ImageNet, nothing on a disk), so reading folders is not included.
Every round is a process of its own; memory is its peak, interpreter and libraries included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from machine import describe, result_path

from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.listing import build_listing
from alexstream.sharding.sources.types import Entry, SourceSplit
from alexstream.sharding.split_plans import Plan, ShardRequest, make_jobs


def entries(num_images: int, num_classes: int) -> Iterator[Entry]:
    """As a class-per-folder source would yield them."""
    for index in range(num_images):
        wnid = f"n{index * num_classes // num_images + 1_000_000:08d}"
        name = f"{wnid}/{wnid}_{index}.JPEG"
        path = f"train/{name}"
        yield Entry(wnid=wnid, name=name, path=path, container=path)


def one_round(num_images: int, num_classes: int) -> dict[str, float]:
    """Seconds of each step, and the peak memory in GiB."""
    start = time.perf_counter()
    listing = build_listing(lambda log: SourceSplit(entries=entries(num_images, num_classes)), None, where="synthetic")
    listed = time.perf_counter()
    request = ShardRequest(source=Path("synthetic"), folder=Path("out"), split="train", encode=EncodeRecipe())
    plan = Plan.from_listing(request, "synthetic", listing)
    shuffled = time.perf_counter()
    digest = plan.digest
    num_jobs = len(make_jobs(plan))
    first = make_jobs(plan)[0]
    end = time.perf_counter()
    assert first.rows.num_rows and num_jobs and digest
    return {
        "list and label": listed - start,
        "shuffle": shuffled - listed,
        "digest and first job": end - shuffled,
        "all": end - start,
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Run the rounds, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=14_200_000)
    parser.add_argument("--classes", type=int, default=21_841)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one_round(chosen.images, chosen.classes)))
        return
    sizes = ["--images", str(chosen.images), "--classes", str(chosen.classes)]
    rounds = [
        json.loads(subprocess.run([sys.executable, __file__, "--one", *sizes], capture_output=True, check=True).stdout)
        for _ in range(chosen.rounds)
    ]
    lines = [
        f"# Planning {chosen.images:,} images of {chosen.classes:,} classes",
        "",
        f"`python benchmarks/planning.py {' '.join(sizes)} --rounds {chosen.rounds}`",
        "",
        describe(),
        "",
        f"| step | median of {len(rounds)} | smallest | largest |",
        "|---|---|---|---|",
    ]
    for name in rounds[0]:
        values = [r[name] for r in rounds]
        unit = "" if name.endswith("GiB") else " s"
        lines.append(f"| {name} | {statistics.median(values):.2f}{unit} | {min(values):.2f} | {max(values):.2f} |")
    text = "\n".join(lines) + "\n"
    print(text)
    result_path("planning").write_text(text)


if __name__ == "__main__":
    main()
