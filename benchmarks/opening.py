"""Time and memory to open a data set of ImageNet's size, and to go to any step of it, in either order.

Example::

    python benchmarks/opening.py                                   # 1,281,167 samples in 160 shards
    python benchmarks/opening.py --samples 100000 --shards 16 --rounds 5

The data set is made here: manifest, catalogs, indexes and statistics with content of realistic length; tars of the
right size that are empty, but for the headers that are looked at as a data set is opened. They take no disk.
Every round is a process of its own, and its memory the peak, interpreter and libraries (torch among them, before the
first step) included. The files are in the page cache.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, result_path

from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import CATALOG_COLUMNS
from alexstream.sharding.dataset_v1.manifest import Counts, Manifest, ShardRecord, save_manifest
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.statistics import DatasetStats, load_stats, npy_bytes, save_stats
from alexstream.sharding.dataset_v1.tar import BLOCK, Member, encode_index, padded_bytes

ROOT = Path(__file__).parent.parent
BATCH = 128
CLASSES = tuple(f"n{1_440_000 + 13 * i:08d}" for i in range(1000))


def make(folder: Path, num_samples: int, num_shards: int) -> None:
    """Write the data set."""
    borders = [num_samples * i // num_shards for i in range(num_shards + 1)]
    shards = [
        written_shard(folder, layout.shard_name("train", i), borders[i], borders[i + 1]) for i in range(num_shards)
    ]
    manifest = Manifest(
        split="train", seed=1, encode=EncodeRecipe(), plan_digest="0" * 64, source="synthetic",
        source_form="synthetic", classes=CLASSES, shards=tuple(shards), quarantine_sha256="0" * 64,
        counts=Counts(found=num_samples, written=num_samples, quarantined=0, excluded=0),
        counts_by_class=dict.fromkeys(CLASSES, Counts(found=0, written=0, quarantined=0, excluded=0)),
    )  # fmt: skip
    save_manifest(folder, manifest)
    mean = np.full((256, 256, 3), 117.0)
    three, square = (1.0, 1.0, 1.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    stats = DatasetStats(
        dataset_digest=manifest.digest, num_images=num_samples, num_pixels=num_samples * 65_536, rgb_sums=(1, 1, 1),
        rgb_products=((1, 1, 1),) * 3, mean_rgb_255=three, covariance_255=square, eigenvalues_255=three,
        eigenvalues_01=three, eigenvectors=square, mean_image_sha256=hashlib.sha256(npy_bytes(mean)).hexdigest(),
    )  # fmt: skip
    save_stats(folder, stats, mean)


def written_shard(folder: Path, name: str, begin: int, end: int) -> ShardRecord:
    """One shard with samples ``begin`` to ``end`` of the set."""
    draw, offset, rows, samples = random.Random(begin), 0, [], []
    for index in range(begin, end):
        wnid = draw.choice(CLASSES)
        image = Member(name=f"{wnid}_{index}.jpg", offset=offset + BLOCK, size=draw.randrange(20_000, 60_000))
        label = Member(name=f"{wnid}_{index}.cls", offset=image.offset + padded_bytes(image.size), size=4)
        offset = label.offset + BLOCK
        samples.append((image, label))
        rows.append(catalog_row(wnid, index, image, name, draw))
    num_bytes = -(-(offset + 2 * BLOCK) // 10_240) * 10_240
    write_sparse(
        folder / f"{name}.tar", num_bytes, [samples[0][0], samples[(len(samples) - 1) // 2][0], samples[-1][0]]
    )
    index, catalog = encode_index(samples), catalog_bytes(rows)
    (folder / f"{name}.idx").write_bytes(index)
    (folder / f"{name}.parquet").write_bytes(catalog)
    return ShardRecord(
        name=name, num_samples=len(rows), num_bytes=num_bytes, sha256=hashlib.sha256(name.encode()).hexdigest(),
        index_sha256=hashlib.sha256(index).hexdigest(), catalog_sha256=hashlib.sha256(catalog).hexdigest(),
    )  # fmt: skip


def catalog_row(wnid: str, index: int, image: Member, shard: str, draw: random.Random) -> dict[str, Any]:
    """A catalog row as a conversion of ImageNet's archives gives it."""
    return {
        "key": f"{wnid}_{index}", "extension": "jpg", "shard": shard, "offset": image.offset, "size": image.size,
        "label": CLASSES.index(wnid), "wnid": wnid,
        "source": f"ILSVRC2012_img_train.tar/{wnid}.tar/{wnid}_{index}.JPEG",
        "source_sha256": draw.randbytes(32).hex(), "stored_sha256": draw.randbytes(32).hex(),
        "source_width": 500, "source_height": 375, "source_format": "JPEG", "notes": "",
    }  # fmt: skip


def catalog_bytes(rows: list[dict[str, Any]]) -> bytes:
    """The catalog of a shard as ``shard`` writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows).select(list(CATALOG_COLUMNS)), buffer, compression="zstd")
    return buffer.getvalue()


def write_sparse(tar: Path, num_bytes: int, members: list[Member]) -> None:
    """A tar of the right size with the headers of a few members and holes everywhere else."""
    import tarfile

    with tar.open("wb") as file:
        os.truncate(tar, num_bytes)
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size = member.size
            file.seek(member.offset - BLOCK)
            file.write(info.tobuf(tarfile.USTAR_FORMAT))


def peak_mib() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def opened(folder: Path) -> tuple[dict[str, float], Any]:
    """Import and open; the data set, and seconds and memory of it."""
    start = time.perf_counter()
    from alexstream.pipeline.reading.dataset import open_dataset

    imported = time.perf_counter()
    data = open_dataset(folder)
    seconds = {"import, s": imported - start, "open, s": time.perf_counter() - imported}
    return {**seconds, "peak memory after opening, MiB": peak_mib()}, data


def one_round(folder: Path, kind: str) -> dict[str, float]:
    """What one process measures: opening, the first steps far from each other, borders of epochs, a batch's draws."""
    measured, data = opened(folder)
    from alexstream.pipeline.sampling.order import Order
    from alexstream.pipeline.transforms.augment import PAPER
    from alexstream.pipeline.transforms.preprocessing import Preprocessing

    measured["peak memory with torch, MiB"] = peak_mib()
    stats, black = load_stats(folder, data.manifest), np.zeros((256, 256, 3))
    augmenter = Preprocessing(recipe=PAPER, stats=stats, mean_image_HWC=black).make_augmenter(1, 256)
    sizes = tuple(shard.num_samples for shard in data.manifest.shards)
    order = Order(num_samples=len(data), seed=1, kind=kind, shard_sizes=sizes)
    per_epoch = len(data) / BATCH
    start = time.perf_counter()
    Order(num_samples=1, seed=1).epoch(0)
    measured["loading compiled code, once a process, ms"] = (time.perf_counter() - start) * 1e3
    steps = {
        "first step of all": 0, "a step in the middle of epoch 0": int(per_epoch / 2),
        "first step of epoch 57": int(57 * per_epoch) + 1, "a step from epoch 89 into 90": int(90 * per_epoch),
    }  # fmt: skip
    for name, step in steps.items():
        start = time.perf_counter()
        epochs, ids, _ = order.batch(BATCH, step)
        augmenter.draw(epochs, ids)
        measured[f"{name}, ms"] = (time.perf_counter() - start) * 1e3
    measured["stall at a border of epochs, ms"] = statistics.median(borders(order, per_epoch))
    measured["order and draws of a batch, us"] = statistics.median(batches(order, augmenter))
    return {**measured, "peak memory in the end, MiB": peak_mib()}


def borders(order: Any, per_epoch: float) -> list[float]:
    """Milliseconds of the step that needs the next epoch, for some epochs."""
    found = []
    for epoch in range(100, 111):
        order.batch(BATCH, int(epoch * per_epoch) - 1)
        start = time.perf_counter()
        order.batch(BATCH, int(epoch * per_epoch) + 1)
        found.append((time.perf_counter() - start) * 1e3)
    return found


def batches(order: Any, augmenter: Any) -> list[float]:
    """Microseconds of order and draws of a batch within an epoch."""
    found = []
    for step in range(2000):
        start = time.perf_counter()
        epochs, ids, _ = order.batch(BATCH, step)
        augmenter.draw(epochs, ids)
        found.append((time.perf_counter() - start) * 1e6)
    return found[100:]


def table(folder: Path, kind: str, rounds: int) -> list[str]:
    """Rows of medians and ranges over fresh processes; more than one, and one before them fills the caches."""
    command = [sys.executable, __file__, "--one", str(folder), "--kind", kind]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    results = [
        json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
        for _ in range(rounds + (rounds > 1))
    ][-rounds:]
    lines = [f"## Order: {kind}", "", f"| | median of {rounds} | smallest | largest |", "|---|---|---|---|"]
    for name in results[0]:
        values = [result[name] for result in results]
        digits = 2 if name.endswith(", s") else 0
        cells = [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def main() -> None:
    """Make the data set, run the rounds, print and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_281_167)
    parser.add_argument("--shards", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the data set there, or take the one that is there")
    parser.add_argument("--out", type=Path, help="where the result goes; default: benchmarks/results")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="global", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(one_round(chosen.one, chosen.kind)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        if not layout.is_dataset(folder):
            folder.mkdir(parents=True, exist_ok=True)
            make(folder, chosen.samples, chosen.shards)
        lines = [
            f"# Opening {chosen.samples:,} samples in {chosen.shards} shards, and going to any step",
            "",
            f"`python benchmarks/opening.py --samples {chosen.samples} --shards {chosen.shards}"
            f" --rounds {chosen.rounds}`",
            "",
            describe(),
            "",
            *(line for kind in ("global", "grouped") for line in table(folder, kind, chosen.rounds)),
        ]
    text = "\n".join(lines)
    print(text)
    (chosen.out or result_path("opening")).write_text(text)


if __name__ == "__main__":
    main()
