"""DALI as its documentation shows it: its own webdataset reader, shuffle and random numbers, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from stream_store import BATCH, CROP, MARGIN, THREADS, Stored, Stream

SHUFFLED = 1024


def stream(stored: Stored, finish: str) -> Stream:
    """``finish``: none (uint8 windows), torch (mean colour; lighting in torch), mean-image (all in DALI)."""
    torch.set_num_threads(1)
    pipe = Pipeline(batch_size=BATCH, num_threads=THREADS, device_id=None, prefetch_queue_depth=2, seed=7)
    with pipe:
        content, _ = fn.readers.webdataset(
            paths=[str(tar) for tar in stored.tars],
            index_paths=[str(tar.with_suffix(".idx")) for tar in stored.tars],
            ext=["rgb" if stored.encoding == "raw" else "jpg", "cls"],
            random_shuffle=True,
            initial_fill=SHUFFLED,
        )
        pipe.set_outputs(_all_in_dali(content, stored) if finish == "mean-image" else _windows(content, stored, finish))
    pipe.build()
    return Stream(_batches(pipe, stored, lit=finish == "torch"), stored.bytes_per_image())


def _windows(content: Any, stored: Stored, finish: str) -> Any:
    """Random crops; mirrored, planar floats minus the mean colour unless ``finish`` is none."""
    place = {"crop_pos_x": fn.random.uniform(range=(0.0, 1.0)), "crop_pos_y": fn.random.uniform(range=(0.0, 1.0))}
    place["crop"] = (CROP, CROP)
    if stored.encoding == "raw":
        windows = fn.reinterpret(content, shape=[CROP + MARGIN, CROP + MARGIN, 3], layout="HWC")
    else:
        windows, place = fn.decoders.image_crop(content, **place), {}
    if finish == "none":
        return windows
    mean, mirror = stored.colour_C.tolist(), fn.random.coin_flip()
    return fn.crop_mirror_normalize(windows, mirror=mirror, mean=mean, dtype=types.FLOAT, **place)


def _all_in_dali(content: Any, stored: Stored) -> Any:
    start = fn.cast(fn.random.uniform(range=(0.0, MARGIN + 0.49), shape=(2,)), dtype=types.INT32)
    window = {"start": start, "shape": [CROP, CROP], "axes": [0, 1]}
    mean = fn.slice(types.Constant(stored.mean_HWC, device="cpu"), **window)
    normals = fn.reshape(fn.random.normal(shape=(3,)), shape=[1, 3])
    light = fn.reductions.sum(types.Constant(stored.matrix_CC.astype(np.float32), device="cpu") * normals, axes=[1])
    finished = fn.decoders.image_slice(content, **window) - mean + fn.reshape(light, shape=[1, 1, 3])
    return fn.crop_mirror_normalize(finished, mirror=fn.random.coin_flip(), dtype=types.FLOAT)


def _batches(pipe: Pipeline, stored: Stored, lit: bool) -> Iterator[torch.Tensor]:
    rng = np.random.default_rng(0)
    while True:
        (output,) = pipe.run()
        batch = torch.from_dlpack(output.as_tensor())
        yield batch.add_(torch.from_numpy(stored.lighting(rng, BATCH))[:, :, None, None]) if lit else batch
