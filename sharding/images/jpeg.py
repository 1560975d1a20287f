"""Parse the segments of a JPEG, and decode it by libjpeg-turbo in strict mode; pure.

A JPEG with a damaged scan decodes to garbage silently, unless the decoder's warnings are treated as errors. Here they
are, except for two kinds of junk that cannot affect a pixel; ``docs/images.md`` has the rules.

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

from alexstream.core.errors import BadImageError
from alexstream.sharding.images.formats import PARSER_ERRORS

DHT, SOI, EOI, SOS, APP0, APP1, APP2, APP14, COM = 0xC4, 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
HUFFMAN = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
PROGRESSIVE = 0xC2
_LOSSLESS = 0xC3
_ARITHMETIC = (0xC9, 0xCA)
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length field
_METADATA = frozenset((*range(0xE1, 0xEE), 0xEF, COM))  # all but APP0 and APP14, which define the color coding
DAMAGED = "damaged metadata"
_JFIF = b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0"
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
    num_exif: int = 0
    xmp: bytes = b""
    icc_parts: list[tuple[int, int, bytes]] = field(default_factory=list)
    has_frames: bool = False
    segments: list[bytes] = field(default_factory=list)
    first_scan: int = 0
    junk_bytes: int = 0
    is_damaged: bool = False
    was_searched: bool = False

    @property
    def icc(self) -> bytes:
        """The ICC profile, joined from its numbered parts; b"" if parts are missing or contradict each other."""
        parts = {number: part for number, _, part in self.icc_parts}
        counts = {count for _, count, _ in self.icc_parts}
        same = all(parts[number] == part for number, _, part in self.icc_parts)
        whole = len(counts) == 1 and sorted(parts) == list(range(1, max(counts) + 1))
        return b"".join(part for _, part in sorted(parts.items())) if same and whole else b""

    @property
    def has_sound_icc(self) -> bool:
        """True if there is no profile, or one with each part present once."""
        return not self.icc_parts or (bool(self.icc) and len(self.icc_parts) == self.icc_parts[0][1])

    @property
    def is_plain(self) -> bool:
        """True if every decoder gives the same pixels: Huffman-coded grayscale or YCbCr of common kinds."""
        ycbcr = self.has_jfif or self.adobe_transform == 1 or (not self.is_adobe and self.components == b"\1\2\3")
        brings_tables = any(segment[1] == DHT for segment in self.segments)
        known = len(self.components) == 1 or (len(self.components) == 3 and ycbcr)
        return self.process in HUFFMAN and brings_tables and known


def read_header(data: bytes) -> JpegHeader:
    """Parse the segments before the first scan. Raises BadImageError if they end early or repeat the frame."""
    header = JpegHeader()
    at = 2
    while True:
        start, marker = _find_next_marker(data, at)
        header.junk_bytes += len(data[at:start].rstrip(b"\xff"))  # any number of FF before a marker is allowed
        if marker in _STANDALONE:
            at = start + 2
            continue
        if marker in (SOI, EOI):
            raise BadImageError("corrupt", "JPEG header ends without a scan")
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        at = _find_end_of_metadata(data, header, start, end) if marker in _METADATA else end
        if at != end and not start + 4 <= end <= at:
            header.is_damaged = True
            continue
        if end > len(data) or end < start + 4:
            raise BadImageError("corrupt", "JPEG header is cut off")
        if marker == SOS:
            break
        header.segments.append(data[start:end])
        header.junk_bytes += at - end
        _read_segment(header, marker, data[start + 4 : end])
    header.first_scan = start
    if not header.components:
        raise BadImageError("corrupt", "JPEG scan without a frame header")
    return header


def _find_end_of_metadata(data: bytes, header: JpegHeader, start: int, end: int) -> int:
    """Return where the segments continue after metadata at ``start`` whose length says it ends at ``end``.

    That is ``end`` if a marker is there. If not, the length may be wrong, or junk may follow: then it is the first
    place from which each segment leads to the next up to a scan, or ``end`` without such a place. A picture within
    metadata (an Exif thumbnail) has such segments too, and is skipped. Searched once per file. Raises BadImageError if
    what follows may be such a picture's.
    """
    end = max(end, start + 4)
    if data[end : end + 1] == b"\xff" or header.was_searched:
        return end
    header.was_searched = True
    failed: set[int] = set()
    depth = 0
    for found in _MARKER.finditer(data, start + 4, start + 2 * 65536):
        if found[1][0] in (SOI, EOI):
            depth = max(0, depth + (1 if found[1][0] == SOI else -1))
        elif depth == 0 and _leads_to_scan(data, found.end() - 2, failed, has_frame=bool(header.components)):
            return found.end() - 2
    if data.count(b"\xff\xd8", start + 4, end) > data.count(b"\xff\xd9", start + 4, end):
        raise BadImageError("corrupt", "JPEG metadata of a wrong length")
    return end


def _leads_to_scan(data: bytes, at: int, failed: set[int], *, has_frame: bool) -> bool:
    """Return whether segments with a frame begin at ``at`` and lead to a scan; record failures in ``failed``."""
    passed = []
    while len(data) > at + 4 and data[at] == 0xFF and data[at + 1] not in (0x00, 0xFF, SOI, EOI, *_STANDALONE):
        if at in failed:
            break
        passed.append(at)
        length = int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] == SOS and has_frame and length == 6 + 2 * data[at + 4]:
            return True
        has_frame = has_frame or data[at + 1] in _FRAMES
        at += 2 + max(2, length)
    failed.update(passed)
    return False


def _find_next_marker(data: bytes, at: int) -> tuple[int, int]:
    """Return offset and code of the next marker, found as libjpeg does: FF 00 is none."""
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
    elif marker == APP0 and body.startswith(b"JFIF\0") and len(body) >= 14:
        header.has_jfif = True
        header.is_damaged = header.is_damaged or body[5] != 1  # decoders warn of an unknown major version
    elif marker == APP1 and body.startswith(b"Exif\0"):
        header.exif = header.exif or body
        header.num_exif += 1
    elif marker == APP1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        header.xmp = body
    elif marker == APP2 and body.startswith(b"ICC_PROFILE\0") and len(body) >= 14:
        header.icc_parts.append((body[12], body[13], body[14:]))
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
    """Raise BadImageError for JPEGs that no decoder here converts to correct 8-bit pixels."""
    if header.process not in (*HUFFMAN, *_ARITHMETIC, _LOSSLESS):
        raise BadImageError("unsupported-jpeg", f"hierarchical JPEG (SOF{header.process - 0xC0})")
    if header.precision != 8:
        raise BadImageError("unsupported-jpeg", f"JPEG with {header.precision} bits a sample")
    if not header.width or not header.height:
        raise BadImageError("corrupt", f"JPEG of {header.width}x{header.height} pixels")
    if len(header.components) not in (1, 3, 4):
        raise BadImageError("unsupported-jpeg", f"JPEG with {len(header.components)} components")


def decode_strictly(data: bytes, header: JpegHeader) -> tuple[NDArray[np.uint8], list[str]]:
    """Return pixels, uint8 (H, W, 3) R, G, B or (H, W, 4) C, M, Y, K as stored, and notes on what was dropped.

    Raises BadImageError (``corrupt``) for every warning of libjpeg, and for missing scans.
    """
    notes = _check_scans(data, header)
    if header.junk_bytes:
        notes.append("junk in the header")
    if header.is_damaged:
        notes.append(DAMAGED)
    if header.junk_bytes or header.is_damaged or not header.has_sound_icc:
        data = _strip_metadata(data, header)
    try:
        return _decode(data, header), notes
    except ValueError as error:
        if "subsampling" in str(error):
            return _decode_lenient(data), [*notes, "scan not checked"]
        mended = _strip_trailing_zeros(data, str(error))
        if mended is None:
            raise _decode_error(error) from error
    try:
        return _decode(mended, header), [*notes, "zeros after the scan"]
    except ValueError as error:
        raise _decode_error(error) from error


def _strip_metadata(data: bytes, header: JpegHeader) -> bytes:
    """Return the file reduced to the segments that a decoder needs, without junk."""
    wanted = [_JFIF if s[4:9] == b"JFIF\0" else s for s in header.segments if s[1] not in _METADATA]
    return b"\xff\xd8" + b"".join(wanted) + data[header.first_scan :]


def _decode(data: bytes, header: JpegHeader) -> NDArray[np.uint8]:
    colors = "CMYK" if len(header.components) == 4 else "RGB"
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colors)
    if pixels.shape[:2] != (header.height, header.width):
        raise ValueError("the decoder reads another size than the header says")
    return pixels


def _decode_lenient(data: bytes) -> NDArray[np.uint8]:
    """Decode by Pillow, which supports all sampling factors but hides the decoder's warnings."""
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            pixels = np.asarray(image if image.mode == "CMYK" else image.convert("RGB"))
            return 255 - pixels if image.mode == "CMYK" else pixels
    except PARSER_ERRORS as error:
        raise BadImageError("corrupt", f"{type(error).__name__}: {error}") from error


def _decode_error(error: ValueError) -> BadImageError:
    unsupported = "rithmetic" in str(error) or "nsupported" in str(error)
    return BadImageError("unsupported-jpeg" if unsupported else "corrupt", str(error))


def _strip_trailing_zeros(data: bytes, warning: str) -> bytes | None:
    """Return the file without the zeros between scan and end marker; None if the warning is another.

    Only zeros: of 330 random bit errors that libjpeg reports as "extraneous bytes" not one left zeros there, but nearly
    all left a picture that is visibly wrong.
    """
    found = re.fullmatch(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9", warning)
    if not found:
        return None
    end = next((start for start, marker in _iter_markers(data, 2) if marker == EOI), 0)
    junk_from = end - int(found[1])
    return data[:junk_from] + data[end:] if end and not data[junk_from:end].strip(b"\0") else None


def _iter_markers(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield offset and code of each marker from ``at`` up to the first end of image, skipping scan data."""
    while found := _MARKER.search(data, at):
        start, marker = found.end() - 2, found[1][0]
        yield start, marker
        if marker == EOI:
            return
        alone = marker in _STANDALONE or marker == SOI
        at = start + 2 + (0 if alone else int.from_bytes(data[start + 2 : start + 4], "big"))


def has_one_scan(data: bytes, header: JpegHeader) -> bool:
    """Return whether the first scan has all components; a sequential JPEG then has no other that is read."""
    return data[header.first_scan + 4 : header.first_scan + 5] == bytes([len(header.components)])


def find_scans(data: bytes, header: JpegHeader) -> list[int]:
    """Return the offsets of the scans. Raises BadImageError for more than ``MAX_SCANS``."""
    starts = [start for start, marker in _iter_markers(data, header.first_scan) if marker == SOS]
    if len(starts) > MAX_SCANS:
        raise BadImageError("corrupt", f"{len(starts)} scans, more than {MAX_SCANS}")
    return starts


def _check_scans(data: bytes, header: JpegHeader) -> list[str]:
    """Check that the scans together hold the whole picture: libjpeg silently shows gray or blur instead.

    Raises BadImageError if a component has no base values; returns a note if only detail is missing.
    """
    if header.process not in (PROGRESSIVE, 0xCA) and has_one_scan(data, header):
        return []
    starts = find_scans(data, header)
    low_bit = np.full((256, 64), 255, np.uint8)  # lowest bit received so far, by component and coefficient
    for start in starts:
        _record_scan(low_bit, data[start + 4 : start + 520] + bytes(520), header)
    received = low_bit[list(header.components)]
    if (received[:, 0] > 0).any():
        raise BadImageError("corrupt", "scans of the picture are missing")
    return ["progressive scans missing"] if (received > 0).any() else []


def _record_scan(low_bit: NDArray[Any], scan: bytes, header: JpegHeader) -> None:
    number = scan[0]
    components, (first, last, bits) = scan[1 : 1 + 2 * number : 2], scan[1 + 2 * number : 4 + 2 * number]
    sequential = header.process not in (0xC2, 0xCA)
    for component in components:
        low_bit[component, 0 if sequential else first : 64 if sequential else last + 1] = 0 if sequential else bits & 15
