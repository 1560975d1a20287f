"""Our own stream, as a trainer gets it."""

from __future__ import annotations

from stream_store import BATCH, THREADS, Stored, Stream


def stream(stored: Stored, augmentation: str = "paper") -> Stream:
    """``ShardedData.training`` on the shards."""
    import torch

    from alexstream.pipeline.stream import ShardedData

    torch.set_num_threads(1)
    data = ShardedData(train=stored.shards, batch_size=BATCH, num_threads=THREADS, augmentation=augmentation)
    return Stream((batch.images_NCHW for batch in data.training()), stored.bytes_per_image())
