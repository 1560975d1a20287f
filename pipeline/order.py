"""Pure: (seed, step) → which samples make the batch.

The stream is one endless sequence: the permutation of epoch 0, then that of epoch 1, and so on. Step k takes
positions k·batch to (k+1)·batch of it, so every sample comes exactly once an epoch, no batch is short, none is
dropped, and the state of the stream is the step number alone.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.philox import sample_words

PURPOSE_ORDER = 0
PADDING = -1  # the id and label of the entries that fill up the last evaluation batch


@lru_cache(maxsize=3)
def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of the sample ids 0..num_samples-1: the ids sorted by 64 random bits each. Read-only."""
    ids = np.arange(num_samples, dtype=np.int64)
    words = sample_words(seed, np.full(num_samples, epoch), ids, PURPOSE_ORDER).astype(np.uint64)
    order = np.argsort((words[:, 0] << np.uint64(32)) | words[:, 1], kind="stable")
    order.flags.writeable = False
    return order


def training_batch(
    num_samples: int, batch_size: int, seed: int, step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Epochs and ids, int64 (batch_size,) each, of training step ``step``; a batch may straddle epochs."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, places = np.divmod(positions, num_samples)
    ids = np.empty(batch_size, np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        mine = epochs == epoch
        ids[mine] = epoch_order(num_samples, seed, epoch)[places[mine]]
    return epochs, ids


def evaluation_batch(num_samples: int, batch_size: int, step: int) -> NDArray[np.int64]:
    """Ids of evaluation step ``step``: catalog order, the last batch filled up with ``PADDING``."""
    ids = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    ids[ids >= num_samples] = PADDING
    return ids
