"""Pure: what a JPEG's segments say of it, and its pixels by libjpeg-turbo in strict mode.

A JPEG whose scan is damaged decodes to garbage without complaint unless the decoder's warnings are taken for
errors. Here they are, save for two kinds of junk that cannot touch a pixel; ``docs/images.md`` has the rules.

Shape legend: H, W = image height and width, C = 3 (R, G, B) or 4 (C, M, Y, K) channels.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from sharding.errors import BadImageError
from sharding.formats import PARSER_ERRORS

SOI, EOI, SOS, APP0, APP1, APP2, APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
_ARITHMETIC = (0xC9, 0xCA)
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
MAX_SCANS = 500  # a small file with thousands of progressive scans takes minutes


@dataclass(slots=True, kw_only=True)
class JpegHeader:
    """The segments before the first scan. ``sampling`` is (horizontal, vertical) of each component."""

    process: int = 0
    precision: int = 0
    width: int = 0
    height: int = 0
    components: bytes = b""
    sampling: tuple[tuple[int, int], ...] = ()
    is_adobe: bool = False
    adobe_transform: int | None = None
    has_jfif: bool = False
    exif: bytes = b""
    xmp: bytes = b""
    icc_parts: dict[int, bytes] = field(default_factory=dict)
    has_frames: bool = False
    segments: list[bytes] = field(default_factory=list)
    first_scan: int = 0
    junk_bytes: int = 0

    @property
    def icc(self) -> bytes:
        """The ICC profile, put together from its numbered parts."""
        return b"".join(part for _, part in sorted(self.icc_parts.items()))

    @property
    def is_plain(self) -> bool:
        """Whether every decoder gives the same pixels: Huffman-coded grayscale or YCbCr of the common kinds."""
        ycbcr = self.has_jfif or self.adobe_transform == 1 or (not self.is_adobe and self.components == b"\1\2\3")
        return self.process in _HUFFMAN and (len(self.components) == 1 or (len(self.components) == 3 and ycbcr))


def read_header(data: bytes) -> JpegHeader:
    """What the segments before the first scan say. Raises BadImageError if they end early or repeat the frame."""
    header = JpegHeader()
    at = 2
    while True:
        start, marker = _next_marker(data, at)
        header.junk_bytes += len(data[at:start].rstrip(b"\xff"))  # any number of FF before a marker is allowed
        if marker in (SOI, EOI):
            raise BadImageError("corrupt", "JPEG header ends without a scan")
        if marker in _ALONE:
            at = start + 2
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if end > len(data) or end < start + 4:
            raise BadImageError("corrupt", "JPEG header is cut off")
        if marker == SOS:
            break
        header.segments.append(data[start:end])
        _read_segment(header, marker, data[start + 4 : end])
        at = end
    header.first_scan = start
    if not header.components:
        raise BadImageError("corrupt", "JPEG scan without a frame header")
    return header


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """Where the next marker lies and which it is, as libjpeg looks for it: FF 00 is none."""
    while True:
        start = data.find(b"\xff", at)
        if start < 0 or start + 1 >= len(data):
            raise BadImageError("corrupt", "JPEG header is cut off")
        if data[start + 1] not in (0x00, 0xFF):
            return start, data[start + 1]
        at = start + 1


def _read_segment(header: JpegHeader, marker: int, body: bytes) -> None:
    if marker in _FRAMES:
        _read_frame(header, marker, body)
    elif marker == APP0 and body.startswith(b"JFIF\0"):
        header.has_jfif = True
    elif marker == APP1 and body.startswith(b"Exif\0"):
        header.exif = header.exif or body
    elif marker == APP1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        header.xmp = body
    elif marker == APP2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
        header.icc_parts[body[12]] = body[14:]
    elif marker == APP2 and body.startswith(b"MPF\0"):
        header.has_frames = True
    elif marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
        header.is_adobe, header.adobe_transform = True, body[11]


def _read_frame(header: JpegHeader, marker: int, body: bytes) -> None:
    if header.components:
        raise BadImageError("corrupt", "JPEG with two frame headers")
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise BadImageError("corrupt", "JPEG frame header of the wrong length")
    header.process = marker
    header.precision, header.height, header.width, _ = struct.unpack(">BHHB", body[:6])
    header.components = body[6::3]
    header.sampling = tuple((factor >> 4, factor & 15) for factor in body[7::3])


def refuse_unsupported(header: JpegHeader) -> None:
    """Raises BadImageError for the JPEGs that no decoder here turns into right 8-bit pixels."""
    if header.process not in (*_HUFFMAN, *_ARITHMETIC):
        raise BadImageError("unsupported-jpeg", f"lossless or hierarchical JPEG (SOF{header.process - 0xC0})")
    if header.precision != 8:
        raise BadImageError("unsupported-jpeg", f"JPEG with {header.precision} bits a sample")
    if not header.width or not header.height:
        raise BadImageError("corrupt", f"JPEG of {header.width}x{header.height} pixels")
    if len(header.components) not in (1, 3, 4):
        raise BadImageError("unsupported-jpeg", f"JPEG with {len(header.components)} components")


def decode_strictly(data: bytes, header: JpegHeader) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels, uint8 (H, W, 3) R, G, B or (H, W, 4) C, M, Y, K as stored, and notes on the junk that was left out.

    Raises BadImageError (``corrupt``) for anything that libjpeg warns of, and for scans that are missing.
    """
    notes = _check_scans(data, header)
    if header.junk_bytes:
        data = b"\xff\xd8" + b"".join(header.segments) + data[header.first_scan :]
        notes.append("junk in the header")
    try:
        return _decode(data, header), notes
    except ValueError as error:
        if "subsampling" in str(error):
            return _decode_unchecked(data), [*notes, "scan not checked"]
        mended = _without_zeros_at_end(data, str(error))
        if mended is None:
            raise _refusal(error) from error
    try:
        return _decode(mended, header), [*notes, "zeros after the scan"]
    except ValueError as error:
        raise _refusal(error) from error


def _decode(data: bytes, header: JpegHeader) -> NDArray[np.uint8]:
    colours = "CMYK" if len(header.components) == 4 else "RGB"
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colours)
    if pixels.shape[:2] != (header.height, header.width):
        raise ValueError("the decoder reads another size than the header says")
    return pixels


def _decode_unchecked(data: bytes) -> NDArray[np.uint8]:
    """By Pillow, which knows all sampling factors but keeps the decoder's warnings to itself."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            pixels = np.asarray(image if image.mode == "CMYK" else image.convert("RGB"))
            return 255 - pixels if image.mode == "CMYK" else pixels
    except PARSER_ERRORS as error:
        raise BadImageError("corrupt", f"{type(error).__name__}: {error}") from error


def _refusal(error: ValueError) -> BadImageError:
    unsupported = "rithmetic" in str(error) or "nsupported" in str(error)
    return BadImageError("unsupported-jpeg" if unsupported else "corrupt", str(error))


def _without_zeros_at_end(data: bytes, warning: str) -> bytes | None:
    """The file without the zero bytes between its scan and its end marker; None if that is not what was warned of.

    Only zeros: of 330 random bit errors that libjpeg reports as "extraneous bytes" not one left zeros there, but
    nearly all left a picture that is visibly wrong.
    """
    found = re.fullmatch(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9", warning)
    if not found:
        return None
    end = next((start for start, marker in _markers(data, 2) if marker == EOI), 0)
    junk_from = end - int(found[1])
    return data[:junk_from] + data[end:] if end and not data[junk_from:end].strip(b"\0") else None


def _markers(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Start and code of each marker from ``at`` on, up to the first end of image; scan data is passed over."""
    while found := _MARKER.search(data, at):
        start, marker = found.end() - 2, found[1][0]
        yield start, marker
        if marker == EOI:
            return
        alone = marker in _ALONE or marker == SOI
        at = start + 2 + (0 if alone else int.from_bytes(data[start + 2 : start + 4], "big"))


def _check_scans(data: bytes, header: JpegHeader) -> list[str]:
    """Whether the scans together hold the whole picture: libjpeg shows grey or blur for what is missing, silently.

    Raises BadImageError if a component has no base values; gives a note if only detail is missing.
    """
    number = len(header.components)
    if header.process in (0xC0, 0xC1, 0xC9) and data[header.first_scan + 4 : header.first_scan + 5] == bytes([number]):
        return []  # one scan with all components
    starts = [start for start, marker in _markers(data, header.first_scan) if marker == SOS]
    if len(starts) > MAX_SCANS:
        raise BadImageError("corrupt", f"{len(starts)} scans, more than {MAX_SCANS}")
    low_bit = np.full((256, 64), 255, np.uint8)  # lowest bit yet received, of each component and coefficient
    for start in starts:
        _receive(low_bit, data[start + 4 : start + 520] + bytes(520), header)
    received = low_bit[list(header.components)]
    if (received[:, 0] > 0).any():
        raise BadImageError("corrupt", "scans of the picture are missing")
    return ["progressive scans missing"] if (received > 0).any() else []


def _receive(low_bit: NDArray[Any], scan: bytes, header: JpegHeader) -> None:
    number = scan[0]
    components, (first, last, bits) = scan[1 : 1 + 2 * number : 2], scan[1 + 2 * number : 4 + 2 * number]
    sequential = header.process not in (0xC2, 0xCA)
    for component in components:
        low_bit[component, 0 if sequential else first : 64 if sequential else last + 1] = 0 if sequential else bits & 15
