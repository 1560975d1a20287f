"""The DALI graph: stored samples in; decoded, cropped, flipped uint8 CHW images out. The only DALI import.

``external_source`` hands over slices of the mapped shards without a copy, ``image_slice`` decodes only the
window of the crop (bit-identical to Pillow on a CPU; raw samples are cut), ``crop_mirror_normalize`` flips and
transposes. Floats
appear only after the pixels are on the training device (``finish``): DALI's float arithmetic on a CPU costs
more than its decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from torch.utils.dlpack import from_dlpack

from pipeline.batch import CROP_PX, CropBatch

# (stored bytes per sample, or raw pixels HWC; labels, ids, yx, flip, rgb) of one step
Step = tuple[list[Any], Any, Any, Any, Any, Any]
_DTYPES = [types.UINT8, types.INT64, types.INT64, types.INT32, types.INT32, types.FLOAT]


def crop_batches(
    source: Callable[[int], Step],
    batch_size: int,
    device: torch.device,
    num_threads: int,
    prefetch: int,
    encoding: str = "jpeg",
) -> Iterator[CropBatch]:
    """Run the graph: ``source(i)`` gives the i-th step of the run and raises StopIteration at the end.

    ``device`` cpu or cuda; decoding on a GPU uses nvJPEG ("mixed"). Raises RuntimeError, from DALI, when a
    sample does not decode.
    """
    pipe = _build(source, batch_size, device, num_threads, prefetch, encoding)
    while True:
        try:
            outputs = pipe.run()
        except StopIteration:
            return
        yield CropBatch.of(tuple(from_dlpack(output.as_tensor()) for output in outputs))


def _build(
    source: Callable[[int], Step],
    batch_size: int,
    device: torch.device,
    num_threads: int,
    prefetch: int,
    encoding: str,
) -> Pipeline:
    on_gpu = device.type == "cuda"
    pipe = Pipeline(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=(device.index or 0) if on_gpu else None,
        prefetch_queue_depth=prefetch,
    )
    with pipe:
        raw = encoding == "raw"
        stored, labels, ids, yx, flip, rgb = fn.external_source(
            source,
            num_outputs=6,
            batch=True,
            no_copy=True,
            dtype=_DTYPES,
            ndim=[3 if raw else 1, 0, 0, 1, 0, 1],
            layout=["HWC" if raw else "", "", "", "", "", ""],
        )
        window = _cut(stored.gpu() if on_gpu else stored, yx) if raw else _decode(stored, yx, on_gpu)
        crops = fn.crop_mirror_normalize(window, mirror=flip, dtype=types.UINT8, output_layout="CHW")
        rest = (labels, ids, yx, flip, rgb)
        pipe.set_outputs(crops, *(value.gpu() if on_gpu else value for value in rest))
    pipe.build()
    return pipe


def _decode(stored: Any, yx: Any, on_gpu: bool) -> Any:
    return fn.decoders.image_slice(
        stored,
        start=yx,
        shape=[CROP_PX, CROP_PX],
        axes=[0, 1],
        device="mixed" if on_gpu else "cpu",
        output_type=types.RGB,
        # Defaults differ between backends and versions; stored JPEGs carry no orientation.
        jpeg_fancy_upsampling=True,
        adjust_orientation=False,
    )


def _cut(stored: Any, yx: Any) -> Any:
    return fn.slice(stored, start=yx, shape=[CROP_PX, CROP_PX], axes=[0, 1])
