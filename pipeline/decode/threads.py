"""Run the compiled operator in threads of our own: the same batches as ``dali.run_fused_graph``, without DALI.

The second way, taken where DALI's operator for numba functions is no longer as ``dali`` needs it, or on request.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alexstream.pipeline.batch import CROP_PX, Batch
from alexstream.pipeline.batch_plan import BatchPlan, BatchPlanner
from alexstream.pipeline.decode.fused import INTERFACE, StageTimer, make_batch, make_rows, parse_answers
from alexstream.pipeline.reading.dataset import Dataset
from alexstream.pipeline.transforms.mean import MeanPlanes
from alexstream.pipeline.transforms.normalize import BufferPool
from alexstream.pipeline.transforms.preprocessing import Preprocessing

if TYPE_CHECKING:
    from alexstream.pipeline.decode.dali import Engine

_NUM_ANSWERS = INTERFACE[-1]
# DALI's run functions take addresses of outputs and inputs, each with shapes, dimensions (both unused) and a count.
_RUN = ctypes.CFUNCTYPE(
    None, *2 * (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int32)
)  # calls release Python's lock


@dataclass(slots=True)
class _StepUnderWay:
    """A step whose samples are being decoded, with all memory that the operator reads and writes."""

    step: BatchPlan
    out_NCHW: NDArray[np.float32]
    rows_NW: NDArray[np.int64]
    answers_NW: NDArray[np.int64]
    addresses_2N: NDArray[np.uint64]
    tasks: list[Future[None]] = field(default_factory=list)


def run_fused_threads(
    data: Dataset, steps: BatchPlanner, engine: Engine, preprocessing: Preprocessing, operator: int
) -> Generator[Batch, None, None]:
    """Yield the batches that ``dali.run_fused_graph`` yields, to the same bits, for the same arguments.

    ``engine.prefetch`` steps are under way while a batch is used. Raises UndecodedError with the samples that cannot be
    read or decoded.
    """
    run, buffers, input_clock = _RUN(operator), BufferPool(), StageTimer()
    mean, divisors = preprocessing.make_mean_planes(), preprocessing.divisors_C
    under_way: deque[_StepUnderWay] = deque()
    with ThreadPoolExecutor(engine.num_threads, thread_name_prefix="alexstream-decode") as pool:

        def begin(number: int) -> None:
            with input_clock.measure("augment_s"):
                step = steps(number)
            with input_clock.measure("read_s"):
                begun = _prepare(data, step, buffers, mean, divisors)
            left = iter(range(len(begun.rows_NW)))  # shared, so that each thread takes the next sample
            begun.tasks = [pool.submit(_decode, run, begun, left) for _ in range(engine.num_threads)]
            under_way.append(begun)

        try:
            for number in count():
                try:
                    begin(number)
                except StopIteration:
                    break
                if len(under_way) > max(1, engine.prefetch):
                    yield _finish(under_way, engine.num_threads, input_clock)
            while under_way:
                yield _finish(under_way, engine.num_threads, input_clock)
        finally:  # no memory goes before those who write to it have ended
            tasks = [task for begun in under_way for task in begun.tasks]
            for task in tasks:
                task.cancel()
            wait(tasks)


def _prepare(
    data: Dataset, step: BatchPlan, buffers: BufferPool, mean: MeanPlanes, divisors: NDArray[np.float32]
) -> _StepUnderWay:
    out = buffers.take((len(step.ids_N), 3, CROP_PX, CROP_PX))
    rows = make_rows(data, step, out, mean, divisors)
    answers = np.zeros((len(rows), _NUM_ANSWERS), np.int64)
    starts = [array.ctypes.data + np.arange(len(rows)) * array.strides[0] for array in (answers, rows)]
    return _StepUnderWay(step, out, rows, answers, np.array(starts, np.uint64))


def _decode(run: Callable[..., None], begun: _StepUnderWay, left: Iterator[int]) -> None:
    outputs, inputs = (addresses.ctypes.data for addresses in begun.addresses_2N)
    for i in left:
        run(outputs + 8 * i, 0, 0, 1, inputs + 8 * i, 0, 0, 1)


def _finish(under_way: deque[_StepUnderWay], num_threads: int, input_clock: StageTimer) -> Batch:
    """Wait for the oldest step under way, and return its batch."""
    wait(under_way[0].tasks)  # while it is in the queue, whoever closes the stream waits for it, too
    done = under_way.popleft()
    answers = parse_answers(done.answers_NW, num_threads)
    return make_batch(*answers, input_clock.reset(), done.step, done.out_NCHW)
