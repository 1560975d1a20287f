"""FFCV with an operation written for this task, in its own environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter
from stream_store import BATCH, CROP, EPOCH, MARGIN, SIZE, THREADS, Stored, Stream


def stream(stored: Stored, tuned: str = "") -> Stream:
    """Random samples, decoded whole by FFCV, then cropped, flipped, lit and freed of the mean image in one pass.

    FFCV takes new memory for its batches in every epoch, so an epoch of the set's size is short for it. ``tuned``
    makes epochs as long as ImageNet's, and keeps the mean image as planes, which its compiler makes more of.
    """
    path = stored.folder / f"{stored.encoding}.beton"
    if not path.exists():
        _write(path, stored)
    repeats = -(-EPOCH // len(stored)) if tuned else 1
    finish = CropAndFinish(stored, planes=bool(tuned))
    loader = Loader(
        str(path),
        batch_size=BATCH,
        num_workers=THREADS,
        order=OrderOption.RANDOM,
        indices=np.tile(np.arange(len(stored), dtype=np.uint64), repeats),
        os_cache=True,
        drop_last=True,
        pipelines={
            "image": [SimpleRGBImageDecoder(), finish, ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    return Stream(_batches(loader), path.stat().st_size / len(stored))


def _batches(loader: Loader) -> Iterator[Any]:
    while True:
        for images, _ in loader:
            yield images


def _write(path: Path, stored: Stored) -> None:
    """FFCV's file with our stored bytes in it: its own writer would encode the pixels again."""
    mode = IMAGE_MODES["raw" if stored.encoding == "raw" else "jpg"]

    def encode(destination: Any, content: np.ndarray, malloc: Callable[[int], Any]) -> None:
        destination["mode"], destination["height"], destination["width"] = mode, SIZE, SIZE
        destination["data_ptr"], storage = malloc(content.nbytes)
        storage[:] = content

    class Samples:
        def __len__(self) -> int:
            return len(stored)

        def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
            return stored.content(i), int(stored.label_N[i])

    image = RGBImageField()
    image.encode = encode
    DatasetWriter(str(path), {"image": image, "label": IntField()}, num_workers=THREADS).from_indexed_dataset(Samples())


class CropAndFinish(Operation):
    """Decoded squares uint8 (256, 256, 3) → finished crops float32 (3, 224, 224)."""

    def __init__(self, stored: Stored, planes: bool) -> None:
        """Keep the statistics, which become constants of the compiled code; the mean image as pixels or as planes."""
        super().__init__()
        self._mean = np.ascontiguousarray(stored.mean_HWC.transpose(2, 0, 1)) if planes else stored.mean_HWC
        self._mean_at, self._matrix_CC = _of_planes if planes else _of_pixels, stored.matrix_CC

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV compiles."""
        images, mean, matrix = Compiler.get_iterator(), self._mean, self._matrix_CC
        mean_at = Compiler.compile(self._mean_at)
        places, last = MARGIN + 1, CROP - 1

        def finish(source: Any, out: Any) -> Any:
            for n in images(source.shape[0]):
                y, x, flip = np.random.randint(0, places), np.random.randint(0, places), np.random.rand() < 0.5
                z0, z1, z2 = np.random.normal(0, 1), np.random.normal(0, 1), np.random.normal(0, 1)
                for c in range(3):
                    light = np.float32(matrix[c, 0] * z0 + matrix[c, 1] * z1 + matrix[c, 2] * z2)
                    for row in range(CROP):
                        if flip:
                            for i in range(CROP):
                                k = x + last - i
                                pixel = np.float32(source[n, y + row, k, c])
                                out[n, c, row, i] = pixel - mean_at(mean, y + row, k, c) + light
                        else:
                            for i in range(CROP):
                                pixel = np.float32(source[n, y + row, x + i, c])
                                out[n, c, row, i] = pixel - mean_at(mean, y + row, x + i, c) + light
            return out[: source.shape[0]]

        finish.is_parallel = True
        return finish

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, AllocationQuery]:
        """What comes out, and the memory for it."""
        shape, dtype = (3, CROP, CROP), np.dtype("float32")
        return replace(previous_state, shape=shape, dtype=dtype, jit_mode=True), AllocationQuery(shape, dtype)


def _of_pixels(mean_HWC: Any, y: int, x: int, c: int) -> Any:
    return mean_HWC[y, x, c]


def _of_planes(mean_CHW: Any, y: int, x: int, c: int) -> Any:
    return mean_CHW[c, y, x]
