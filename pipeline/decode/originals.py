"""Prepare images in their original sizes (``--encode keep``) for decoding: choose their boxes, scale very large ones.

DALI decodes a whole batch at once, so one huge photograph would take the memory of a hundred images. An image of more
than ``LARGE_PIXELS`` pixels is therefore decoded and scaled here, one at a time, and passed to DALI as the small image
that results: the same pixels, with the memory of one large image.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexstream.sharding.images.resample import resize_box
from alexstream.sharding.images.stored_sample import open_stored_image

LARGE_PIXELS = 2**24  # pixels, 48 MiB when decoded
Uint8 = NDArray[np.uint8]
Boxes = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Scale a box to ``size_px`` × ``size_px`` pixels with a filter of ``sharding.images.resample``.

    ``boxed``: scale all of a random box, whatever its aspect ratio; otherwise the image's central square.
    """

    size_px: int
    resize_filter: str
    boxed: bool

    def square(self, box: NDArray[np.int32]) -> tuple[float, float, float, float]:
        """Return the part of a box (y, x, height, width) that is used: top, left, height, width within the box."""
        height, width = int(box[2]), int(box[3])
        if self.boxed:
            return 0.0, 0.0, float(height), float(width)
        side = min(height, width)
        return (height - side) / 2, (width - side) / 2, float(side), float(side)

    def scale(self, pixels_HWC: Uint8) -> Uint8:
        """Scale a decoded box, uint8 (H, W, 3) → uint8 (size_px, size_px, 3), as for the data set's statistics."""
        whole = np.array([0, 0, *pixels_HWC.shape[:2]], np.int32)
        return resize_box(pixels_HWC, self.square(whole), self.size_px, self.resize_filter)


def prepare_originals(
    stored: list[Uint8],
    sizes_N2: NDArray[np.int64],
    draw_boxes: Callable[[NDArray[np.int64]], Boxes] | None,
    scaling: Scaling,
) -> tuple[list[Uint8], Boxes]:
    """Return image files and the box of each to decode, int32 (n, 4), y, x, height, width; large images are scaled.

    ``sizes_N2``: their heights and widths, as ``SampleChecker.check`` returns them. ``draw_boxes``: None for whole
    images. Raises BadImageError if a large image does not decode.
    """
    whole = np.concatenate([np.zeros_like(sizes_N2), sizes_N2], axis=1).astype(np.int32)
    boxes = whole if draw_boxes is None else draw_boxes(sizes_N2)
    given = list(stored)
    for i in np.flatnonzero(sizes_N2.prod(axis=1) > LARGE_PIXELS):
        given[i] = _scale_large(stored[i], boxes[i], scaling)
        boxes[i] = 0, 0, scaling.size_px, scaling.size_px
    return given, boxes


def _scale_large(stored: Uint8, box: NDArray[np.int32], scaling: Scaling) -> Uint8:
    y, x, height, width = box
    image = open_stored_image(stored.tobytes())
    pixels = np.asarray(image.crop((int(x), int(y), int(x + width), int(y + height))))
    small = io.BytesIO()
    Image.fromarray(scaling.scale(pixels)).save(small, "BMP")
    return np.frombuffer(small.getvalue(), np.uint8)
