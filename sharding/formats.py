"""Pure: the bytes of any file that is no JPEG → a Pillow image of a known format, checked before it is decoded.

Only the formats of ``FORMATS`` are ever opened: others of Pillow's run programs, or have no agreed way to RGB.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

from PIL import Image, UnidentifiedImageError

from sharding.errors import BadImageError

FORMATS = ("PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
# Decoded, this is 268 MB of RGB: far above any photograph of ImageNet, far below what exhausts a machine.
MAX_PIXELS = 89_478_485
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# Pillow's parsers raise many kinds of error on hostile bytes; each means that this file does not decode.
PARSER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, ArithmeticError, MemoryError,
    RuntimeError, NotImplementedError, AttributeError, struct.error, zlib.error,
)  # fmt: skip
_IMAGES = {
    b"8BPS": "Photoshop", b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript", b"\x00\x00\x01\x00": "icon",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL", b"qoif": "QOI", b"SIMPLE": "FITS", b"v/1\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR", b"gimp xcf": "GIMP",
}  # fmt: skip
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF"}
_OTHERS = {
    b"%PDF": "PDF", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "gzip data", b"RIFF": "audio or video",
    b"\x1a\x45\xdf\xa3": "video", b"\x7fELF": "a program", b"MZ": "a program",
}  # fmt: skip


def check_size(width: int, height: int) -> None:
    """Raises BadImageError (``too-large``) for more pixels than are ever decoded."""
    if width * height > MAX_PIXELS:
        raise BadImageError("too-large", f"{width}x{height} pixels, more than {MAX_PIXELS:,}")


def open_other(data: bytes, notes: list[str]) -> Image.Image:
    """Open and decode the first frame of a file in one of ``FORMATS``. Raises BadImageError with the reason."""
    if data.startswith(PNG_MAGIC):
        _check_png(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are bounded here; EXIF noise says nothing about pixels
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            check_size(*image.size)
            frames = getattr(image, "n_frames", 1)
            image.load()
            is_16_bit = has_16_bits(data, image)
    except UnidentifiedImageError as error:
        raise _named(data) from error
    except Image.DecompressionBombError as error:
        raise BadImageError("too-large", str(error)) from error
    except PARSER_ERRORS as error:
        raise BadImageError("corrupt", f"{type(error).__name__}: {error}") from error
    _refuse_unclear(image)
    notes.append(f"was {image.format}")
    if is_16_bit:
        notes.append("was 16 bits a channel")
    if frames > 1:
        notes.append(f"first of {frames} frames")
    return image


def has_16_bits(data: bytes, image: Image.Image) -> bool:
    """Whether Pillow reduced 16 bits a channel to 8 (it drops the lower byte: at most one level off)."""
    bits = data[24] if image.format == "PNG" else max(getattr(image, "tag_v2", {}).get(258, (8,)))
    return image.mode in ("RGB", "RGBA", "LA", "RGBX", "CMYK") and bits == 16


def _refuse_unclear(image: Image.Image) -> None:
    """16-bit TIFFs whose zero is white are read as negatives."""
    if image.format == "TIFF" and image.mode.startswith("I") and getattr(image, "tag_v2", {}).get(262) == 0:
        raise BadImageError("unsupported-mode", "16-bit TIFF whose zero is white")


def _check_png(data: bytes) -> None:
    """Every chunk up to IEND is whole and has its checksum: Pillow checks those of the pixels not at all."""
    at, kind = len(PNG_MAGIC), b""
    view = memoryview(data)
    while kind != b"IEND":
        if at + 12 > len(data):
            raise BadImageError("corrupt", "PNG is cut off before its end")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise BadImageError("corrupt", f"PNG is cut off within {kind!r}")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise BadImageError("corrupt", f"PNG chunk {kind.decode('latin-1')!r} has a wrong checksum")
        at = end


def _named(data: bytes) -> BadImageError:
    """Say what a file is that is no image of a known format, where its first bytes tell."""
    for magic, name in _IMAGES.items():
        if data.startswith(magic):
            return BadImageError("unsupported-format", f"{name} is not read")
    if data[4:8] == b"ftyp":
        brand = _BRANDS.get(data[8:12])
        return BadImageError("unsupported-format" if brand else "not-an-image", f"{brand or 'video'} is not read")
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        return BadImageError("unsupported-format", "SVG is not read")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return BadImageError("not-an-image", "a web page (HTML or XML)")
    for magic, name in _OTHERS.items():
        if data.startswith(magic):
            return BadImageError("not-an-image", name)
    for magic, name in ((PNG_MAGIC, "PNG"), (b"GIF8", "GIF"), (b"BM", "BMP"), (b"II*\0", "TIFF"), (b"MM\0*", "TIFF")):
        if data.startswith(magic):
            return BadImageError("corrupt", f"{name} with a header that cannot be read")
    return BadImageError("not-an-image", f"no image format recognised (first bytes {data[:8].hex(' ')})")
