"""Convert the bytes of any image file to a stored sample and the square of pixels that training sees; pure.

The format is detected by content, never by name. What cannot be converted to correct RGB pixels raises
``BadImageError``; every conversion is noted for the catalog. ``docs/images.md`` lists the treatment of every kind of
file.

Shape legend: H, W = image height and width, C = 3 channels in R, G, B order, S = the recipe's ``size_px``.
"""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images import color, jpeg, png
from alexstream.sharding.images.formats import PARSER_ERRORS, check_size, open_non_jpeg
from alexstream.sharding.images.resample import add_fourth_byte, resize_square
from alexstream.sharding.images.stored_sample import SampleChecker

Uint8 = NDArray[np.uint8]
MAX_SIDE_PX = 65_500  # libjpeg's JPEG_MAX_DIMENSION
UNREADABLE_EXIF = "unreadable EXIF"
NOTED_ENLARGEMENT = 8  # a larger factor of enlargement is noted


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """A stored sample: its bytes and file extension, the pixels of the standard view, facts about the source.

    ``pixels_HWC``: uint8 (S, S, 3), decoded from ``content``, and scaled and cropped if that is of another size.
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
    """Upright RGB pixels, uint8 (H, W, 3); ``keep_as``: extension under which every reader sees these, or None."""

    pixels_HWC: Uint8
    width: int
    height: int
    source_format: str
    notes: list[str]
    original_extension: str | None


def prepare_image(data: bytes, recipe: EncodeRecipe) -> PreparedImage:
    """Decode, convert to upright RGB, scale the shorter side to ``size_px``, crop the center, encode, decode again.

    The last decode proves that the sample decodes and yields the pixels that training will see (paper, section 2:
    "rescaled the image such that the shorter side was of length 256, and then cropped out the central 256×256 patch").
    Raises BadImageError with the reason.
    """
    decoded = _decode_image(data)
    shorter = min(decoded.width, decoded.height)
    if shorter * NOTED_ENLARGEMENT < recipe.size_px:
        decoded.notes.append(f"enlarged from {shorter} px")
    if recipe.encoding == "keep":
        content, extension, pixels = _store_original(data, decoded, recipe)
    else:
        pixels = resize_square(decoded.pixels_HWC, recipe.size_px, recipe.resize_filter)
        if recipe.encoding == "raw":
            content, extension = pixels.tobytes(), "rgb"
        else:
            content, extension = encode_jpeg(pixels, recipe), "jpg"
            pixels = decode_stored_jpeg(content)
    return PreparedImage(
        content=content,
        extension=extension,
        pixels_HWC=pixels,
        source_width=decoded.width,
        source_height=decoded.height,
        source_format=decoded.source_format,
        notes=tuple(decoded.notes),
    )


def decode_sample(content: bytes, extension: str, recipe: EncodeRecipe) -> Uint8:
    """Decode a stored sample to ``pixels_HWC``, uint8 (S, S, 3). Raises BadImageError if that fails."""
    SampleChecker(recipe).check(content, extension)
    size_px = recipe.size_px
    if recipe.encoding == "keep":
        return resize_square(_decode_image(content).pixels_HWC, size_px, recipe.resize_filter)
    if extension == "rgb":
        return np.frombuffer(content, np.uint8).reshape(size_px, size_px, 3)
    return decode_stored_jpeg(content)


def encode_jpeg(image_HWC: Uint8, recipe: EncodeRecipe) -> bytes:
    """Encode uint8 RGB pixels (H, W, 3) as baseline JPEG, without metadata; equal input gives equal bytes.

    Pillow's libjpeg-turbo uses the accurate forward DCT at every quality; TurboJPEG, below simplejpeg, uses the fast
    one up to quality 95, as in data sets of old versions.
    """
    if max(image_HWC.shape) > MAX_SIDE_PX:
        raise BadImageError("too-large", f"a side longer than {MAX_SIDE_PX:,} pixels, which no JPEG holds")
    if recipe.dct == "fast":
        chroma = recipe.chroma.replace(":", "")
        pixels = np.ascontiguousarray(image_HWC)
        return bytes(simplejpeg.encode_jpeg(pixels, recipe.quality, colorsubsampling=chroma))
    height, width, _ = image_HWC.shape
    if height * width % 4 or sys.byteorder != "little":
        image = Image.fromarray(image_HWC)
    else:  # 0.04 ms faster: Pillow takes these bytes as they are
        image = Image.frombuffer("RGBX", (width, height), add_fourth_byte(image_HWC), "raw", "RGBX", 0, 1)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=recipe.quality, subsampling=recipe.chroma)
    return buffer.getvalue()


def decode_stored_jpeg(content: bytes) -> Uint8:
    """Decode a stored JPEG to uint8 RGB (H, W, 3), bit-identical to Pillow and to DALI's CPU decoder.

    Raises BadImageError if it does not decode, or decodes with a warning.
    """
    try:
        pixels: Uint8 = simplejpeg.decode_jpeg(content)
    except (ValueError, MemoryError) as error:
        raise BadImageError("corrupt", str(error) or "no memory for its pixels") from error
    return pixels


def _store_original(data: bytes, decoded: _Decoded, recipe: EncodeRecipe) -> tuple[bytes, str, Uint8]:
    """Return the file itself if every reader sees the same pixels in it; else its pixels as a full-size JPEG."""
    content, extension, pixels = data, decoded.original_extension, decoded.pixels_HWC
    passes = extension is not None and SampleChecker(recipe).passes(data, extension)
    if extension is None or not passes or (extension == "jpg" and not _can_open(data)):
        content, extension = encode_jpeg(pixels, recipe), "jpg"
        pixels = decode_stored_jpeg(content)
        decoded.notes.append("re-encoded")
    return content, extension, resize_square(pixels, recipe.size_px, recipe.resize_filter)


def _can_open(data: bytes) -> bool:
    """Return whether Pillow opens a JPEG: it parses metadata that decoders skip, such as Photoshop's resources."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(io.BytesIO(data), formats=["JPEG"])
    except PARSER_ERRORS:
        return False
    return True


def _decode_image(data: bytes) -> _Decoded:
    if not data:
        raise BadImageError("empty", "the file has no bytes")
    return _decode_jpeg(data) if data.startswith(b"\xff\xd8") else _decode_other(data)


def _decode_jpeg(data: bytes) -> _Decoded:
    header = jpeg.read_header(data)
    jpeg.refuse_unsupported(header)
    check_size(header.width, header.height)
    pixels, notes = jpeg.decode_strictly(data, header)
    keep = header.is_plain and header.has_sound_icc and not notes and not header.has_frames and header.num_exif < 2
    source_format, orientation = _read_format_and_orientation(data, header, notes)
    if not header.has_sound_icc:
        notes.append("ICC part doubled" if header.icc else "ICC ignored: incomplete profile")
    # Grayscale and CMYK are converted by formula; their profiles are ignored.
    exotic = len(header.components) == 3 and color.needs_profile(header.icc)
    pixels = _convert_to_rgb(pixels, header.icc, exotic, notes)
    if orientation != 1:
        notes.append(f"EXIF orientation {orientation}")
        pixels = _apply_orientation(pixels, orientation)
    return _Decoded(
        pixels_HWC=pixels,
        width=header.width,
        height=header.height,
        source_format=source_format,
        notes=[*(["was L"] if len(header.components) == 1 else []), *notes],
        original_extension="jpg" if keep and orientation == 1 and not exotic and UNREADABLE_EXIF not in notes else None,
    )


def _convert_to_rgb(pixels: Uint8, icc: bytes, exotic: bool, notes: list[str]) -> Uint8:
    """Convert a JPEG's pixels to RGB; (H, W, 4) is CMYK, stored inverted as Adobe introduced it."""
    if pixels.shape[2] == 4:
        notes.append("was CMYK")
        pixels = np.asarray(Image.fromarray(255 - pixels, "CMYK").convert("RGB"))
    if exotic:
        pixels = np.asarray(color.apply_profile(Image.fromarray(pixels), icc, notes))
    elif icc:
        color.note_profile(icc, notes)
    return pixels


def _read_format_and_orientation(data: bytes, header: jpeg.JpegHeader, notes: list[str]) -> tuple[str, int]:
    """Return format and orientation; Pillow is asked only if the metadata may hold a rotation or more frames."""
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
            return str(image.format), _read_orientation(image, notes)
    except PARSER_ERRORS:  # unreadable metadata must not cost an image whose pixels decoded
        notes.append(UNREADABLE_EXIF)
        return "JPEG", 1


def _read_orientation(image: Image.Image, notes: list[str]) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in range(9):  # 0: not known
        return int(orientation) or 1
    notes.append(UNREADABLE_EXIF)  # readers differ on what such a number, or text, means
    return 1


def _apply_orientation(pixels: Uint8, orientation: int) -> Uint8:
    if orientation >= 5:  # 5 transposes; 6, 7 and 8 are 5 followed by 2, 3 and 4
        pixels = pixels.swapaxes(0, 1)
    flip = {2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}[orientation]
    return np.ascontiguousarray(np.flip(pixels, flip))


def _decode_other(data: bytes) -> _Decoded:
    notes: list[str] = []
    image = open_non_jpeg(data, notes)
    icc = image.info.get("icc_profile", b"")
    if icc is None:  # Pillow found a profile but could not decompress it
        notes.append("ICC ignored: unreadable profile")
    keep_as = _original_extension(data, image, notes)
    try:
        upright = _make_upright(image, notes)
        rgb = color.convert_to_rgb(upright, notes)
    except PARSER_ERRORS as error:
        raise BadImageError("corrupt", f"{type(error).__name__}: {error}") from error
    if image.mode in ("RGB", "RGBA", "RGBX", "P", "PA") and color.needs_profile(icc):
        keep_as, rgb = None, color.apply_profile(rgb, icc, notes)
    elif icc:
        color.note_profile(icc, notes)
    return _Decoded(
        pixels_HWC=np.asarray(rgb),
        width=image.width,
        height=image.height,
        source_format=str(image.format),
        notes=notes,
        original_extension=keep_as if upright is image and UNREADABLE_EXIF not in notes else None,
    )


def _original_extension(data: bytes, image: Image.Image, notes: list[str]) -> str | None:
    """Return the extension of a still 8-bit PNG or a still WebP, both without transparency; else None."""
    if len(notes) > 1 or "transparency" in image.info:  # the first note is the format
        return None
    if image.format == "PNG":
        return "png" if png.is_plain(data) else None
    return "webp" if image.format == "WEBP" and image.mode == "RGB" else None


def _make_upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            orientation = _read_orientation(image, notes)
            upright = ImageOps.exif_transpose(image) if orientation != 1 else image
    except Exception:  # unreadable metadata must not cost an image whose pixels decoded
        notes.append(UNREADABLE_EXIF)
        return image
    if upright is not image:
        notes.append(f"EXIF orientation {orientation}")
        upright.format = image.format
    return upright
