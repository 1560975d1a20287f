"""Build and run the DALI graphs. The only module that imports DALI.

``run_crop_graph`` turns stored samples into decoded, cropped, flipped uint8 CHW images. On a CPU ``image_slice``
decodes only the window of the crop, bit-identical to Pillow; on a GPU images are decoded whole and then cropped, since
the hardware decoder cannot decode windows. Normalization to float32 comes later, on the training device (``finish``):
on a CPU, DALI's float arithmetic takes longer than its decoder. Images stored in their original size (``--encode
keep``) are scaled by the resampler that made the statistics; on a GPU by DALI's own, which is close to it.

``run_fused_graph`` does all of that and the normalization in one operator, where ``fused.c`` was compiled.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

from alexstream.pipeline.batch import CROP_PX, Batch, CropBatch
from alexstream.pipeline.batch_plan import BatchPlan, BatchPlanner
from alexstream.pipeline.decode.fused import StageTimer, make_batch, make_rows, parse_answers
from alexstream.pipeline.decode.originals import Scaling, prepare_originals
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.dataset import Dataset
from alexstream.pipeline.transforms.augment import Augmenter
from alexstream.pipeline.transforms.normalize import BufferPool
from alexstream.pipeline.transforms.preprocessing import Preprocessing

if sys.flags.optimize > 1:
    raise StreamError("Python leaves out the docstrings that DALI needs (-OO, or PYTHONOPTIMIZE=2); give -O, or 1")

from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

_INPUT_DTYPES = [types.UINT8, types.INT64, types.INT64, types.INT32, types.INT32, types.FLOAT, types.INT32]
_INTERPOLATION = {
    "box": types.INTERP_LINEAR,
    "bilinear": types.INTERP_LINEAR,
    "bicubic": types.INTERP_CUBIC,
    "lanczos": types.INTERP_LANCZOS3,
}
BOX_FILTER = "bilinear"  # for random boxes, as in the usual RandomResizedCrop


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Hold what a graph is run with: batch size, device, DALI's threads, and the number of steps decoded ahead."""

    batch_size: int
    device: torch.device = torch.device("cpu")
    num_threads: int = 1
    prefetch: int = 2

    @property
    def on_gpu(self) -> bool:
        """True if images are decoded on a GPU."""
        return self.device.type == "cuda"

    def make_pipeline(self) -> Pipeline:
        """Return an empty DALI pipeline."""
        return Pipeline(
            batch_size=self.batch_size,
            num_threads=self.num_threads,
            device_id=(self.device.index or 0) if self.on_gpu else None,
            prefetch_queue_depth=self.prefetch,
        )


def run_crop_graph(
    data: Dataset, steps: BatchPlanner, engine: Engine, augmenter: Augmenter, *, whole: bool = False
) -> Generator[CropBatch, None, None]:
    """Yield the crops of ``steps(0)``, ``steps(1)`` and so on until ``steps`` raises StopIteration.

    ``whole``: yield the standard view (size_px × size_px) in place of its crop. Raises RuntimeError, from DALI, when a
    sample does not decode.
    """
    form, input_clock = _DecodeSpec.from_dataset(data, augmenter, whole), StageTimer()

    def inputs(number: int) -> tuple[Any, ...]:
        with input_clock.measure("augment_s"):
            step = steps(number)
        with input_clock.measure("read_s"):
            return form.make_inputs(data, step, augmenter, pool)

    with ThreadPoolExecutor(engine.num_threads) as pool:
        pipe = _build_graph(inputs, engine, form, pool)
        try:
            while True:
                run_clock = StageTimer()
                with run_clock.measure("decode_s"):
                    outputs = pipe.run()
                    tensors = tuple(from_dlpack(output.as_tensor()) for output in outputs)
                input_times = input_clock.reset()  # time spent in our callback, inside pipe.run()
                decode_s = max(0.0, run_clock.reset().decode_s - input_times.read_s - input_times.augment_s)
                yield CropBatch.from_tensors(tensors, replace(input_times, decode_s=decode_s))
        except StopIteration:
            return
        finally:
            del pipe  # end its threads before the thread pool that they use


@dataclass(frozen=True, slots=True, kw_only=True)
class _DecodeSpec:
    """Describe how stored images become crops. ``scaling`` is None where the stored image is the standard view."""

    encoding: str
    whole: bool
    scaling: Scaling | None

    @classmethod
    def from_dataset(cls, data: Dataset, augmenter: Augmenter, whole: bool) -> _DecodeSpec:
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

    def make_inputs(self, data: Dataset, step: BatchPlan, augmenter: Augmenter, pool: Executor) -> tuple[Any, ...]:
        """Return the inputs of ``external_source`` for a step, in the order of ``_INPUT_DTYPES``."""
        (stored, sizes), draws = data.read_stored_batch(step.read_N), step.draws
        rest = step.labels_N, step.ids_N, draws.yx_N2, draws.flip_N, draws.rgb_N3
        if self.scaling is None:
            return stored, *rest

        def drawn(sizes_N2: NDArray[np.int64]) -> NDArray[np.int32]:
            return augmenter.boxes(step.epochs_N, step.ids_N, sizes_N2)

        if self.raw:
            return stored, *rest, drawn(sizes)
        stored = data.prepare_pngs(step.read_N, stored, pool)
        stored, boxes = prepare_originals(stored, sizes, drawn if self.boxed else None, self.scaling)
        return (stored, *rest, boxes) if self.boxed else (stored, *rest)


def _build_graph(source: Any, engine: Engine, form: _DecodeSpec, pool: ThreadPoolExecutor) -> Pipeline:
    """Build the graph that turns the inputs of ``source`` into crops, labels, ids and draws.

    ``source(number)`` returns what ``_DecodeSpec.inputs`` does: a list of encoded samples, or of pixels, and arrays of
    the batch's other fields. The fields pass through the graph beside the images, so that they come out with the batch
    to which they belong, however many steps DALI works ahead.
    """
    pipe = engine.make_pipeline()
    with pipe:
        count = len(_INPUT_DTYPES) if form.boxed else len(_INPUT_DTYPES) - 1
        stored, *rest = fn.external_source(
            source,
            num_outputs=count,
            batch=True,
            no_copy=True,  # DALI keeps a reference to the arrays until it has read them
            dtype=_INPUT_DTYPES[:count],
            ndim=[3 if form.raw else 1, 0, 0, 1, 0, 1, 1][:count],
            layout=["HWC" if form.raw else "", *[""] * (count - 1)],
        )
        box = rest.pop() if form.boxed else None
        yx, flip = rest[2], rest[3]
        window = (
            _decode_scaled(stored, box, yx, engine, form, pool)
            if form.scaling
            else _decode_crop(stored, yx, engine, form)
        )
        # From uint8 to uint8: mirror, and transpose to CHW.
        crops = fn.crop_mirror_normalize(window, mirror=flip, dtype=types.UINT8, output_layout="CHW")
        pipe.set_outputs(crops, *(value.gpu() if engine.on_gpu else value for value in rest))
    pipe.build()
    return pipe


def _decode_crop(stored: Any, yx: Any, engine: Engine, form: _DecodeSpec) -> Any:
    """Crop a stored standard view, or return all of it with ``form.whole``."""
    if form.raw or engine.on_gpu or form.whole:
        pixels = _decode_whole(stored, engine, form)
        return pixels if form.whole else fn.slice(pixels, start=yx, shape=[CROP_PX, CROP_PX], axes=[0, 1])
    return fn.decoders.image_slice(stored, start=yx, shape=[CROP_PX, CROP_PX], axes=[0, 1], **_decoder_options(engine))


def _decode_scaled(stored: Any, box: Any, yx: Any, engine: Engine, form: _DecodeSpec, pool: ThreadPoolExecutor) -> Any:
    """Scale a random box, or the central square, of an image; return its crop, or all of it with ``form.whole``."""
    scaling = form.scaling
    assert scaling is not None
    if form.boxed and not (form.raw or engine.on_gpu):
        window = {"start": box[0:2], "shape": box[2:4], "axes": [0, 1]}
        pixels = fn.decoders.image_slice(stored, **window, **_decoder_options(engine))
    else:
        pixels = _decode_whole(stored, engine, form)
        if form.boxed:
            pixels = fn.slice(pixels, start=box[0:2], shape=box[2:4], axes=[0, 1])
    view = _resize_on_gpu(pixels, scaling) if engine.on_gpu else _resize_on_cpu(pixels, scaling, pool)
    if form.boxed or form.whole:
        return view
    return fn.slice(view, start=yx, shape=[CROP_PX, CROP_PX], axes=[0, 1])


def _decode_whole(stored: Any, engine: Engine, form: _DecodeSpec) -> Any:
    if form.raw:
        return stored.gpu() if engine.on_gpu else stored
    return fn.decoders.image(stored, **_decoder_options(engine))


def _decoder_options(engine: Engine) -> dict[str, Any]:
    # Given explicitly, since the defaults differ between backends and versions. Stored images have no EXIF orientation.
    return {
        "device": "mixed" if engine.on_gpu else "cpu",
        "output_type": types.RGB,
        "jpeg_fancy_upsampling": True,
        "adjust_orientation": False,
    }


def _resize_on_cpu(pixels: Any, scaling: Scaling, pool: ThreadPoolExecutor) -> Any:
    def scale(images: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        return list(pool.map(scaling.scale, images))

    return fn.python_function(pixels, function=scale, batch_processing=True, output_layouts="HWC")


def _resize_on_gpu(pixels: Any, scaling: Scaling) -> Any:
    """Scale on a GPU.

    The central square is cut after scaling: less than a pixel away from that of ``_resize_on_cpu``.
    """
    size, interpolation = scaling.size_px, _INTERPOLATION[scaling.resize_filter]
    if scaling.boxed:
        return fn.resize(pixels, size=[size, size], interp_type=interpolation, antialias=True)
    shorter = fn.resize(pixels, size=[size, size], mode="not_smaller", interp_type=interpolation, antialias=True)
    return fn.crop(shorter, crop=[size, size])


@lru_cache(maxsize=1)
def find_seam_fault() -> str:
    """Return what is not as ``_call_compiled`` needs it in the DALI that is installed; "" if it can be used."""
    try:
        from nvidia.dali.plugin.numba import NumbaFunction
    except ImportError as error:
        return f"nvidia.dali.plugin.numba cannot be imported ({error})"
    used = {"__init__": ("_get_run_fn_cpu", "run_fn"), "_get_run_fn_cpu": (), "__call__": ("run_fn",)}
    for method, names in used.items():
        code = getattr(vars(NumbaFunction).get(method), "__code__", None)
        if code is None:
            return f"NumbaFunction has no method {method}"
        if missing := set(names) - set(code.co_names):
            return f"NumbaFunction.{method} does not use {missing.pop()}"
    return ""


def _call_compiled(address: int, row: Any) -> Any:
    """Add a node that calls a function which is already compiled, by its address; return its output, int64 vectors.

    The only place that uses what DALI calls private: its operator for numba functions compiles ``run_fn`` by
    ``_get_run_fn_cpu`` and then calls the address in ``self.run_fn``. ``find_seam_fault`` looks for all of that.
    """
    from nvidia.dali.plugin.numba import NumbaFunction

    class CompiledFunction(NumbaFunction):
        def _get_run_fn_cpu(self, *_: Any) -> int:
            return address

    run = CompiledFunction(
        lambda *_: None, out_types=[types.INT64], in_types=[types.INT64], outs_ndim=[1], ins_ndim=[1]
    )
    return run(row)


def run_fused_graph(
    data: Dataset, steps: BatchPlanner, engine: Engine, preprocessing: Preprocessing, operator: int
) -> Generator[Batch, None, None]:
    """Yield normalized batches on a CPU, equal to those of ``run_crop_graph`` and ``Normalizer``, for jpeg and raw
    samples.

    ``operator``: the address that ``fused.find_operator_address`` returned. Raises UndecodedError with the samples that
    cannot be read or decoded.
    """
    # DALI asks for the rows of later steps before it returns the answers of this one, but always in order: the queue
    # pairs each answer with its step and its buffer.
    under_way: deque[tuple[BatchPlan, NDArray[np.float32]]] = deque()
    buffers, input_clock = BufferPool(), StageTimer()
    mean, divisors = preprocessing.make_mean_planes(), preprocessing.divisors_C

    def rows(number: int) -> NDArray[np.int64]:
        with input_clock.measure("augment_s"):
            step = steps(number)
        out = buffers.take((len(step.ids_N), 3, CROP_PX, CROP_PX))
        under_way.append((step, out))
        with input_clock.measure("read_s"):
            return make_rows(data, step, out, mean, divisors)

    pipe = engine.make_pipeline()
    with pipe:
        row = fn.external_source(rows, batch=True, no_copy=True, dtype=types.INT64, ndim=1)
        pipe.set_outputs(_call_compiled(operator, row))
    pipe.build()
    try:
        while True:
            (answer,) = pipe.run()
            answers = parse_answers(np.asarray(from_dlpack(answer.as_tensor())), engine.num_threads)
            yield make_batch(*answers, input_clock.reset(), *under_way.popleft())
    except StopIteration:
        return
    finally:
        del pipe  # end its threads before the buffers that they write to
