"""Find images that are one file in two splits, by symbolic or hard links."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexstream.core.text import count_of
from alexstream.sharding.listing import Listing

_MAX_COMPARED = 1000  # pairs of equal inodes that are looked at: numbers are unique in one file system only


def describe_shared_files(source: Path, listings: Sequence[tuple[str, Listing]]) -> dict[str, list[str]]:
    """Return a notice for each split that has files of an earlier one, by the name of the split.

    The inodes were read with the names, so only equal ones cost a look at the files.
    """
    notices: dict[str, list[str]] = {}
    for later, (split, listing) in enumerate(listings):
        for other, before in listings[:later]:
            if said := _describe_pair(source, split, listing, other, before):
                notices.setdefault(split, []).append(said)
    return notices


def _describe_pair(source: Path, split: str, listing: Listing, other: str, before: Listing) -> str:
    common, rows, rows_before = np.intersect1d(listing.inodes, before.inodes, return_indices=True)
    known = common > 0
    same: list[tuple[str, str]] = []
    for row, row_before in list(zip(rows[known], rows_before[known], strict=True))[:_MAX_COMPARED]:
        one, two = _get_path(listing, row), _get_path(before, row_before)
        if _is_same(source / one, source / two):
            same.append((one, two))
    if not same:
        return ""
    count = (
        count_of(len(same), "image") if np.count_nonzero(known) <= _MAX_COMPARED else f"{len(same):,} images or more"
    )
    return f"{count} of {split} and of {other} are one file by a link: {same[0][0]} is {same[0][1]}"


def _get_path(listing: Listing, row: int) -> str:
    return os.fsdecode(listing.table["path"][int(row)].as_py())


def _is_same(one: Path, two: Path) -> bool:
    try:
        return os.path.samefile(one, two)
    except OSError:
        return False
