"""Describe a folder that is given as a data set and is none: what it is instead, and what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from alexstream.core.program import program_name
from alexstream.sharding.dataset_v1.layout import MANIFEST, MEAN, PLAN, STATS, TIMM_INFO, is_dataset
from alexstream.sharding.sources.files import is_image_name

_MOST_FOLDERS = 50  # that are looked into for images
_DEPTH = 3  # of folders: photos/train/cat/1.jpg


def has_dataset_files(folder: Path) -> bool:
    """Return whether there are files that only a data set or an unfinished conversion has."""
    return any((folder / name).is_file() for name in (STATS, MEAN, TIMM_INFO, PLAN))


def describe_missing_dataset(folder: Path, otherwise: str = "") -> str:
    """Return what ``folder``, which has no manifest, is instead of a data set, with advice; one line.

    ``otherwise``: the whole message where nothing better is known. Never raises an error of its own.
    """
    otherwise = otherwise or f"{folder} is no data set ({MANIFEST} is missing); give a folder that shard made"
    if not isinstance(folder, Path):  # in an object store, where looking costs time and money
        return otherwise
    try:
        return _describe(folder) or otherwise
    except OSError:
        return otherwise


def _describe(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist; give the folder of a data set"
    if not folder.is_dir():
        return f"{folder} is a file; give the folder of a data set"
    unfinished = next((one for one in (folder, *_subfolders(folder)) if _is_unfinished(one)), None)
    if unfinished is not None:
        return (
            f"{unfinished} is no finished data set ({MANIFEST} is missing); run the shard command that began it again"
        )
    if _holds_images(folder):
        made = folder.with_name(f"{folder.name}-shards") if folder.name else Path("shards")
        return (
            f"{folder} is a folder of images, not a data set; convert it with: {program_name()} shard --src {folder} "
            f"--out {made}"
        )
    return ""


def _is_unfinished(folder: Path) -> bool:
    return has_dataset_files(folder) and not is_dataset(folder)


def _subfolders(folder: Path) -> Iterator[Path]:
    """Yield some of the folders in a folder."""
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    yield from found[:_MOST_FOLDERS]


def _holds_images(folder: Path, depth: int = _DEPTH) -> bool:
    with os.scandir(folder) as entries:
        if any(is_image_name(entry.name) and entry.is_file() for entry in entries):
            return True
    return depth > 0 and any(_holds_images(inner, depth - 1) for inner in _subfolders(folder))
