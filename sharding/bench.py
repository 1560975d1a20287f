"""Measure how fast images become shards on this machine, by repeated whole conversions into temporary folders.

Called by ``cli.py bench shard``. Listing and planning are not timed; starting workers, converting, statistics and fsync
are. Every source file is read once before, so sources come from the page cache if they fit in it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from alexstream.core.errors import BadImageError, OutputError
from alexstream.core.measure import Spread
from alexstream.core.memory import PeakMemory
from alexstream.sharding.dataset_v1.manifest import Manifest
from alexstream.sharding.listing import iter_images
from alexstream.sharding.pack import shard_plan
from alexstream.sharding.plan import MIN_SHARD_SAMPLES
from alexstream.sharding.sources.reader import Reader
from alexstream.sharding.split_plans import Plan, ShardRequest, plan_splits

MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpeed:
    """The measurements; ``seconds`` and ``peak_mib`` (of all processes together) have an entry per round.

    Each round converts ``num_images`` source files of ``source_bytes``, out of ``num_listed`` in the source, to
    ``num_written`` samples in tars of ``written_bytes``; the other files are no usable images.
    """

    num_listed: int
    num_images: int
    source_bytes: int
    num_written: int
    written_bytes: int
    seconds: tuple[float, ...]
    peak_mib: tuple[float, ...]

    def per_second(self, amount: float) -> list[float]:
        """Return ``amount``, the work of one round, per second; an entry per round."""
        return [amount / seconds for seconds in self.seconds]

    def table(self) -> str:
        """Return a text table: medians over the rounds, with the smallest and the largest."""
        rows = {
            "images/s": Spread.from_values(self.per_second(self.num_images)).to_text(),
            "source MB/s": Spread.from_values(self.per_second(self.source_bytes / MB)).to_text(",.1f"),
            "written MB/s": Spread.from_values(self.per_second(self.written_bytes / MB)).to_text(",.1f"),
            "peak memory": f"{Spread.from_values(self.peak_mib).to_text()} MiB, all processes together",
            "images": f"{self.num_images:,} of {self.num_listed:,}, of which {self.num_written:,} were written",
            "rounds": f"{len(self.seconds)} of {Spread.from_values(self.seconds).to_text(',.1f')} s",
        }
        return "\n".join(f"{name:14} {value}" for name, value in rows.items())

    def to_dict(self) -> dict[str, Any]:
        """Return all measurements as JSON values, a list where there is one per round."""
        return {
            "images_per_s": self.per_second(self.num_images),
            "source_mb_per_s": self.per_second(self.source_bytes / MB),
            "written_mb_per_s": self.per_second(self.written_bytes / MB),
            **{name: getattr(self, name) for name in self.__slots__},
        }


def measure_conversion(
    request: ShardRequest,
    *,
    limit: int = 0,
    rounds: int = 3,
    quiet: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> ShardSpeed:
    """Convert the source's first split ``rounds`` times, after a small conversion to warm up.

    ``limit``: number of images, the first ones of the plan's shuffle; 0 for all. ``request.folder``: the folder for
    temporary folders. Raises OutputError if it does not exist, and what ``sharding.pack`` raises.
    """
    if not request.folder.is_dir() or not os.access(request.folder, os.W_OK):
        raise OutputError(
            f"`folder` {request.folder} is not a writable folder; give one that exists, on the disk to measure"
        )
    with tempfile.TemporaryDirectory(prefix="alexstream-bench-", dir=request.folder) as name:
        scratch = Path(name)
        whole = next(iter(plan_splits(replace(request, folder=scratch / "shards"))))
        plan = take_first_images(whole, limit)
        source_bytes = _read_sources(plan)
        _time_conversion(take_first_images(plan, MIN_SHARD_SAMPLES), scratch, clock, quiet=True)
        done = [_time_conversion(plan, scratch, clock, quiet=quiet) for _ in range(rounds)]
    manifest = done[0][0]
    return ShardSpeed(
        num_listed=len(whole.listing),
        num_images=len(plan.listing),
        source_bytes=source_bytes,
        num_written=manifest.num_samples,
        written_bytes=sum(shard.num_bytes for shard in manifest.shards),
        seconds=tuple(seconds for _, seconds, _ in done),
        peak_mib=tuple(mib for _, _, mib in done),
    )


def take_first_images(plan: Plan, limit: int) -> Plan:
    """Return the plan of the first ``limit`` images of ``plan``: a random sample, but always the same.

    0 selects all images, without what was excluded by name.
    """
    chosen = np.sort(plan.order[: limit or None])
    listing = replace(plan.listing, table=plan.listing.table.take(pa.array(chosen)), excluded=())
    return Plan.from_listing(plan.request, plan.form, listing)


def _read_sources(plan: Plan) -> int:
    """Return the total bytes of the source images, by reading them: Parquet metadata does not say."""
    num_bytes = 0
    with Reader(plan.request.source) as reader:
        for image in sorted(iter_images(plan.listing.table, plan.listing.classes), key=lambda image: image.sort_key):
            try:
                num_bytes += len(reader.read(image.container, image.offset, image.size).data)
            except BadImageError:  # the conversion refuses it too
                continue
    return num_bytes


def _time_conversion(
    plan: Plan, scratch: Path, clock: Callable[[], float], *, quiet: bool
) -> tuple[Manifest, float, float]:
    """Convert into a folder that is removed afterwards; return manifest, seconds and peak memory, MiB."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, PeakMemory() as peak:
        start = clock()
        manifest, _ = shard_plan(replace(plan, request=replace(plan.request, folder=Path(folder))), quiet=quiet)
        seconds = clock() - start
    return manifest, seconds, peak.mib
