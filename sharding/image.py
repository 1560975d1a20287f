"""Pure: the bytes of any image file → a 256×256 RGB JPEG and the pixels that it decodes to.

The format is told by content, never by name. What cannot be turned into right RGB pixels raises
``BadImageError``; what needed turning is noted, so that the catalog can say so.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from sharding.errors import BadImageError
from sharding.layout import EncodeRecipe

# Decoded, this is 268 MB of RGB: far above any photograph of ImageNet, far below what exhausts a machine.
MAX_PIXELS = 89_478_485
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
_SUBSAMPLING = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """A stored sample: its JPEG, the uint8 RGB pixels (H, W, 3) that JPEG decodes to, and the source's facts."""

    jpeg: bytes
    pixels_HWC: NDArray[np.uint8]
    source_width: int
    source_height: int
    source_format: str
    notes: tuple[str, ...]


def prepare(data: bytes, recipe: EncodeRecipe) -> PreparedImage:
    """Decode, make upright RGB, scale the shorter side to ``size_px``, crop the centre, encode, decode again.

    The last decode proves that the sample decodes and gives the pixels that training will see (paper,
    section 2: "rescaled the image such that the shorter side was of length 256, and then cropped out the
    central 256×256 patch"). Raises BadImageError with the reason.
    """
    image, source_format, notes = _open(data)
    width, height = image.size
    rgb = _to_rgb(image, notes)
    cropped = resize_and_crop(rgb, recipe)
    jpeg = encode(cropped, recipe)
    return PreparedImage(
        jpeg=jpeg,
        pixels_HWC=decode_stored(jpeg),
        source_width=width,
        source_height=height,
        source_format=source_format,
        notes=tuple(notes),
    )


def resize_and_crop(image: Image.Image, recipe: EncodeRecipe) -> Image.Image:
    """The central square of an RGB image, scaled to ``size_px`` × ``size_px`` with an antialiasing filter.

    Cropping the source window first and scaling only that equals scaling first and cropping after, without
    rounding the longer side to whole pixels, and costs less.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    size = (recipe.size_px, recipe.size_px)
    return image.resize(size, _FILTERS[recipe.resize_filter], box=(left, top, left + side, top + side))


def encode(image: Image.Image, recipe: EncodeRecipe) -> bytes:
    """Baseline JPEG without metadata; the same pixels and recipe give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=recipe.quality, subsampling=_SUBSAMPLING[recipe.chroma], optimize=True)
    return buffer.getvalue()


def decode_stored(jpeg: bytes) -> NDArray[np.uint8]:
    """Pixels of a stored JPEG: uint8 RGB (H, W, 3), bit-identical to what DALI's CPU decoder gives."""
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB"))


def _open(data: bytes) -> tuple[Image.Image, str, list[str]]:
    if not data:
        raise BadImageError("empty", "the file has no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are bounded below; EXIF noise says nothing about pixels
            image = Image.open(io.BytesIO(data))
            source_format = str(image.format)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImageError("too-large", f"{width}x{height} pixels, more than {MAX_PIXELS:,}")
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _unidentified(data, error) from error
    # Pillow's parsers raise many kinds of error on hostile bytes; each means that this file does not decode.
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, ArithmeticError,
            MemoryError, RuntimeError, NotImplementedError) as error:  # fmt: skip
        raise BadImageError("undecodable", f"{type(error).__name__}: {error}") from error
    notes = [] if source_format == "JPEG" else [f"was {source_format}"]
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"first of {frames} frames")
    return image, source_format, notes


def _unidentified(data: bytes, error: Exception) -> BadImageError:
    if isinstance(error, Image.DecompressionBombError):
        return BadImageError("too-large", str(error))
    if data.startswith(b"\xff\xd8\xff"):
        return BadImageError(
            "undecodable", "a JPEG with a header that no decoder here reads (12-bit, lossless, no size)"
        )
    return BadImageError("not-an-image", f"no image format recognised (first bytes {data[:8].hex(' ')})")


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    upright = _upright(image, notes)
    if upright.mode == "RGB":
        return upright
    notes.append(f"was {upright.mode}")
    if upright.mode in ("1", "L", "CMYK", "YCbCr", "LAB", "HSV"):
        return upright.convert("RGB")
    if upright.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling.
        scaled = (np.asarray(upright).astype(np.uint32) * 255 + 32767) // 65535
        return Image.fromarray(scaled.astype(np.uint8), "L").convert("RGB")
    if upright.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa"):
        return _over_white(upright)
    raise BadImageError("unsupported-mode", f"colour mode {upright.mode} has no agreed way to RGB")


def _over_white(image: Image.Image) -> Image.Image:
    """Transparent pixels show white: the colour stored beneath them was never meant to be seen."""
    rgba = image.convert("RGBA")
    if np.asarray(rgba)[..., 3].min() == 255:
        return rgba.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            upright = ImageOps.exif_transpose(image) if orientation in range(2, 9) else image
    except Exception:  # unreadable metadata must not cost an image whose pixels decoded
        notes.append("unreadable EXIF")
        return image
    if upright is not image:
        notes.append(f"EXIF orientation {orientation}")
    return upright
