"""The DALI graphs. The only DALI import.

``crop_batches``: stored samples in; decoded, cropped, flipped uint8 CHW images out. On a CPU ``image_slice`` decodes
only the window of the crop, bit-identical to Pillow; on a GPU images are decoded whole and cut there, since the
hardware decoder knows no windows. Floats appear only after the pixels are on the training device (``finish``): DALI's
float arithmetic on a CPU costs more than its decoder. Kept images are scaled by the resampler that made the statistics
(on a GPU by DALI's own, which is close to it).

``fused_batches``: all of that and the finish in one operator, where ``fused.c`` was compiled.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.numba import NumbaFunction
from torch.utils.dlpack import from_dlpack

from pipeline.augment import Augmenter
from pipeline.batch import CROP_PX, Batch, CropBatch, Stages
from pipeline.dataset import Dataset
from pipeline.errors import UndecodedError
from pipeline.finish import Buffers
from pipeline.fused import answers_of, rows_of
from pipeline.kept import Scaling, kept_samples
from pipeline.mean import MeanPlanes
from pipeline.steps import Step, Steps

_DTYPES = [types.UINT8, types.INT64, types.INT64, types.INT32, types.INT32, types.FLOAT, types.INT32]
_INTERPOLATION = {
    "box": types.INTERP_LINEAR,
    "bilinear": types.INTERP_LINEAR,
    "bicubic": types.INTERP_CUBIC,
    "lanczos": types.INTERP_LANCZOS3,
}
BOX_FILTER = "bilinear"  # of drawn boxes, as everybody's random resized crop


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What runs a graph: ``batch_size`` samples a step, DALI's ``num_threads``, ``prefetch`` steps ahead, a device."""

    batch_size: int
    device: torch.device = torch.device("cpu")
    num_threads: int = 1
    prefetch: int = 2

    @property
    def on_gpu(self) -> bool:
        """Whether images are decoded on a GPU."""
        return self.device.type == "cuda"

    def pipeline(self) -> Pipeline:
        """An empty DALI pipeline."""
        return Pipeline(
            batch_size=self.batch_size,
            num_threads=self.num_threads,
            device_id=(self.device.index or 0) if self.on_gpu else None,
            prefetch_queue_depth=self.prefetch,
        )


def crop_batches(
    data: Dataset, steps: Steps, engine: Engine, augmenter: Augmenter, *, whole: bool = False
) -> Generator[CropBatch, None, None]:
    """Run the graph on ``steps(0)``, ``steps(1)`` … until it raises StopIteration.

    ``whole``: the standard view (size_px × size_px) in place of its crop. Raises RuntimeError, from DALI, when a sample
    does not decode.
    """
    form, given = _Form.of(data, augmenter, whole), _Clock()

    def inputs(number: int) -> tuple[Any, ...]:
        with given.counting("augment_s"):
            step = steps(number)
        with given.counting("read_s"):
            return form.inputs(data, step, augmenter)

    with ThreadPoolExecutor(engine.num_threads) as pool:
        pipe = _build(inputs, engine, form, pool)
        try:
            while True:
                ran = _Clock()
                with ran.counting("decode_s"):
                    outputs = pipe.run()
                    tensors = tuple(from_dlpack(output.as_tensor()) for output in outputs)
                inside = given.taken()  # what DALI asked for meanwhile
                decode_s = max(0.0, ran.taken().decode_s - inside.read_s - inside.augment_s)
                yield CropBatch.of(tensors, replace(inside, decode_s=decode_s))
        except StopIteration:
            return
        finally:
            del pipe  # its threads end before the pool that they use


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What is stored and what is wanted of it. ``scaling``: None where the stored image is the standard view."""

    encoding: str
    whole: bool
    scaling: Scaling | None

    @classmethod
    def of(cls, data: Dataset, augmenter: Augmenter, whole: bool) -> _Form:
        encode, boxed = data.manifest.encode, augmenter.augmentation.crop == "resized"
        scaling = None
        if boxed:
            scaling = Scaling(size_px=CROP_PX, resize_filter=BOX_FILTER, boxed=True)
        elif encode.encoding == "keep":
            scaling = Scaling(size_px=encode.size_px, resize_filter=encode.resize_filter, boxed=False)
        return cls(encoding=encode.encoding, whole=whole, scaling=scaling)

    @property
    def boxed(self) -> bool:
        return self.scaling is not None and self.scaling.boxed

    @property
    def raw(self) -> bool:
        return self.encoding == "raw"

    def inputs(self, data: Dataset, step: Step, augmenter: Augmenter) -> tuple[Any, ...]:
        """What ``external_source`` is given for a step, in the order of ``_DTYPES``."""
        stored, draws = data.stored_of(step.read_N), step.draws
        rest = step.labels_N, step.ids_N, draws.yx_N2, draws.flip_N, draws.rgb_N3
        if self.scaling is None:
            return stored, *rest

        def drawn(sizes_N2: NDArray[np.int64]) -> NDArray[np.int32]:
            return augmenter.boxes(step.epochs_N, step.ids_N, sizes_N2)

        if self.raw:
            return stored, *rest, drawn(np.array([pixels.shape[:2] for pixels in stored], np.int64))
        stored, boxes = kept_samples(stored, drawn if self.boxed else None, self.scaling)
        return (stored, *rest, boxes) if self.boxed else (stored, *rest)


def _build(source: Any, engine: Engine, form: _Form, pool: ThreadPoolExecutor) -> Pipeline:
    pipe = engine.pipeline()
    with pipe:
        count = len(_DTYPES) if form.boxed else len(_DTYPES) - 1
        stored, *rest = fn.external_source(
            source,
            num_outputs=count,
            batch=True,
            no_copy=True,
            dtype=_DTYPES[:count],
            ndim=[3 if form.raw else 1, 0, 0, 1, 0, 1, 1][:count],
            layout=["HWC" if form.raw else "", *[""] * (count - 1)],
        )
        box = rest.pop() if form.boxed else None
        yx, flip = rest[2], rest[3]
        window = _scaled(stored, box, yx, engine, form, pool) if form.scaling else _cut(stored, yx, engine, form)
        crops = fn.crop_mirror_normalize(window, mirror=flip, dtype=types.UINT8, output_layout="CHW")
        pipe.set_outputs(crops, *(value.gpu() if engine.on_gpu else value for value in rest))
    pipe.build()
    return pipe


def _cut(stored: Any, yx: Any, engine: Engine, form: _Form) -> Any:
    """The crop, or the whole, of a stored standard view."""
    if form.raw or engine.on_gpu or form.whole:
        pixels = _pixels(stored, engine, form)
        return pixels if form.whole else fn.slice(pixels, start=yx, shape=[CROP_PX, CROP_PX], axes=[0, 1])
    return fn.decoders.image_slice(stored, start=yx, shape=[CROP_PX, CROP_PX], axes=[0, 1], **_decoder(engine))


def _scaled(stored: Any, box: Any, yx: Any, engine: Engine, form: _Form, pool: ThreadPoolExecutor) -> Any:
    """The crop, or the whole, of what a box or the central square of an image is scaled to."""
    scaling = form.scaling
    assert scaling is not None
    if form.boxed and not (form.raw or engine.on_gpu):
        window = {"start": box[0:2], "shape": box[2:4], "axes": [0, 1]}
        pixels = fn.decoders.image_slice(stored, **window, **_decoder(engine))
    else:
        pixels = _pixels(stored, engine, form)
        if form.boxed:
            pixels = fn.slice(pixels, start=box[0:2], shape=box[2:4], axes=[0, 1])
    view = _resized_by_dali(pixels, scaling) if engine.on_gpu else _resized(pixels, scaling, pool)
    if form.boxed or form.whole:
        return view
    return fn.slice(view, start=yx, shape=[CROP_PX, CROP_PX], axes=[0, 1])


def _pixels(stored: Any, engine: Engine, form: _Form) -> Any:
    if form.raw:
        return stored.gpu() if engine.on_gpu else stored
    return fn.decoders.image(stored, **_decoder(engine))


def _decoder(engine: Engine) -> dict[str, Any]:
    # Defaults differ between backends and versions; stored images carry no orientation.
    return {
        "device": "mixed" if engine.on_gpu else "cpu",
        "output_type": types.RGB,
        "jpeg_fancy_upsampling": True,
        "adjust_orientation": False,
    }


def _resized(pixels: Any, scaling: Scaling, pool: ThreadPoolExecutor) -> Any:
    def scale(images: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        return list(pool.map(scaling.scale, images))

    return fn.python_function(pixels, function=scale, batch_processing=True, output_layouts="HWC")


def _resized_by_dali(pixels: Any, scaling: Scaling) -> Any:
    """On a GPU. The central square is cut after scaling: less than a pixel away from ``_resized``."""
    size, interpolation = scaling.size_px, _INTERPOLATION[scaling.resize_filter]
    if scaling.boxed:
        return fn.resize(pixels, size=[size, size], interp_type=interpolation, antialias=True)
    shorter = fn.resize(pixels, size=[size, size], mode="not_smaller", interp_type=interpolation, antialias=True)
    return fn.crop(shorter, crop=[size, size])


class _Compiled(NumbaFunction):
    """DALI's operator for functions that numba compiles, given the address of one that is compiled already."""

    def __init__(self, address: int, **types_and_dims: Any) -> None:
        super().__init__(lambda *_: None, **types_and_dims)
        self.run_fn = address

    def _get_run_fn_cpu(self, *_: Any) -> None:
        """Nothing is to be compiled."""


def fused_batches(
    data: Dataset, steps: Steps, engine: Engine, mean: MeanPlanes, divisors: NDArray[np.float32], operator: int
) -> Generator[Batch, None, None]:
    """As ``crop_batches`` and ``Finish`` after it, on a CPU; ``operator`` from ``fused.operator``, jpeg and raw only.

    Raises UndecodedError with the samples that cannot be read or decoded.
    """
    under_way: deque[tuple[Step, NDArray[np.float32]]] = deque()
    buffers, given = Buffers(), _Clock()

    def rows(number: int) -> NDArray[np.int64]:
        with given.counting("augment_s"):
            step = steps(number)
        out = buffers.take((len(step.ids_N), 3, CROP_PX, CROP_PX))
        under_way.append((step, out))
        with given.counting("read_s"):
            return rows_of(data, step, out, mean, divisors)

    pipe = engine.pipeline()
    with pipe:
        row = fn.external_source(rows, batch=True, no_copy=True, dtype=types.INT64, ndim=1)
        run = _Compiled(operator, out_types=[types.INT64], in_types=[types.INT64], outs_ndim=[1], ins_ndim=[1])
        pipe.set_outputs(run(row))
    pipe.build()
    try:
        while True:
            (answer,) = pipe.run()
            answers = answers_of(np.asarray(from_dlpack(answer.as_tensor())), engine.num_threads)
            yield _answered(*answers, given.taken(), *under_way.popleft())
    except StopIteration:
        return
    finally:
        del pipe  # its threads end before the buffers that they write to


def _answered(
    outcomes_N: NDArray[np.int64], inside: Stages, given: Stages, step: Step, images_NCHW: NDArray[np.float32]
) -> Batch:
    if outcomes_N.any():
        raise UndecodedError({int(i): int(o) for i, o in zip(step.read_N, outcomes_N, strict=True) if o})
    images, labels, ids = (torch.from_numpy(array) for array in (images_NCHW, step.labels_N, step.ids_N))
    return Batch(images_NCHW=images, labels_N=labels, ids_N=ids, stages=inside + given)


class _Clock:
    """Seconds by stage since they were last taken."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def counting(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - start

    def taken(self) -> Stages:
        seconds, self._seconds = self._seconds, defaultdict(float)
        return Stages(**seconds)
