"""Estimate a conversion without writing anything: its plan, and its size and time from a small sample."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from alexstream.core.errors import BadImageError
from alexstream.core.limits import count_cores
from alexstream.core.text import count_of, escape_unprintable, format_duration
from alexstream.sharding.dataset_v1.tar import padded_bytes
from alexstream.sharding.images.decode import prepare_image
from alexstream.sharding.listing import iter_images
from alexstream.sharding.plan import choose_num_shards
from alexstream.sharding.sources.reader import Reader
from alexstream.sharding.split_plans import Plan, ShardRequest, describe_plan, plan_splits
from alexstream.sharding.stats import PixelSums

SAMPLE_IMAGES = 64


def estimate_conversion(request: ShardRequest, *, all_classes: bool = False) -> str:
    """Return the estimate as text, a paragraph per split. Raises SourceError for a source that cannot be used."""
    return "\n".join(_estimate_split(plan, all_classes=all_classes) for plan in plan_splits(request))


def _estimate_split(plan: Plan, *, all_classes: bool) -> str:
    request, listing = plan.request, plan.listing
    workers = request.num_workers or count_cores()
    bytes_each, seconds_each, num_bad, tried = _measure_sample(plan)
    total = bytes_each * len(listing)
    lines = [
        *describe_plan(plan, all_classes=all_classes),
        f"  {count_of(choose_num_shards(len(listing), request.encode), 'shard')}",
        f"  about {total / 2**20:,.0f} MiB, {format_duration(seconds_each * len(listing) / workers)} with "
        f"{count_of(workers, 'worker')} (from {count_of(tried, 'file')} drawn by the plan, {num_bad} of them bad)",
    ]
    free = shutil.disk_usage(_existing_parent(request.folder)).free
    if total > free:
        lines.append(f"  NOT ENOUGH SPACE: {free / 2**20:,.0f} MiB are free there")
    return "\n".join(map(escape_unprintable, lines))


def _measure_sample(plan: Plan) -> tuple[float, float, int, int]:
    """Return bytes in the tar and seconds per file, the number of bad files, and of files tried."""
    encode, listing = plan.request.encode, plan.listing
    first = list(iter_images(listing.rows(plan.order[:SAMPLE_IMAGES]), listing.classes))
    num_bytes = num_bad = 0
    sums = PixelSums(encode.size_px)
    with Reader(plan.request.source) as reader:
        start = time.perf_counter()
        for image in first:
            try:
                prepared = prepare_image(reader.read(image.container, image.offset, image.size).data, encode)
                sums.add(prepared.pixels_HWC)
                num_bytes += padded_bytes(len(prepared.content)) + padded_bytes(1)  # image and label members
            except BadImageError:
                num_bad += 1
        seconds = time.perf_counter() - start
    return num_bytes / len(first), seconds / len(first), num_bad, len(first)


def _existing_parent(folder: Path) -> Path:
    return folder if folder.exists() or folder == folder.parent else _existing_parent(folder.parent)
