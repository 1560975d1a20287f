"""Recompute the statistics of a finished data set from its shards and compare them with what is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexstream.core.errors import BadImageError, DatasetError
from alexstream.core.limits import count_cores
from alexstream.core.progress import progress_bar
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.catalog import load_catalog_shard
from alexstream.sharding.dataset_v1.manifest import Manifest, ShardRecord, load_manifest
from alexstream.sharding.dataset_v1.statistics import DatasetStats, load_mean_image, load_stats
from alexstream.sharding.executors.local import run_jobs
from alexstream.sharding.images.decode import decode_sample
from alexstream.sharding.images.stored_sample import SampleChecker
from alexstream.sharding.stats import PixelSums, summarize


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsCheck:
    """Stored and recomputed statistics; ``differing`` names every field that is not equal to the bit."""

    split: str
    stored: DatasetStats
    recomputed: DatasetStats
    mean_image_HWC: NDArray[np.float64]
    differing: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """True if the shards give exactly what is stored."""
        return not self.differing


@dataclass(frozen=True, slots=True, kw_only=True)
class _StatsJob:
    folder: Path
    manifest: Manifest
    shard: ShardRecord


def check_stats(folder: Path, *, num_workers: int = 0, quiet: bool = False) -> StatsCheck:
    """Decode every sample of every shard again and compare the statistics with ``stats.json`` and ``mean.npy``.

    Raises DatasetError if a file is missing, a sample does not decode, or the stored statistics belong to
    another data set.

    Args:
        folder: One split.
        num_workers: Processes that decode; 0: one for each core.
        quiet: Show no progress.
    """
    manifest = load_manifest(folder)
    stored = load_stats(folder, manifest)
    mean = load_mean_image(folder, stored)
    jobs = [_StatsJob(folder=folder, manifest=manifest, shard=shard) for shard in manifest.shards]
    sums = PixelSums(manifest.encode.size_px)
    workers = min(num_workers or count_cores(), len(jobs))
    with progress_bar(manifest.num_samples, "images", "stats", quiet=quiet) as bar:
        for part in run_jobs(_sum_shard, jobs, workers, bar.update):
            sums.merge(part)
    recomputed = summarize(sums, manifest.digest)
    pairs = asdict(recomputed).items()
    differing = [name for name, value in pairs if value != getattr(stored, name)]
    if not np.array_equal(mean, sums.mean_image()):
        differing.append(layout.MEAN)
    return StatsCheck(
        split=manifest.split,
        stored=stored,
        recomputed=recomputed,
        mean_image_HWC=mean,
        differing=tuple(differing),
    )


def _sum_shard(job: _StatsJob, progress: Callable[[int], None]) -> PixelSums:
    path = layout.shard_paths(job.folder, job.shard.name).tar
    if not path.is_file() or path.stat().st_size != job.shard.num_bytes:
        raise DatasetError(f"{path} is missing or of another size; restore it or shard the source again")
    one = load_catalog_shard(job.folder, job.shard, ("key", "extension", "offset", "size"))
    sums, gate = PixelSums(job.manifest.encode.size_px), SampleChecker(job.manifest.encode)
    with path.open("rb") as tar:
        if hashlib.file_digest(tar, "sha256").hexdigest() != job.shard.sha256:
            raise DatasetError(f"{path}: sha256 differs from the manifest's; restore it or shard the source again")
        for key, extension, offset, size in zip(*one.values(), strict=True):
            try:
                gate.check_length(size, extension)
                tar.seek(offset)
                sums.add(decode_sample(tar.read(size), extension, job.manifest.encode))
            except (BadImageError, ValueError) as error:
                raise DatasetError(f"{path}: sample {key} does not decode ({error})") from error
            progress(1)
    return sums
