"""How fast images become shards here: the whole conversion, several times, into a folder that is removed again.

Called by ``cli.py bench shard``. Listing and planning are not timed; starting workers, converting, statistics and
waiting for the disk are. Every source file was read once before, so sources come from the page cache if they fit in it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sharding.errors import BadImageError, OutputError
from sharding.layout import Manifest
from sharding.listing import images
from sharding.memory import PeakMemory
from sharding.pack import Plan, ShardRequest, plans, shard_plan
from sharding.plan import MIN_SHARD_SAMPLES
from sharding.sources.reading import Reader

MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSpeed:
    """What conversions took: ``seconds`` and ``peak_mib`` (of all processes together) have an entry a round.

    ``num_images`` source files of ``source_bytes`` were tried each time, ``num_listed`` are in the source;
    ``num_written`` samples in tars of ``written_bytes`` came of them, the others are no usable images.
    """

    num_listed: int
    num_images: int
    source_bytes: int
    num_written: int
    written_bytes: int
    seconds: tuple[float, ...]
    peak_mib: tuple[float, ...]

    def per_second(self, amount: float) -> list[float]:
        """``amount``, which every round got through, by the second; an entry a round."""
        return [amount / seconds for seconds in self.seconds]

    def table(self) -> str:
        """Lines for a person: medians over the rounds, with the smallest and the largest."""
        rows = {
            "images/s": _spread(self.per_second(self.num_images)),
            "source MB/s": _spread(self.per_second(self.source_bytes / MB), 1),
            "written MB/s": _spread(self.per_second(self.written_bytes / MB), 1),
            "peak memory": f"{_spread(self.peak_mib)} MiB, all processes together",
            "images": f"{self.num_images:,} of {self.num_listed:,}, of which {self.num_written:,} were written",
            "rounds": f"{len(self.seconds)} of {_spread(self.seconds, 1)} s",
        }
        return "\n".join(f"{name:14} {value}" for name, value in rows.items())

    def json(self) -> dict[str, Any]:
        """All that was measured, a list where there is a value a round."""
        return {
            "images_per_s": self.per_second(self.num_images),
            "source_mb_per_s": self.per_second(self.source_bytes / MB),
            "written_mb_per_s": self.per_second(self.written_bytes / MB),
            **{name: getattr(self, name) for name in self.__slots__},
        }


def measure(
    request: ShardRequest,
    *,
    limit: int = 0,
    rounds: int = 3,
    quiet: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> ShardSpeed:
    """Convert the source's first split ``rounds`` times, after a small conversion to warm up.

    ``limit``: that many images, those which the whole split's shuffle puts first; 0: all. ``request.folder``: where
    temporary folders are made. Raises OutputError if there is no such folder, and as ``sharding.pack`` does.
    """
    if not request.folder.is_dir() or not os.access(request.folder, os.W_OK):
        raise OutputError(
            f"--out {request.folder} is no folder that can be written to; give one that exists, on the disk to measure"
        )
    with tempfile.TemporaryDirectory(prefix="alexstream-bench-", dir=request.folder) as name:
        scratch = Path(name)
        whole = next(iter(plans(replace(request, folder=scratch / "shards"))))
        plan = first_images(whole, limit)
        source_bytes = _read_once(plan)
        _converted(first_images(plan, MIN_SHARD_SAMPLES), scratch, clock, quiet=True)
        done = [_converted(plan, scratch, clock, quiet=quiet) for _ in range(rounds)]
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


def first_images(plan: Plan, limit: int) -> Plan:
    """The plan of the ``limit`` images alone that ``plan`` has first: a fair choice over the classes, always the same.

    0, or as many as there are: the same images, without what was excluded by name.
    """
    chosen = np.sort(plan.order[: limit or None])
    listing = replace(plan.listing, table=plan.listing.table.take(pa.array(chosen)), excluded=())
    return Plan.of(plan.request, plan.form, listing)


def _read_once(plan: Plan) -> int:
    """Bytes of all source files; to count them is to read them, since tables of Parquet do not tell."""
    num_bytes = 0
    with Reader(plan.request.source) as reader:
        for image in sorted(images(plan.listing.table, plan.listing.classes), key=lambda image: image.place):
            try:
                num_bytes += len(reader.read(image.container, image.offset, image.size))
            except BadImageError:  # it is refused in the conversion too
                continue
    return num_bytes


def _converted(plan: Plan, scratch: Path, clock: Callable[[], float], *, quiet: bool) -> tuple[Manifest, float, float]:
    """A conversion into a folder that is removed afterwards: its manifest, seconds, and peak of memory, MiB."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder, PeakMemory() as peak:
        start = clock()
        manifest, _ = shard_plan(replace(plan, request=replace(plan.request, folder=Path(folder))), quiet=quiet)
        seconds = clock() - start
    return manifest, seconds, peak.mib


def _spread(values: Sequence[float], digits: int = 0) -> str:
    """``1,234 (1,200-1,300)``: median, smallest and largest."""
    shown = [f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]}-{shown[2]})"
