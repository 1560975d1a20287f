"""Encode pixels as data URIs, so that pictures are part of the page: JPEG for photographs, PNG for exact pixels."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexstream.report.blocks import Picture

JPEG_QUALITY = 82
THUMBNAIL_PX = 160


def encode_photo(
    pixels_HWC: NDArray[np.uint8], alt: str, lines: tuple[str, ...] = (), side: int = THUMBNAIL_PX
) -> Picture:
    """Encode a photograph, uint8 (H, W, 3), as JPEG, scaled down if its longer side has more than ``side`` pixels."""
    image = Image.fromarray(pixels_HWC)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _encode_picture(image, "JPEG", alt, lines)


def encode_lossless(pixels_HWC: NDArray[np.uint8], alt: str, lines: tuple[str, ...] = ()) -> Picture:
    """Encode a picture, uint8 (H, W, 3), losslessly as PNG."""
    return _encode_picture(Image.fromarray(pixels_HWC), "PNG", alt, lines)


def _encode_picture(image: Image.Image, kind: str, alt: str, lines: tuple[str, ...]) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=JPEG_QUALITY, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    uri = f"data:image/{kind.lower()};base64,{data}"
    return Picture(uri=uri, width=image.width, height=image.height, alt=alt, lines=lines)
