"""Find images whose files have identical bytes: within a split, between splits, and under two classes.

The catalogs hold the sha256 of every source file, so no shard is read. Copies within a class only waste time; a copy
in two splits makes a validation score too good, and one under two classes teaches the network a contradiction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexstream.core.errors import DatasetError
from alexstream.core.progress import tell_activity
from alexstream.core.text import count_of, escape_unprintable
from alexstream.sharding.dataset_v1.catalog import load_catalog_rows, load_catalog_shard
from alexstream.sharding.dataset_v1.layout import shard_paths
from alexstream.sharding.dataset_v1.manifest import ShardRecord, load_manifest

_READER_THREADS = 8
_PREFIX = 16  # hexadecimal digits, 64 bits, by which candidates are found; what counts is the whole sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One image of a group with identical bytes: the sha256 of its source file, its split, class, key and path."""

    sha256: str
    split: str
    wnid: str
    key: str
    source: str

    def to_text(self) -> str:
        """Return the first digits of the sha256, split, class and path, separated by tabs."""
        return "\t".join(map(escape_unprintable, (self.sha256[:12], self.split, self.wnid, self.source)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Groups of images with identical bytes, each in the order of splits and catalogs."""

    splits: tuple[str, ...]
    groups: tuple[tuple[Copy, ...], ...]

    def count_within(self, split: str) -> int:
        """Return how many images of a split have the bytes of an earlier image of the same split."""
        sizes = (sum(copy.split == split for copy in copies) for copies in self.groups)
        return sum(size - 1 for size in sizes if size)

    def count_between(self, first: str, second: str) -> int:
        """Return how many images of split ``second`` have the bytes of an image of split ``first``."""
        found = 0
        for copies in self.groups:
            if any(copy.split == first for copy in copies):
                found += sum(copy.split == second for copy in copies)
        return found

    def count_contradictions(self) -> int:
        """Return how many different images are filed under more than one class, in whatever splits."""
        return sum(len({copy.wnid for copy in copies}) > 1 for copies in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        pairs = combinations(self.splits, 2)
        return {
            "within": {split: self.count_within(split) for split in self.splits},
            "between": {f"{first}, {second}": self.count_between(first, second) for first, second in pairs},
            "under_two_classes": self.count_contradictions(),
        }

    def describe(self) -> list[str]:
        """Return a sentence for each kind that occurs, without the word NOTE; none if every image is there once."""
        told = []
        for split in self.splits:
            if count := self.count_within(split):
                have = "has" if count == 1 else "have"
                told.append(f"{count_of(count, 'image')} of {split} {have} the bytes of another image of {split}")
        for first, second in combinations(self.splits, 2):
            if count := self.count_between(first, second):
                have = "has" if count == 1 else "have"
                told.append(f"{count_of(count, 'image')} of {second} {have} the bytes of an image of {first}")
        if count := self.count_contradictions():
            told.append(f"{count_of(count, 'image')} {'is' if count == 1 else 'are'} filed under more than one class")
        return told


def find_duplicates(folders: Sequence[Path]) -> Duplicates:
    """Compare the source files of all images in these split folders by their sha256.

    Memory: 8 bytes an image, and what the copies take. Raises DatasetError if a manifest or a catalog is missing or is
    not the one that was written.
    """
    manifests = {folder: load_manifest(folder) for folder in folders}
    shards = [(folder, manifest, shard) for folder, manifest in manifests.items() for shard in manifest.shards]
    # Threads, since hashing and Parquet release the GIL.
    with tell_activity("comparing all images with each other"), ThreadPoolExecutor(_READER_THREADS) as pool:
        prefixes = list(pool.map(lambda one: _load_prefixes(one[0], one[2]), shards))
    repeated = _find_repeated(prefixes)
    groups: dict[str, list[Copy]] = defaultdict(list)
    for (folder, manifest, shard), of_shard in zip(shards, prefixes, strict=True):
        rows = np.flatnonzero(np.isin(of_shard, repeated)).tolist()
        names = ("source_sha256", "wnid", "key", "source")
        for row in load_catalog_rows(folder, shard, names, rows) if rows else []:
            place = {name: row[name] for name in ("wnid", "key", "source")}
            copy = Copy(sha256=row["source_sha256"], split=manifest.split, **place)
            groups[copy.sha256].append(copy)
    return Duplicates(
        splits=tuple(manifest.split for manifest in manifests.values()),
        groups=tuple(tuple(copies) for copies in groups.values() if len(copies) > 1),
    )


def _load_prefixes(folder: Path, shard: ShardRecord) -> NDArray[np.uint64]:
    hashes = load_catalog_shard(folder, shard, ("source_sha256",))["source_sha256"]
    try:
        return np.array([int(sha256[:_PREFIX], 16) for sha256 in hashes], np.uint64)
    except (ValueError, OverflowError) as error:
        path = shard_paths(folder, shard.name).catalog
        raise DatasetError(f"{path}: source_sha256 holds something else ({error}); shard the source again") from error


def _find_repeated(prefixes: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    if not prefixes:
        return np.empty(0, np.uint64)
    ordered = np.sort(np.concatenate(prefixes))
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
