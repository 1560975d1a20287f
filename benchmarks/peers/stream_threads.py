"""Loaders that decode in threads: a dozen lines of one's own, SPDL, and grain. simplejpeg decodes, torch finishes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from stream_finish import batch_finish, crop_and_flip, decoded
from stream_store import BATCH, CROP, THREADS, Stored, Stream, endless_orders

AHEAD, BUFFERS, SLICE = 2, 4, 16


def stream(stored: Stored, loader: str) -> Stream:
    """``loader``: pool, spdl or grain."""
    crops = {"pool": _pool, "spdl": _spdl, "grain": _grain}[loader](stored)
    return Stream(map(batch_finish(stored), crops), stored.bytes_per_image())


def _sample(stored: Stored, i: int) -> np.ndarray:
    return crop_and_flip(stored.pixels(i)) if stored.encoding == "raw" else decoded(stored.content(i))


def _pool(stored: Stored) -> Iterator[np.ndarray]:
    """A pool of threads that fills uint8 batches, two ahead."""
    pool, order = ThreadPoolExecutor(THREADS), endless_orders(len(stored), np.random.default_rng(0))
    buffers = deque(np.zeros((BATCH, CROP, CROP, 3), np.uint8) for _ in range(BUFFERS))
    ahead: deque[tuple[np.ndarray, list[Future[None]]]] = deque()

    def fill(out: np.ndarray, samples: list[int]) -> None:
        for place, sample in zip(out, samples, strict=True):
            place[...] = _sample(stored, sample)

    while True:
        while len(ahead) < AHEAD:
            buffers.rotate()
            parts = [(buffers[0][k : k + SLICE], [next(order) for _ in range(SLICE)]) for k in range(0, BATCH, SLICE)]
            ahead.append((buffers[0], [pool.submit(fill, *part) for part in parts]))
        batch, parts_done = ahead.popleft()
        for part in parts_done:
            part.result()
        yield batch


def _spdl(stored: Stored) -> Iterator[Any]:
    from spdl.pipeline import PipelineBuilder

    pipeline = (
        PipelineBuilder()
        .add_source(endless_orders(len(stored), np.random.default_rng(0)))
        .pipe(lambda i: _sample(stored, i), concurrency=THREADS)
        .aggregate(BATCH, drop_last=True)
        .pipe(lambda crops: torch.from_numpy(np.stack(crops)))
        .add_sink(1)
        .build(num_threads=THREADS + 1)
    )
    with pipeline.auto_stop():
        yield from pipeline


def _grain(stored: Stored) -> Iterator[Any]:
    import grain

    class Samples:
        def __len__(self) -> int:
            return len(stored)

        def __getitem__(self, i: int) -> int:
            return i

    samples = grain.MapDataset.source(Samples()).shuffle(seed=1).repeat().map(lambda i: _sample(stored, i))
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2)
    yield from samples.batch(BATCH, drop_remainder=True).to_iter_dataset(options)
