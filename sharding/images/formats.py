"""Decode a file of any format but JPEG by Pillow, checking it before; pure.

Only the formats in ``FORMATS`` are opened: others in Pillow run programs, or have no agreed conversion to RGB.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from contextlib import suppress

from PIL import Image, UnidentifiedImageError, features

from alexstream.core.errors import BadImageError
from alexstream.sharding.images import png
from alexstream.sharding.images.metadata import cut_metadata

READS_AVIF = "avif" in features.modules and features.check("avif")  # Pillow's wheels do, since 11.3
FORMATS = ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", *(("AVIF",) if READS_AVIF else ()))
# Decoded, this is 268 MB of RGB: far above any photograph of ImageNet, far below what exhausts a machine.
MAX_PIXELS = 89_478_485
# Pillow's parsers raise many kinds of error on hostile bytes; each means that this file does not decode.
PARSER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, ArithmeticError, MemoryError,
    RuntimeError, NotImplementedError, AttributeError, struct.error, zlib.error,
)  # fmt: skip
_UNSUPPORTED_IMAGES = {
    b"8BPS": "Photoshop", b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript", b"\x00\x00\x01\x00": "icon",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL", b"qoif": "QOI", b"SIMPLE": "FITS", b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR", b"gimp xcf": "GIMP",
}  # fmt: skip
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {
    b"heic",
    b"heix",
    b"heim",
    b"heis",
    b"hevc",
    b"hevx",
    b"hevm",
    b"hevs",
    b"mif1",
    b"msf1",
    b"mif2",
    b"heif",
}
_OTHER_FILES = {
    b"%PDF": "PDF", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "gzip data", b"RIFF": "audio or video",
    b"\x1a\x45\xdf\xa3": "video", b"\x7fELF": "a program", b"MZ": "a program",
}  # fmt: skip


def check_size(width: int, height: int) -> None:
    """Raise BadImageError (``too-large``) for more pixels than are ever decoded."""
    if width * height > MAX_PIXELS:
        raise BadImageError("too-large", f"{width}x{height} pixels, more than {MAX_PIXELS:,}")


def open_non_jpeg(data: bytes, notes: list[str]) -> Image.Image:
    """Open and decode the first frame of a file in one of ``FORMATS``. Raises BadImageError with the reason.

    The first note appended to ``notes`` is the format.
    """
    image, found = _open_png(data) if data.startswith(png.MAGIC) else _open_other(data)
    _refuse_inverted_tiff(image)
    notes += found
    return image


def _open_png(data: bytes) -> tuple[Image.Image, list[str]]:
    """Open a PNG with as much of its metadata as Pillow accepts."""
    chunks = png.read_chunks(data)
    first, *others = chunks.list_versions()
    try:
        image, notes = _load_by_pillow(first)
        return image, [*notes, *chunks.notes]
    except BadImageError as error:
        if error.reason != "corrupt":
            raise
        refusal = error
    for reading in others:
        with suppress(BadImageError):
            image, notes = _load_by_pillow(reading)
            return image, [*notes, *chunks.notes, png.UNREADABLE]
    raise refusal


def _open_other(data: bytes) -> tuple[Image.Image, list[str]]:
    """Open a file that is neither JPEG nor PNG; without its metadata where that alone hinders."""
    try:
        return _load_by_pillow(data)
    except BadImageError as error:
        if error.reason != "corrupt" or (cut := cut_metadata(data)) is None:
            raise
        refusal = error
    try:
        image, notes = _load_by_pillow(cut)
    except BadImageError:
        raise refusal from None
    return image, [*notes, png.DAMAGED]


def _load_by_pillow(data: bytes) -> tuple[Image.Image, list[str]]:
    """Open and decode by Pillow; return the image and notes on format and frames. Raises BadImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are bounded here; EXIF noise says nothing about pixels
            image = _open_heif(data) if _is_heic(data) else Image.open(io.BytesIO(data), formats=FORMATS)
            check_size(*image.size)
            frames = getattr(image, "n_frames", 1)
            image.load()
            is_16_bit = has_16_bits(data, image)
    except UnidentifiedImageError as error:
        raise _identify_refused(data) from error
    except Image.DecompressionBombError as error:
        raise BadImageError("too-large", str(error)) from error
    except PARSER_ERRORS as error:
        raise BadImageError("corrupt", f"{type(error).__name__}: {error}") from error
    bits = ["was 16 bits a channel"] if is_16_bit else []
    return image, [f"was {image.format}", *bits, *([f"first of {frames} frames"] if frames > 1 else [])]


def _read_brands(data: bytes) -> set[bytes]:
    """Return the brands in the header of an ISO media file; empty for any other file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 512)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))}


def _is_heic(data: bytes) -> bool:
    """Return whether a file is HEIC and not AVIF, which uses the same container."""
    brands = _read_brands(data)
    return bool(brands & _HEIC_BRANDS) and not brands & _AVIF_BRANDS


def _open_heif(data: bytes) -> Image.Image:
    """Open a HEIC file upright. Raises BadImageError where pillow-heif is not installed."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        remedy = "install pillow-heif for it: pip install 'alexstream[heif]'"
        raise BadImageError("unsupported-format", f"HEIC is not read here; {remedy}") from error
    try:
        image: Image.Image = HeifImageFile(io.BytesIO(data))
    except SyntaxError as error:
        raise BadImageError("corrupt", f"HEIC that cannot be read ({error})") from error
    return image


def has_16_bits(data: bytes, image: Image.Image) -> bool:
    """Return whether Pillow reduced 16 bits a channel to 8 (it drops the lower byte: at most one level off)."""
    bits = data[24] if image.format == "PNG" else max(getattr(image, "tag_v2", {}).get(258, (8,)))
    return image.mode in ("RGB", "RGBA", "LA", "RGBX", "CMYK") and bits == 16


def _refuse_inverted_tiff(image: Image.Image) -> None:
    """Raise BadImageError for 16-bit TIFFs whose zero is white, which Pillow reads as negatives."""
    if image.format == "TIFF" and image.mode.startswith("I") and getattr(image, "tag_v2", {}).get(262) == 0:
        raise BadImageError("unsupported-mode", "16-bit TIFF whose zero is white")


def _identify_refused(data: bytes) -> BadImageError:
    """Return the error that names what a file is instead of an image, where its first bytes tell."""
    for magic, name in _UNSUPPORTED_IMAGES.items():
        if data.startswith(magic):
            return BadImageError("unsupported-format", f"{name} is not read")
    if data[4:8] == b"ftyp":
        return _identify_by_brand(_read_brands(data))
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return BadImageError("unsupported-format", "SVG is not read")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return BadImageError("not-an-image", "a web page (HTML or XML)")
    for magic, name in _OTHER_FILES.items():
        if data.startswith(magic):
            return BadImageError("not-an-image", name)
    for magic, name in ((png.MAGIC, "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF")):
        if data.startswith(magic):
            return BadImageError("corrupt", f"{name} with a header that cannot be read")
    return BadImageError("not-an-image", f"no image format recognised (first bytes {data[:8].hex(' ')})")


def _identify_by_brand(brands: set[bytes]) -> BadImageError:
    if not brands & _AVIF_BRANDS:
        return BadImageError("not-an-image", "video is not read")
    if READS_AVIF:
        return BadImageError("corrupt", "AVIF that cannot be read")
    return BadImageError("unsupported-format", "AVIF is not read by this Pillow; install pillow 11.3 or newer")
