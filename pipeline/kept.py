"""Images of any size, as ``--encode keep`` stores them: how large they are, which box is wanted, and what is too large.

A batch is decoded at once, so one huge photograph would cost the memory of a hundred. An image of more than ``LARGE``
pixels is therefore decoded here, alone, and handed on as the small picture that it becomes: the same pixels, for the
memory of one image at a time.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from sharding.resample import resize_box

LARGE = 2**24  # pixels: 48 MiB decoded
Uint8 = NDArray[np.uint8]
Boxes = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What becomes of a box: ``size_px`` × ``size_px`` by a filter of ``sharding.resample``.

    ``boxed``: the whole of a drawn box, its shape disregarded; otherwise the image's central square.
    """

    size_px: int
    resize_filter: str
    boxed: bool

    def square(self, box: NDArray[np.int32]) -> tuple[float, float, float, float]:
        """The part of a box (y, x, height, width) that is kept: top, left, height, width within the box."""
        height, width = int(box[2]), int(box[3])
        if self.boxed:
            return 0.0, 0.0, float(height), float(width)
        side = min(height, width)
        return (height - side) / 2, (width - side) / 2, float(side), float(side)

    def scale(self, pixels_HWC: Uint8) -> Uint8:
        """A decoded box, uint8 (H, W, 3), scaled: uint8 (size_px, size_px, 3); the resampler of the statistics."""
        whole = np.array([0, 0, *pixels_HWC.shape[:2]], np.int32)
        return resize_box(pixels_HWC, self.square(whole), self.size_px, self.resize_filter)


def size_of(stored: Uint8) -> tuple[int, int]:
    """Height and width of an image file, from its header."""
    data = stored.tobytes()
    if data.startswith(b"\xff\xd8"):
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return int(height), int(width)
    width, height = Image.open(io.BytesIO(data)).size
    return height, width


def kept_samples(
    stored: list[Uint8], draw_boxes: Callable[[NDArray[np.int64]], Boxes] | None, scaling: Scaling
) -> tuple[list[Uint8], Boxes]:
    """Image files and the box of each that is to be decoded, int32 (n, 4); large ones already scaled.

    Raises ValueError or OSError for a file without a readable header.
    """
    sizes = np.array([size_of(one) for one in stored], np.int64).reshape(-1, 2)
    whole = np.concatenate([np.zeros_like(sizes), sizes], axis=1).astype(np.int32)
    boxes = whole if draw_boxes is None else draw_boxes(sizes)
    given = list(stored)
    for i in np.flatnonzero(sizes.prod(axis=1) > LARGE):
        given[i] = _alone(stored[i], boxes[i], scaling)
        boxes[i] = 0, 0, scaling.size_px, scaling.size_px
    return given, boxes


def _alone(stored: Uint8, box: NDArray[np.int32], scaling: Scaling) -> Uint8:
    y, x, height, width = box
    with Image.open(io.BytesIO(stored.tobytes())) as image:
        pixels = np.asarray(image.convert("RGB").crop((int(x), int(y), int(x + width), int(y + height))))
    small = io.BytesIO()
    Image.fromarray(scaling.scale(pixels)).save(small, "BMP")
    return np.frombuffer(small.getvalue(), np.uint8)
