"""Load the compiled operator, which decodes, crops, flips and normalizes a sample in one pass, and fill its input rows.

``fused.c`` is compiled when the package is installed, if there are a C compiler and libjpeg-turbo. Elsewhere the stream
decodes with DALI and normalizes in ``transforms.normalize``, to the same bits. DALI runs the operator in its own
threads (see ``dali``). Its input for each sample is one row of ``ROW_DTYPE``, its output the outcome and the time of
each stage.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

from alexstream.pipeline.batch import Batch, StageTimes
from alexstream.pipeline.batch_plan import BatchPlan
from alexstream.pipeline.errors import UndecodedError
from alexstream.pipeline.reading.dataset import Dataset
from alexstream.pipeline.transforms.mean import MeanPlanes

logger = logging.getLogger(__name__)
NOT_BUILT = "not built"

# The same struct as row_t in fused.c. fd, offset, size: the stored sample; mean, out: addresses.
ROW_DTYPE = np.dtype(
    [
        *((name, np.int64) for name in ("fd", "offset", "size", "edge", "raw", "y", "x", "flip", "mean")),
        *((name, np.int64) for name in ("mean_edge", "mean_flip")),
        ("out", np.int64),
        ("rgb", np.float32, 3),
        ("divisor", np.float32, 3),
    ]
)
# As alexstream_interface in fused.c: version, bytes of a row, offsets of two of its fields, words of an answer.
INTERFACE = (2, ROW_DTYPE.itemsize, ROW_DTYPE.fields["mean"][1], ROW_DTYPE.fields["out"][1], 4)  # type: ignore[index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Hold the address of the compiled operator, or None and the reason why it cannot be used (``absence``)."""

    address: int | None = None
    absence: str = ""


def find_operator_address() -> int | None:
    """Return the address of the compiled operator, or None if it cannot be used here."""
    return find_operator().address


@lru_cache(maxsize=1)
def find_operator() -> Operator:
    """Find and load the compiled operator; log a warning if it was built but cannot be used."""
    spec = find_spec("alexstream.pipeline.decode._fused")
    if spec is None or spec.origin is None:
        return Operator(absence=NOT_BUILT)
    operator = load_operator(spec.origin)
    if operator.address is None:
        logger.warning("%s is %s; DALI's decoder is used. Install alexstream again", spec.origin, operator.absence)
    return operator


def load_operator(path: str) -> Operator:
    """Load a compiled operator and compare the layout of its rows and answers with that of this version."""
    try:
        library = ctypes.CDLL(path)
    except OSError as error:  # built against a libjpeg that is gone
        return Operator(absence=f"not loadable ({error})")
    try:
        interface = tuple((ctypes.c_int64 * len(INTERFACE)).in_dll(library, "alexstream_interface"))
    except ValueError:  # older than the constant
        interface = ()
    if interface != INTERFACE:
        return Operator(absence="of another version")
    return Operator(address=ctypes.cast(library.alexstream_sample, ctypes.c_void_p).value)


def make_rows(
    data: Dataset, step: BatchPlan, out_NCHW: NDArray[np.float32], mean: MeanPlanes, divisors: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Return the operator's input rows for a step, int64 (n, words).

    They hold addresses and descriptors: the open files, the mean and ``out_NCHW`` must outlive the operator's run.
    """
    ids, draws, encode = step.read_N, step.draws, data.manifest.encode
    rows = np.zeros(len(ids), ROW_DTYPE)
    rows["fd"] = data.shards.descriptors(data.shard_N[ids])
    rows["offset"], rows["size"] = data.offset_N[ids], data.size_N[ids]
    rows["edge"], rows["raw"], rows["divisor"] = encode.size_px, encode.encoding == "raw", divisors
    fill_rows(rows, out_NCHW, mean, draws.yx_N2, draws.flip_N, draws.rgb_N3)
    return rows.view(np.int64).reshape(len(ids), -1)


def parse_answers(answers_NW: NDArray[np.int64], num_threads: int) -> tuple[NDArray[np.int64], StageTimes]:
    """Split the operator's answers, int64 (n, words), into outcomes of samples, int64 (n,), and seconds of stages."""
    read_s, decode_s, finish_s = (answers_NW[:, 1:4].sum(axis=0) / (1e9 * num_threads)).tolist()
    return answers_NW[:, 0], StageTimes(read_s=read_s, decode_s=decode_s, finish_s=finish_s)


def fill_rows(
    rows: NDArray[np.void],
    out_NCHW: NDArray[np.float32],
    mean: MeanPlanes,
    yx_N2: NDArray[np.int32],
    flip_N: NDArray[np.int32],
    rgb_N3: NDArray[np.float32],
) -> None:
    """Fill in crop, flip, mean, lighting and output address of each sample; the arrays must outlive the operator."""
    planes = mean.planes_2CMM
    rows["y"], rows["x"], rows["flip"], rows["rgb"] = yx_N2[:, 0], yx_N2[:, 1], flip_N, rgb_N3
    # Always the unmirrored planes, which the operator mirrors as it reads them: one copy takes half the cache of two.
    top, left = yx_N2.T.astype(np.int64) if mean.follows_crop else (mean.margin_px // 2, mean.margin_px // 2)
    rows["mean"] = planes.ctypes.data + top * planes.strides[2] + left * planes.strides[3]
    rows["mean_edge"], rows["mean_flip"] = planes.shape[-1], flip_N if mean.follows_crop else 0
    rows["out"] = out_NCHW.ctypes.data + np.arange(len(rows)) * out_NCHW.strides[0]


def make_batch(
    outcomes_N: NDArray[np.int64],
    operator_times: StageTimes,
    input_times: StageTimes,
    step: BatchPlan,
    images_NCHW: NDArray[np.float32],
) -> Batch:
    """Return the batch that the operator has written. Raises UndecodedError where an outcome is not 0."""
    if outcomes_N.any():
        raise UndecodedError({int(i): int(o) for i, o in zip(step.read_N, outcomes_N, strict=True) if o})
    images, labels, ids = (torch.from_numpy(array) for array in (images_NCHW, step.labels_N, step.ids_N))
    return Batch(images_NCHW=images, labels_N=labels, ids_N=ids, stages=operator_times + input_times)


class StageTimer:
    """Add up seconds by stage, until they are taken."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time spent in the block to a stage, a field of ``StageTimes``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - start

    def reset(self) -> StageTimes:
        """Return the times so far, and start anew."""
        seconds, self._seconds = self._seconds, defaultdict(float)
        return StageTimes(**seconds)
