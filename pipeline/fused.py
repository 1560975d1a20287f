"""The compiled way: one operator that decodes, crops, flips and finishes a sample while its pixels are in the cache.

``fused.c`` is compiled when the package is installed, if there are a C compiler and libjpeg-turbo; where it is not, the
stream goes through DALI's decoder and ``finish``, to the same bits. DALI runs it in its own threads (``graph``); what
it is told of each sample is one row of ``ROW``, and what it answers is an outcome and the time of each stage.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Stages
from pipeline.dataset import Dataset
from pipeline.mean import MeanPlanes
from pipeline.steps import Step

# As row_t in fused.c. fd, offset, size: the stored sample; mean, out: addresses.
ROW = np.dtype(
    [
        *((name, np.int64) for name in ("fd", "offset", "size", "edge", "raw", "y", "x", "flip", "mean")),
        *((name, np.int64) for name in ("mean_edge", "mean_flip")),
        ("out", np.int64),
        ("rgb", np.float32, 3),
        ("divisor", np.float32, 3),
    ]
)


@lru_cache(maxsize=1)
def operator() -> int | None:
    """Address of the compiled operator; None if it was not built here."""
    found = find_spec("pipeline._fused")
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
    except OSError:  # built against a libjpeg that is gone
        return None
    return ctypes.cast(library.alexstream_sample, ctypes.c_void_p).value


def rows_of(
    data: Dataset, step: Step, out_NCHW: NDArray[np.float32], mean: MeanPlanes, divisors: NDArray[np.float32]
) -> NDArray[np.int64]:
    """The rows of a step, int64 (n, words); the open files, the mean and ``out_NCHW`` must outlive their use."""
    ids, draws, encode = step.read_N, step.draws, data.manifest.encode
    rows = np.zeros(len(ids), ROW)
    rows["fd"] = data.shards.descriptors(data.shard_N[ids])
    rows["offset"], rows["size"] = data.offset_N[ids], data.size_N[ids]
    rows["edge"], rows["raw"], rows["divisor"] = encode.size_px, encode.encoding == "raw", divisors
    finish_fields(rows, out_NCHW, mean, draws.yx_N2, draws.flip_N, draws.rgb_N3)
    return rows.view(np.int64).reshape(len(ids), -1)


def answers_of(answers_NW: NDArray[np.int64], num_threads: int) -> tuple[NDArray[np.int64], Stages]:
    """Outcome of each sample (n,), and the seconds of the stages, from what the operator answered: int64 (n, words)."""
    read_s, decode_s, finish_s = (answers_NW[:, 1:4].sum(axis=0) / (1e9 * num_threads)).tolist()
    return answers_NW[:, 0], Stages(read_s=read_s, decode_s=decode_s, finish_s=finish_s)


def finish_fields(
    rows: NDArray[np.void],
    out_NCHW: NDArray[np.float32],
    mean: MeanPlanes,
    yx_N2: NDArray[np.int32],
    flip_N: NDArray[np.int32],
    rgb_N3: NDArray[np.float32],
) -> None:
    """Fill in what is done to each sample and where it goes; the arrays must stay alive until that is done."""
    planes = mean.planes_2CMM
    rows["y"], rows["x"], rows["flip"], rows["rgb"] = yx_N2[:, 0], yx_N2[:, 1], flip_N, rgb_N3
    # The plain planes for every sample, mirrored with the crop as they are used: half the cache.
    top, left = yx_N2.T.astype(np.int64) if mean.follows else (mean.margin // 2, mean.margin // 2)
    rows["mean"] = planes.ctypes.data + top * planes.strides[2] + left * planes.strides[3]
    rows["mean_edge"], rows["mean_flip"] = planes.shape[-1], flip_N if mean.follows else 0
    rows["out"] = out_NCHW.ctypes.data + np.arange(len(rows)) * out_NCHW.strides[0]
