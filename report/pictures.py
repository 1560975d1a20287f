"""Pixels → pictures that are part of the page: data URIs of JPEG for photographs, PNG where every pixel counts."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from report.blocks import Picture

JPEG_QUALITY = 82
THUMBNAIL_PX = 160


def photograph(
    pixels_HWC: NDArray[np.uint8], alt: str, lines: tuple[str, ...] = (), side: int = THUMBNAIL_PX
) -> Picture:
    """A photograph, uint8 (H, W, 3), made smaller if its longer side has more than ``side`` pixels."""
    image = Image.fromarray(pixels_HWC)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _picture(image, "JPEG", alt, lines)


def exact(pixels_HWC: NDArray[np.uint8], alt: str, lines: tuple[str, ...] = ()) -> Picture:
    """A picture, uint8 (H, W, 3), pixel by pixel."""
    return _picture(Image.fromarray(pixels_HWC), "PNG", alt, lines)


def _picture(image: Image.Image, kind: str, alt: str, lines: tuple[str, ...]) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=JPEG_QUALITY, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    uri = f"data:image/{kind.lower()};base64,{data}"
    return Picture(uri=uri, width=image.width, height=image.height, alt=alt, lines=lines)
