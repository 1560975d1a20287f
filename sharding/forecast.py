"""What a conversion would do, without writing anything: the plan, and size and time from a small sample."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from sharding.errors import BadImageError
from sharding.image import prepare
from sharding.pack import ShardRequest, split_requests
from sharding.plan import num_shards, shuffled
from sharding.source import Source, list_source
from sharding.stats import PixelSums
from sharding.tar import BLOCK
from sharding.workers import default_workers

SAMPLE_IMAGES = 64


def forecast(request: ShardRequest) -> str:
    """Lines for a person, one paragraph a split. Raises SourceError for a source that cannot be used."""
    return "\n".join(_one(part) for part in split_requests(request))


def _one(request: ShardRequest) -> str:
    source = list_source(request.source, request.classes)
    num_images = len(source.images)
    workers = request.num_workers or default_workers()
    bytes_each, seconds_each, num_bad, tried = _measure(source, request)
    total = bytes_each * num_images
    lines = [
        f"{request.source} -> {request.folder} ({request.split})",
        f"  {num_images:,} files of {len(source.classes)} classes, {len(source.excluded)} excluded by name",
        f"  {num_shards(num_images)} shards",
        f"  about {total / 2**20:,.0f} MiB, {_duration(seconds_each * num_images / workers)} with {workers} workers "
        f"(from {tried} files drawn by the plan, {num_bad} of them bad)",
    ]
    free = shutil.disk_usage(_existing(request.folder)).free
    if total > free:
        lines.append(f"  NOT ENOUGH SPACE: {free / 2**20:,.0f} MiB are free there")
    return "\n".join(lines)


def _measure(source: Source, request: ShardRequest) -> tuple[float, float, int, int]:
    """Bytes in the tar and seconds for one file, bad files, and files tried."""
    first = shuffled([image.key for image in source.images], request.seed)[:SAMPLE_IMAGES]
    num_bytes = num_bad = 0
    sums = PixelSums(request.encode.size_px)
    start = time.perf_counter()
    for i in first:
        try:
            prepared = prepare((source.root / source.images[i].path).read_bytes(), request.encode)
            sums.add(prepared.pixels_HWC)
            num_bytes += 3 * BLOCK + len(prepared.content) + -len(prepared.content) % BLOCK  # two headers, the label
        except (BadImageError, OSError):
            num_bad += 1
    return num_bytes / len(first), (time.perf_counter() - start) / len(first), num_bad, len(first)


def _existing(folder: Path) -> Path:
    return folder if folder.exists() or folder == folder.parent else _existing(folder.parent)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
