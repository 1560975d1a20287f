"""Pure: the bytes of any image file → what is stored of it, and the square of pixels that training sees.

The format is told by content, never by name. What cannot be turned into right RGB pixels raises
``BadImageError``; what needed turning is noted, so that the catalog can say so. ``docs/images.md`` lists what
becomes of every kind of file.

Shape legend: H, W = image height and width, C = 3 channels in R, G, B order, S = the recipe's ``size_px``.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from sharding import colour, jpeg
from sharding.errors import BadImageError
from sharding.formats import PARSER_ERRORS, check_size, open_other
from sharding.layout import EncodeRecipe
from sharding.resample import resize_square

Uint8 = NDArray[np.uint8]
LONGEST_SIDE = 65_500  # libjpeg's limit
MUCH = 8  # an image that is enlarged more than this says so in its notes


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """A stored sample: its bytes and their file extension, the pixels of the standard view, the source's facts.

    ``pixels_HWC``: uint8 (S, S, 3), what ``content`` decodes to, scaled and cropped if it is of another size.
    """

    content: bytes
    extension: str
    pixels_HWC: Uint8
    source_width: int
    source_height: int
    source_format: str
    notes: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Decoded:
    """Upright RGB pixels, uint8 (H, W, 3), and the extension under which every reader sees just these, if any."""

    pixels_HWC: Uint8
    width: int
    height: int
    source_format: str
    notes: list[str]
    keep_as: str | None


def prepare(data: bytes, recipe: EncodeRecipe) -> PreparedImage:
    """Decode, make upright RGB, scale the shorter side to ``size_px``, crop the centre, encode, decode again.

    The last decode proves that the sample decodes and gives the pixels that training will see (paper,
    section 2: "rescaled the image such that the shorter side was of length 256, and then cropped out the
    central 256×256 patch"). Raises BadImageError with the reason.
    """
    decoded = _decode(data)
    shorter = min(decoded.width, decoded.height)
    if shorter * MUCH < recipe.size_px:
        decoded.notes.append(f"enlarged from {shorter} px")
    if recipe.encoding == "keep":
        content, extension, pixels = _kept(data, decoded, recipe)
    else:
        pixels = resize_square(decoded.pixels_HWC, recipe.size_px, recipe.resize_filter)
        content, extension = pixels.tobytes(), "rgb"
        if recipe.encoding == "jpeg":
            content, extension = encode(pixels, recipe), "jpg"
            pixels = decode_stored(content)
    return PreparedImage(
        content=content,
        extension=extension,
        pixels_HWC=pixels,
        source_width=decoded.width,
        source_height=decoded.height,
        source_format=decoded.source_format,
        notes=tuple(decoded.notes),
    )


def stored_pixels(content: bytes, extension: str, recipe: EncodeRecipe) -> Uint8:
    """The same ``pixels_HWC`` (S, S, 3) again from a stored sample. Raises BadImageError if it gives none."""
    size_px = recipe.size_px
    if recipe.encoding == "keep":
        return resize_square(_decode(content).pixels_HWC, size_px, recipe.resize_filter)
    if extension == "rgb":
        if len(content) != 3 * size_px * size_px:
            raise BadImageError("corrupt", f"{len(content)} bytes are no {size_px}x{size_px} RGB image")
        return np.frombuffer(content, np.uint8).reshape(size_px, size_px, 3)
    pixels = decode_stored(content)
    if pixels.shape != (size_px, size_px, 3):
        raise BadImageError("corrupt", f"{pixels.shape[1]}x{pixels.shape[0]} pixels, expected {size_px}x{size_px}")
    return pixels


def encode(image_HWC: Uint8, recipe: EncodeRecipe) -> bytes:
    """Baseline JPEG without metadata; the same pixels and recipe give the same bytes."""
    if max(image_HWC.shape) > LONGEST_SIDE:
        raise BadImageError("too-large", f"a side longer than {LONGEST_SIDE:,} pixels, which no JPEG holds")
    subsampling = recipe.chroma.replace(":", "")
    content: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image_HWC), recipe.quality, colorsubsampling=subsampling
    )
    return content


def decode_stored(content: bytes) -> Uint8:
    """Pixels of a stored JPEG: uint8 RGB (H, W, 3), bit-identical to what Pillow and DALI's CPU decoder give.

    Raises BadImageError if it does not decode or the decoder has anything to complain of.
    """
    try:
        pixels: Uint8 = simplejpeg.decode_jpeg(content)
    except ValueError as error:
        raise BadImageError("corrupt", str(error)) from error
    return pixels


def _kept(data: bytes, decoded: _Decoded, recipe: EncodeRecipe) -> tuple[bytes, str, Uint8]:
    """The file itself where every reader sees the same in it; otherwise its pixels as a JPEG of full size."""
    content, extension, pixels = data, decoded.keep_as, decoded.pixels_HWC
    if extension is None:
        content, extension = encode(pixels, recipe), "jpg"
        pixels = decode_stored(content)
        decoded.notes.append("re-encoded")
    return content, extension, resize_square(pixels, recipe.size_px, recipe.resize_filter)


def _decode(data: bytes) -> _Decoded:
    if not data:
        raise BadImageError("empty", "the file has no bytes")
    return _decode_jpeg(data) if data.startswith(b"\xff\xd8") else _decode_other(data)


def _decode_jpeg(data: bytes) -> _Decoded:
    header = jpeg.read_header(data)
    jpeg.refuse_unsupported(header)
    check_size(header.width, header.height)
    pixels, notes = jpeg.decode_strictly(data, header)
    keep = header.is_plain and not notes and not header.has_frames
    source_format, orientation = _ask_pillow(data, header, notes)
    # The conversion of grayscale and CMYK is the plain formula, whatever their profile says.
    exotic = len(header.components) == 3 and colour.needs_profile(header.icc)
    pixels = _to_rgb(pixels, header.icc, exotic, notes)
    if orientation != 1:
        notes.append(f"EXIF orientation {orientation}")
        pixels = _turned(pixels, orientation)
    return _Decoded(
        pixels_HWC=pixels,
        width=header.width,
        height=header.height,
        source_format=source_format,
        notes=[*(["was L"] if len(header.components) == 1 else []), *notes],
        keep_as="jpg" if keep and orientation == 1 and not exotic else None,
    )


def _to_rgb(pixels: Uint8, icc: bytes, exotic: bool, notes: list[str]) -> Uint8:
    """RGB of a JPEG's pixels: (H, W, 4) is CMYK, stored inverted as Adobe does and everybody after it."""
    if pixels.shape[2] == 4:
        notes.append("was CMYK")
        pixels = np.asarray(Image.fromarray(255 - pixels, "CMYK").convert("RGB"))
    if exotic:
        pixels = np.asarray(colour.apply_profile(Image.fromarray(pixels), icc, notes))
    elif icc:
        colour.note_profile(icc, notes)
    return pixels


def _ask_pillow(data: bytes, header: jpeg.JpegHeader, notes: list[str]) -> tuple[str, int]:
    """Format and orientation: only a JPEG whose metadata may turn it, or that holds more frames, is asked for both."""
    may_turn = b"\x12\x01" in header.exif or b"\x01\x12" in header.exif or b"Orientation" in header.xmp
    if not may_turn and not header.has_frames:
        return "JPEG", 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=["JPEG"])
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                notes.append(f"first of {frames} frames")
            return str(image.format), _orientation(image)
    except PARSER_ERRORS:  # unreadable metadata must not cost an image whose pixels decoded
        notes.append("unreadable EXIF")
        return "JPEG", 1


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return int(orientation) if orientation in range(2, 9) else 1


def _turned(pixels: Uint8, orientation: int) -> Uint8:
    if orientation >= 5:  # 5 mirrors at the main diagonal; 6, 7 and 8 are 5 and then 2, 3 and 4
        pixels = pixels.swapaxes(0, 1)
    flip = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    return np.ascontiguousarray(np.flip(pixels, flip))


def _decode_other(data: bytes) -> _Decoded:
    notes: list[str] = []
    image = open_other(data, notes)
    icc = image.info.get("icc_profile", b"")
    keep_as = _keep_as(data, image, notes)
    try:
        upright = _upright(image, notes)
        rgb = colour.to_rgb(upright, notes)
    except PARSER_ERRORS as error:
        raise BadImageError("corrupt", f"{type(error).__name__}: {error}") from error
    if image.mode in ("RGB", "RGBA", "RGBX", "P", "PA") and colour.needs_profile(icc):
        keep_as, rgb = None, colour.apply_profile(rgb, icc, notes)
    elif icc:
        colour.note_profile(icc, notes)
    return _Decoded(
        pixels_HWC=np.asarray(rgb),
        width=image.width,
        height=image.height,
        source_format=str(image.format),
        notes=notes,
        keep_as=keep_as if upright is image else None,
    )


def _keep_as(data: bytes, image: Image.Image, notes: list[str]) -> str | None:
    """The extension of a still PNG of 8 bits or a still WebP, both without transparency; None for all else."""
    if len(notes) > 1 or "transparency" in image.info:  # the first note is the format
        return None
    if image.format == "PNG":
        return "png" if data[24] == 8 and data[25] in (0, 2, 3) else None
    return "webp" if image.format == "WEBP" and image.mode == "RGB" else None


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = _orientation(image)
            upright = ImageOps.exif_transpose(image) if orientation != 1 else image
    except Exception:  # unreadable metadata must not cost an image whose pixels decoded
        notes.append("unreadable EXIF")
        return image
    if upright is not image:
        notes.append(f"EXIF orientation {orientation}")
        upright.format = image.format
    return upright
