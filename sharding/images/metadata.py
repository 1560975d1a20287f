"""Cut damaged metadata out of GIF, TIFF, WebP and AVIF files, so that it does not cost the pixels; pure.

PNG and JPEG have this in ``png`` and ``jpeg``. Nothing that a pixel depends on is changed or left out.
"""

from __future__ import annotations

import re
import struct

_GIF_CONTROL, _GIF_EXTENSION, _GIF_IMAGE = 0xF9, 0x21, 0x2C
_WEBP_PIXELS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP")
_AVIF_EXIF = re.compile(rb"(infe\x02.{3}.{4})(?:Exif|mime)", re.DOTALL)
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
# Names, times and resolution; XMP, IPTC, Photoshop's resources, profile, Exif and GPS.
_TIFF_METADATA = frozenset(
    (269, 270, 271, 272, 282, 283, 285, 305, 306, 315, 316, 700, 33432, 33723, 34377, 34665, 34675, 34853)
)


def cut_metadata(data: bytes) -> bytes | None:
    """Return a file without metadata that may be damaged; None for other formats, and where nothing is to be cut."""
    cut = None
    if data.startswith((b"GIF87a", b"GIF89a")):
        cut = _cut_gif(data)
    elif data.startswith((b"II*\0", b"MM\0*")):
        cut = _cut_tiff(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        cut = _cut_webp(data)
    elif data[4:8] == b"ftyp":
        cut = _AVIF_EXIF.sub(rb"\1free", data)
    return cut if cut != data else None


def _cut_gif(data: bytes) -> bytes | None:
    """Return a GIF without the extensions before its first image, but for the one that has its transparency."""
    if len(data) < 13:
        return None
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    kept = data[:at]
    while data[at : at + 1] == bytes([_GIF_EXTENSION]):
        end = at + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        if data[at + 1 : at + 2] == bytes([_GIF_CONTROL]):
            kept += data[at : end + 1]
        at = end + 1
    return kept + data[at:] if data[at : at + 1] == bytes([_GIF_IMAGE]) else None


def _cut_tiff(data: bytes) -> bytes | None:
    """Return a TIFF without metadata that lies outside the file, and without a next picture there."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4) if len(data) >= 8 else (len(data),)
    if at + 2 > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}H", data, at)
    end = at + 2 + 12 * count
    if end + 4 > len(data):
        return None
    entries = [data[start : start + 12] for start in range(at + 2, end, 12)]
    kept = [entry for entry in entries if not _lies_outside(entry, order, len(data))]
    (following,) = struct.unpack_from(f"{order}I", data, end)
    if following + 2 > len(data):
        following = 0
    head = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + struct.pack(f"{order}I", following)
    return data[:at] + head + bytes(end + 4 - at - len(head)) + data[end + 4 :]


def _lies_outside(entry: bytes, order: str, size: int) -> bool:
    """Return whether a TIFF entry is metadata whose value is outside a file of ``size`` bytes."""
    tag, kind, count, offset = struct.unpack(f"{order}HHII", entry)
    length = _TIFF_SIZES.get(kind, 0) * count
    return tag in _TIFF_METADATA and length > 4 and offset + length > size


def _cut_webp(data: bytes) -> bytes | None:
    """Return a WebP of its whole chunks with its right length; None if one with pixels is cut off."""
    chunks, at = b"", 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length
        if end > len(data):
            if name in _WEBP_PIXELS:
                return None
            break
        if name in _WEBP_PIXELS:
            chunks += data[at:end] + bytes(length % 2)
        at = end + length % 2
    if chunks.startswith(b"VP8X") and len(chunks) > 8:
        chunks = chunks[:8] + bytes([chunks[8] & ~0x0C]) + chunks[9:]  # the flags of Exif and XMP
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
