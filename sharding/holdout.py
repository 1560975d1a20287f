"""Hold out a share of every class of a training split for validation; the originals stay where they are.

Which images are held out depends on their keys and the seed alone, as their order does (docs/formats.md), so the same
source gives the same splits again.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from alexstream.core.text import count_of
from alexstream.sharding.listing import Listing
from alexstream.sharding.plan import order_by_hash

_PURPOSE = "alexstream-holdout/1"


def hold_out(listing: Listing, share: float, seed: int) -> tuple[Listing, Listing]:
    """Divide a listing into the training and the validation split; both have all classes, in the same order.

    Of a class with n images, ``share`` × n are held out, rounded to the nearest (halves up), but at least one and never
    all; a class with one image keeps it for training. Files that were excluded are accounted for in the training split.
    """
    label_N = listing.table.column("label").to_numpy()
    held_N = _choose_rows(label_N, order_by_hash(listing.table.column("key"), seed, _PURPOSE), share)
    percent = f"{100 * share:g} % of the images of each class, chosen with seed {seed}"
    counts = count_of(int(held_N.sum()), "image")
    train = replace(
        listing,
        table=listing.table.filter(pa.array(~held_N)),
        inodes=listing.inodes[~held_N] if len(listing.inodes) else listing.inodes,
        notices=(*listing.notices, f"{counts} are held out as val: {percent}"),
    )
    val = replace(
        listing,
        table=listing.table.filter(pa.array(held_N)),
        inodes=listing.inodes[held_N] if len(listing.inodes) else listing.inodes,
        excluded=(),
        notices=(f"held out of train: {percent}",),
    )
    return train, val


def _choose_rows(label_N: np.ndarray, order_N: np.ndarray, share: float) -> np.ndarray:
    """Return a mask, bool (N,): the first rows of each class in ``order_N`` that make up the share."""
    counts = np.bincount(label_N)
    quota = np.clip(np.floor(share * counts + 0.5).astype(np.int64), 1, np.maximum(counts - 1, 0))
    by_class = order_N[np.argsort(label_N[order_N], kind="stable")]
    first = np.cumsum(counts) - counts  # where each class begins in ``by_class``
    rank = np.arange(len(label_N)) - np.repeat(first, counts)
    held_N = np.zeros(len(label_N), bool)
    held_N[by_class] = rank < np.repeat(quota, counts)
    return held_N
