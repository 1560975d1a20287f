"""Compute the samples of every training step from the seed. Pure.

The stream is one endless sequence: the permutation of epoch 0, then that of epoch 1, and so on. Step k takes
positions k·batch to (k+1)·batch of it, so every sample comes exactly once an epoch, no batch is short, none is
dropped, and the state of the stream is the step number alone.

Two orders: ``global`` permutes all samples of the data set; ``grouped`` permutes the shards, takes a few at a time
and permutes the samples of those, so that reads stay within a few shards::

    shards, permuted     │ 5 2 7 │ 0 6 3 │ 1 4 │        group_shards = 3
    samples              │ of 5, 2, 7, permuted │ of 0, 6, 3, permuted │ …
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from alexstream.pipeline.sampling.shuffle import MAX_IDS, shuffled

PURPOSE_ORDER, PURPOSE_SHARDS, PURPOSE_GROUP = 0, 3, 4  # 1 and 2 are the augmentation's
KINDS = ("global", "grouped")
PADDING = -1  # the id and label of the entries that fill up the last evaluation batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Order the samples of every epoch.

    ``kind``: ``global`` or ``grouped``; ``shard_sizes``: number of samples of each shard, in catalog order, needed for
    ``grouped``; ``group_shards``: number of shards mixed at a time.
    """

    num_samples: int
    seed: int
    kind: str = "global"
    shard_sizes: tuple[int, ...] = ()
    group_shards: int = 8

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: received {self.kind!r}, expected one of {', '.join(KINDS)}")
        if not 1 <= self.num_samples < MAX_IDS:
            raise ValueError(f"num_samples: received {self.num_samples}, expected 1..{MAX_IDS - 1}")
        if self.group_shards < 1:
            raise ValueError(f"group_shards: received {self.group_shards}, expected 1 or more")
        if self.kind == "grouped" and (sum(self.shard_sizes) != self.num_samples or min(self.shard_sizes) < 0):
            sizes = f"{len(self.shard_sizes)} sizes, together {sum(self.shard_sizes)}"
            raise ValueError(f"shard_sizes: received {sizes}, expected sizes that add up to {self.num_samples}")

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the ids in the order of ``epoch``, int64 (num_samples,), read-only. The last two epochs are cached."""
        return _epoch(self, epoch)

    def batch(self, batch_size: int, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return epochs, ids and places of step ``step``, int64 (batch_size,) each; a batch may straddle epochs.

        A place is the position within the epoch's order.
        """
        start = step * batch_size
        epochs, places = np.divmod(np.arange(start, start + batch_size, dtype=np.int64), self.num_samples)
        ids = np.empty(batch_size, np.int64)
        for epoch in range(start // self.num_samples, (start + batch_size - 1) // self.num_samples + 1):
            mine = slice(max(0, epoch * self.num_samples - start), (epoch + 1) * self.num_samples - start)
            ids[mine] = self.epoch(epoch)[places[mine]]
        return epochs, ids, places


@lru_cache(maxsize=2)
def _epoch(order: Order, epoch: int) -> NDArray[np.int64]:
    if order.kind == "global":
        ids = shuffled(order.seed, epoch, np.arange(order.num_samples), PURPOSE_ORDER)
    else:
        ids = _grouped(order, epoch)
    ids.flags.writeable = False
    return ids


def _grouped(order: Order, epoch: int) -> NDArray[np.int64]:
    """Permute the shards, then the samples within each group of ``group_shards`` shards."""
    ends = np.cumsum(order.shard_sizes)
    shards = shuffled(order.seed, epoch, np.arange(len(ends)), PURPOSE_SHARDS)
    parts = [np.arange(ends[i] - order.shard_sizes[i], ends[i]) for i in shards]
    groups = [np.concatenate(parts[i : i + order.group_shards]) for i in range(0, len(parts), order.group_shards)]
    return np.concatenate([shuffled(order.seed, epoch, group, PURPOSE_GROUP) for group in groups])


def training_batch(
    num_samples: int, batch_size: int, seed: int, step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return epochs and ids, int64 (batch_size,) each, of training step ``step`` in the global order."""
    return Order(num_samples=num_samples, seed=seed).batch(batch_size, step)[:2]


def evaluation_batch(num_samples: int, batch_size: int, step: int) -> NDArray[np.int64]:
    """Return the ids of evaluation step ``step``, int64 (batch_size,): catalog order, the last batch padded."""
    ids = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    ids[ids >= num_samples] = PADDING
    return ids
