"""What a conversion would do, without writing anything: the plan, and size and time from a small sample."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from sharding.errors import BadImageError
from sharding.image import prepare
from sharding.listing import images
from sharding.pack import Plan, ShardRequest, plans
from sharding.plan import num_shards
from sharding.sources.reading import Reader
from sharding.stats import PixelSums
from sharding.tar import padded
from sharding.workers import default_workers

SAMPLE_IMAGES = 64


def forecast(request: ShardRequest) -> str:
    """Lines for a person, one paragraph a split. Raises SourceError for a source that cannot be used."""
    return "\n".join(_one(plan) for plan in plans(request))


def _one(plan: Plan) -> str:
    request, listing = plan.request, plan.listing
    workers = request.num_workers or default_workers()
    bytes_each, seconds_each, num_bad, tried = _measure(plan)
    total = bytes_each * len(listing)
    lines = [
        f"{request.source} -> {request.folder} ({request.split})",
        f"  {plan.form}",
        *(f"  NOTE {notice}" for notice in listing.notices),
        f"  {len(listing):,} files of {len(listing.classes)} classes, {len(listing.excluded)} excluded by name",
        f"  {num_shards(len(listing), request.encode)} shards",
        f"  about {total / 2**20:,.0f} MiB, {_duration(seconds_each * len(listing) / workers)} with {workers} workers "
        f"(from {tried} files drawn by the plan, {num_bad} of them bad)",
    ]
    free = shutil.disk_usage(_existing(request.folder)).free
    if total > free:
        lines.append(f"  NOT ENOUGH SPACE: {free / 2**20:,.0f} MiB are free there")
    return "\n".join(lines)


def _measure(plan: Plan) -> tuple[float, float, int, int]:
    """Bytes in the tar and seconds for one file, bad files, and files tried."""
    encode, listing = plan.request.encode, plan.listing
    first = list(images(listing.rows(plan.order[:SAMPLE_IMAGES]), listing.classes))
    num_bytes = num_bad = 0
    sums = PixelSums(encode.size_px)
    with Reader(plan.request.source) as reader:
        start = time.perf_counter()
        for image in first:
            try:
                prepared = prepare(reader.read(image.container, image.offset, image.size), encode)
                sums.add(prepared.pixels_HWC)
                num_bytes += padded(len(prepared.content)) + padded(1)  # the label's member
            except BadImageError:
                num_bad += 1
        seconds = time.perf_counter() - start
    return num_bytes / len(first), seconds / len(first), num_bad, len(first)


def _existing(folder: Path) -> Path:
    return folder if folder.exists() or folder == folder.parent else _existing(folder.parent)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
