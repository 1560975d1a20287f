"""Which files a data set has: their names, and the paths of a shard's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RULES_VERSION = 2  # raised when acceptance or storage of files changes: no conversion mixes two rule sets
SPLITS = ("train", "val", "test")
MANIFEST, STATS, MEAN, CLASSES = "manifest.json", "stats.json", "mean.npy", "classes.json"
QUARANTINE, PLAN, CARD, TIMM_INFO = "quarantine.jsonl", "plan.json", "README.md", "_info.json"
MAX_INDEX_BYTES = 512  # bytes per sample of an index, and of its first line; a member's name has up to 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPaths:
    """The files of one shard: tar, DALI's index, catalog, and the resume record of an unfinished conversion."""

    tar: Path
    index: Path
    catalog: Path
    resume: Path


def shard_name(split: str, index: int) -> str:
    """Return the common stem of a shard's tar, index and catalog: ``train-000042``."""
    return f"{split}-{index:06d}"


def shard_paths(folder: Path, name: str) -> ShardPaths:
    """Return the paths of the files of the shard ``name`` in ``folder``."""
    return ShardPaths(
        tar=folder / f"{name}.tar",
        index=folder / f"{name}.idx",
        catalog=folder / f"{name}.parquet",
        resume=folder / f"{name}.part",
    )


def is_dataset(folder: Path) -> bool:
    """Return whether ``folder`` holds a finished DATASET v1."""
    return (folder / MANIFEST).is_file()
