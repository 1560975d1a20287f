"""Check that a stored sample is what DATASET v1 allows, from its first bytes, before any decoder sees it; pure.

Data sets may come from strangers, and libraries decode more than intended: Pillow starts Ghostscript for PostScript,
DALI accepts TIFF and JPEG 2000. The stream, ``verify``, ``SampleLookup`` and the references all check here first;
``fused.c`` makes the same checks on the samples that it reads itself.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field

from PIL import Image

from alexstream.core.errors import BadImageError
from alexstream.core.text import quote_value
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.images import jpeg, png
from alexstream.sharding.images.formats import PARSER_ERRORS, check_size

STORED_EXTENSIONS = {"jpeg": ("jpg",), "raw": ("rgb",), "keep": ("jpg", "png", "webp")}  # by encoding
MAX_JPEG_PIXELS_PER_BYTE, MAX_INFLATED_PER_BYTE = (
    512,
    1032,
)  # most pixels (1 bit per 8x8 block) and most inflated bytes that one byte can encode
_PILLOW_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclass(slots=True)
class SampleChecker:
    """Checks the samples of one data set, one after another.

    All JPEGs of a ``jpeg`` set start with the same bytes up to their pixels. A header that has passed is remembered,
    and comparing the next ones with it takes a microsecond.
    """

    recipe: EncodeRecipe
    _passed: bytes = field(default=b"", init=False)

    def check_length(self, size: int, extension: str) -> None:
        """Raise BadImageError if no sample of the recipe has ``size`` bytes or this extension.

        Called before the sample is read.
        """
        encoding, most = self.recipe.encoding, self.recipe.most_bytes
        if extension not in STORED_EXTENSIONS[encoding]:
            expected = " or ".join(STORED_EXTENSIONS[encoding])
            raise BadImageError(
                "corrupt", f"its extension is {quote_value(extension)}; a {encoding} data set has {expected}"
            )
        if encoding == "raw" and size != most:
            raise BadImageError("corrupt", f"{size} bytes, expected {most}")
        if size > most:
            raise BadImageError("corrupt", f"{size} bytes, more than {most}")

    def check(self, content: bytes, extension: str) -> tuple[int, int]:
        """Check a sample and return its height and width, pixels.

        Raises BadImageError if its length, first bytes, size or scans are not those of the recipe.
        """
        self.check_length(len(content), extension)
        if self.recipe.encoding == "keep":
            return read_image_size(content, extension)
        size = self.recipe.size_px, self.recipe.size_px
        if extension == "rgb" or (self._passed and content.startswith(self._passed)):
            return size
        header = _read_jpeg_header(content)
        if (header.height, header.width) != size:
            raise BadImageError("corrupt", f"{header.width}x{header.height} pixels, expected {size[1]}x{size[0]}")
        if not _is_sequential(content, header):
            raise BadImageError("corrupt", "JPEG with several scans, expected a baseline one")
        start = header.first_scan
        self._passed = content[: start + 2 + int.from_bytes(content[start + 2 : start + 4])]
        return size

    def passes(self, content: bytes, extension: str) -> bool:
        """Return whether ``check`` accepts a sample."""
        try:
            self.check(content, extension)
        except BadImageError:
            return False
        return True


def read_image_size(content: bytes, extension: str) -> tuple[int, int]:
    """Read height and width, pixels, of an original in ``jpg``, ``png`` or ``webp`` from its header.

    Raises BadImageError if it does not begin as such a file does, has more pixels than are ever decoded or than its
    bytes can hold, or more scans than are ever decoded.
    """
    height, width = {"jpg": _read_jpeg_size, "png": _read_png_size, "webp": _read_webp_size}[extension](content)
    if not height or not width:
        raise BadImageError("corrupt", f"{width}x{height} pixels")
    check_size(width, height)
    return height, width


def open_stored_image(content: bytes) -> Image.Image:
    """Decode a stored image file by Pillow to RGB. Raises BadImageError if it is invalid or does not decode."""
    extension = _guess_extension(content)
    height, width = read_image_size(content, extension)
    if extension == "png":
        png.check_pixel_bytes(content)
    try:
        with Image.open(io.BytesIO(content), formats=(_PILLOW_FORMATS[extension],)) as image:
            if image.size != (width, height):  # a PNG may have a second header
                raise BadImageError("corrupt", f"{width}x{height} pixels, and {image.width}x{image.height} further on")
            return image.convert("RGB")
    except (*PARSER_ERRORS, Image.DecompressionBombError) as error:
        raise BadImageError("corrupt", f"{type(error).__name__}: {error}") from error


def prepare_png(content: bytes, *, is_checked: bool) -> bytes:
    """Return a stored PNG without its metadata, for decoders that decompress without a limit.

    ``is_checked``: its pixels have passed this check before. Raises BadImageError if they go on far behind the last
    row, or end before it.
    """
    if not is_checked:
        png.check_pixel_bytes(content)
    return png.strip_metadata(content)


def _guess_extension(content: bytes) -> str:
    """Return the extension that the first bytes of a file suggest."""
    if content.startswith(png.MAGIC):
        return "png"
    return "webp" if content.startswith(b"RIFF") else "jpg"


def _read_jpeg_header(content: bytes) -> jpeg.JpegHeader:
    if not content.startswith(b"\xff\xd8\xff"):
        raise _wrong_magic_error(content, "JPEG")
    header = jpeg.read_header(content)
    jpeg.refuse_unsupported(header)
    if header.process not in jpeg.HUFFMAN or len(header.components) not in (1, 3):
        raise BadImageError("unsupported-jpeg", "JPEG of a kind that no data set has (arithmetic, lossless or CMYK)")
    if header.junk_bytes or header.is_damaged:  # decoders may resume at different places
        raise BadImageError("corrupt", "JPEG with junk in its header")
    return header


def _is_sequential(content: bytes, header: jpeg.JpegHeader) -> bool:
    """Return whether a JPEG has one sequential scan, as the baseline JPEGs that we write."""
    return header.process != jpeg.PROGRESSIVE and jpeg.has_one_scan(content, header)


def _read_jpeg_size(content: bytes) -> tuple[int, int]:
    header = _read_jpeg_header(content)
    if content.count(b"\xff\xda") > jpeg.MAX_SCANS and not _is_sequential(content, header):
        jpeg.find_scans(content, header)
    _check_plausible_size(content, header.width, header.height, header.width * header.height, MAX_JPEG_PIXELS_PER_BYTE)
    return header.height, header.width


def _check_plausible_size(content: bytes, width: int, height: int, wanted: int, most: int) -> None:
    """Raise BadImageError if ``content``, at ``most`` units per byte, is too short for ``wanted`` units."""
    if wanted > most * len(content):
        raise BadImageError("corrupt", f"{width}x{height} pixels, which {len(content)} bytes cannot hold")


def _read_png_size(content: bytes) -> tuple[int, int]:
    if not content.startswith(png.MAGIC):
        raise _wrong_magic_error(content, "PNG")
    if content[8:16] != b"\0\0\0\x0dIHDR" or len(content) < 33:
        raise BadImageError("corrupt", "PNG without a header")
    width, height, depth, kind = struct.unpack_from(">IIBB", content, 16)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 1)
    check_size(width, height)
    _check_plausible_size(content, width, height, width * height * depth * channels // 8, MAX_INFLATED_PER_BYTE)
    return height, width


def _read_webp_size(content: bytes) -> tuple[int, int]:
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        raise _wrong_magic_error(content, "WebP")
    if len(content) < 30:
        raise BadImageError("corrupt", "WebP without a header")
    kind = content[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(content[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L" and content[20] == 0x2F:
        bits = int.from_bytes(content[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and content[23:26] == b"\x9d\x01\x2a":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", content, 26))
    else:
        raise BadImageError("corrupt", "WebP without a header")
    return height, width


def _wrong_magic_error(content: bytes, kind: str) -> BadImageError:
    return BadImageError("corrupt", f"begins with {content[:8].hex(' ') or 'nothing'}, not as a {kind} does")
