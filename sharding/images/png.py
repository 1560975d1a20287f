"""Check the chunks of a PNG: those that its pixels need must be intact, damage in others costs only these; pure.

Metadata is not decompressed here. Pillow refuses a PNG for damaged or merely large metadata; ``readings`` offers it the
same pixels with less and less metadata.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from alexstream.core.errors import BadImageError
from alexstream.core.text import quote_value

MAGIC = b"\x89PNG\r\n\x1a\n"
DAMAGED, UNREADABLE, NO_END = "damaged metadata", "unreadable metadata", "no end mark"
PIECE_BYTES, MAX_PIXEL_BYTES = 1 << 20, 1 << 30
MOST_EXTRA = 1 << 20  # bytes behind the last row: some writers leave a little there
MAX_CANDIDATES = 16  # positions tried as the start of the next chunk
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS")
_ANCILLARY = 0x20  # bit of the first letter of a chunk's kind: a decoder may skip it
_COMMON_CHUNKS = frozenset((
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"hIST", b"pHYs",
    b"tIME", b"tEXt", b"zTXt", b"iTXt", b"eXIf",
))  # fmt: skip
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # first column and row of each pass, and its strides
_ANIMATION_CHUNKS = (b"acTL", b"fcTL", b"fdAT")
_ORIENTATION_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # text chunks that may hold an orientation
_KNOWN_KINDS = re.compile(rb"IHDR|PLTE|IDAT|tRNS|IEND")


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@dataclass(slots=True, kw_only=True)
class Chunks:
    """The sound chunks of a PNG up to its end mark, each as (kind, start, end), and notes on damage.

    ``last_pixels``: the rest of a last ``IDAT`` that is truncated after the end of the compressed pixels.
    """

    data: bytes
    intact: list[tuple[bytes, int, int]] = field(default_factory=list)
    truncated_pixels: bytes = b""
    has_resynced: bool = False
    notes: list[str] = field(default_factory=list)

    def add_note(self, words: str) -> None:
        """Add a note on damage, once."""
        if words not in self.notes:
            self.notes.append(words)

    def list_versions(self) -> list[bytes]:
        """Return versions of the file to try in turn: as is (if sound), without most metadata, without any."""
        some = self._join_chunks(
            lambda kind, body: kind in (*_ANIMATION_CHUNKS, b"iCCP", b"eXIf") or body.startswith(_ORIENTATION_TEXTS)
        )
        return [*([] if self.notes else [self.data]), some, self._join_chunks(lambda kind, body: False)]

    def _join_chunks(self, is_wanted: Callable[[bytes, bytes], bool]) -> bytes:
        wanted = [
            self.data[start:end]
            for kind, start, end in self.intact
            if kind in _PIXEL_CHUNKS or is_wanted(kind, self.data[start + 8 : start + 40])
        ]
        last = [make_chunk(b"IDAT", self.truncated_pixels)] if self.truncated_pixels else []
        return b"".join([MAGIC, *wanted, *last, make_chunk(b"IEND", b"")])


def read_chunks(data: bytes) -> Chunks:
    """Walk the chunks of a PNG. Raises BadImageError if one that pixels depend on is damaged, cut off or missing."""
    chunks = Chunks(data=data)
    at, kind = len(MAGIC), b""
    while kind != b"IEND" and at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if _is_intact(data, at, end):
            chunks.intact.append((kind, at, end))
        else:
            end = _skip_damaged(chunks, kind, at, end)
        at = end
    _check_complete(chunks)
    _check_rows(chunks)
    if chunks.intact[-1][0] != b"IEND":
        chunks.add_note(NO_END)
        if not _is_complete(chunks, chunks.truncated_pixels):
            raise BadImageError("corrupt", "PNG is cut off in its pixels")
    return chunks


def is_plain(data: bytes) -> bool:
    """Return whether every reader sees the same pixels: 8 bits, no transparency, only common chunks."""
    at, is_known = len(MAGIC), data[24] == 8 and data[25] in (0, 2, 3)
    while is_known and (kind := data[at + 4 : at + 8]) != b"IEND":
        is_known = kind in _COMMON_CHUNKS
        at += 12 + int.from_bytes(data[at : at + 4])
    return is_known


def check_pixel_bytes(data: bytes) -> None:
    """Decompress the pixels of a PNG; raise BadImageError if they end before its last row, or far behind it.

    Trusts the lengths of chunks and computes no checksum, as decoders see to both.
    """
    _check_rows(Chunks(data=data, intact=list(_iter_chunks(data))))


def strip_metadata(data: bytes) -> bytes:
    """Return a PNG without the chunks that its pixels do not need; ``data`` itself if it has none.

    libpng decompresses texts: 8 KB of the file become 8 MB, a thousand times.
    """
    chunks = list(_iter_chunks(data))
    needed = [(start, end) for kind, start, end in chunks if kind in _PIXEL_CHUNKS or not kind[0] & _ANCILLARY]
    return data if len(needed) == len(chunks) else MAGIC + b"".join(data[start:end] for start, end in needed)


def _iter_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk up to the end mark; the last may end behind the file."""
    at, kind = len(MAGIC), b""
    while kind != b"IEND" and at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at, at + 12 + length
        at += 12 + length


def _is_intact(data: bytes, at: int, end: int) -> bool:
    return end <= len(data) and zlib.crc32(memoryview(data)[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])


def _skip_damaged(chunks: Chunks, kind: bytes, at: int, end: int) -> int:
    """Return where to continue after a damaged chunk. Raises BadImageError if the pixels depend on it."""
    data, name = chunks.data, kind.decode("latin-1")
    if kind == b"IDAT" and end > len(data) and _is_complete(chunks, data[at + 8 :]):
        chunks.truncated_pixels = data[at + 8 :]
        return len(data)
    if kind in _PIXEL_CHUNKS:
        how = "has a wrong checksum" if end <= len(data) else "is cut off"
        raise BadImageError("corrupt", f"PNG chunk {quote_value(name)} {how}")
    if kind == b"IEND":
        return end
    chunks.add_note(DAMAGED)
    if data[end + 4 : end + 8] in _COMMON_CHUNKS or _is_intact(
        data, end, end + 12 + int.from_bytes(data[end : end + 4])
    ):
        return end
    return _find_next_chunk(chunks, at + 8)


def _find_next_chunk(chunks: Chunks, at: int) -> int:
    """Return where the next sound pixel chunk begins, after one with a wrong length. At most once per file."""
    if chunks.has_resynced:
        raise BadImageError("corrupt", "PNG chunks with wrong lengths")
    chunks.has_resynced = True
    for found in islice(_KNOWN_KINDS.finditer(chunks.data, at), MAX_CANDIDATES):
        start = found.start() - 4
        length = int.from_bytes(chunks.data[start : start + 4])
        if found[0] == b"tRNS" or _is_intact(chunks.data, start, start + 12 + length):
            return start
    return len(chunks.data)


def _is_complete(chunks: Chunks, rest: bytes) -> bool:
    """Return whether the compressed pixels reach their end and checksum; ``rest``: part of a truncated chunk."""
    return _decompress_pixels(chunks, rest)[1]


def _decompress_pixels(chunks: Chunks, rest: bytes) -> tuple[int, bool]:
    """Return the number of decompressed bytes, and whether end and checksum are reached.

    No more is decompressed than the rows take, and ``MOST_EXTRA``.
    """
    bodies = [chunks.data[start + 8 : end - 4] for kind, start, end in chunks.intact if kind == b"IDAT"]
    stream, given, most = zlib.decompressobj(), 0, min(_count_row_bytes(chunks) + MOST_EXTRA, MAX_PIXEL_BYTES)
    try:
        for body in (*bodies, rest):
            while body and not stream.eof and given < most:
                given += len(stream.decompress(body, PIECE_BYTES))
                body = stream.unconsumed_tail
    except zlib.error:
        return given, False
    return given, stream.eof


def _count_row_bytes(chunks: Chunks) -> int:
    """Return how many bytes the rows take, before they are compressed."""
    width, height, bits, colors, _, _, interlaced = struct.unpack(">IIBBBBB", chunks.data[16:29].ljust(13, b"\0"))
    bits *= {2: 3, 4: 2, 6: 4}.get(colors, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [((width - x + dx - 1) // dx, (height - y + dy - 1) // dy) for x, y, dx, dy in passes]
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0)


def _check_rows(chunks: Chunks) -> None:
    """Raise BadImageError if the compressed pixels end before the last row, or far behind it.

    Pillow shows black for what is missing. A file of kilobytes may unpack to gigabytes behind its last row.
    """
    wanted = _count_row_bytes(chunks)
    if wanted > MAX_PIXEL_BYTES:
        return
    there, has_ended = _decompress_pixels(chunks, chunks.truncated_pixels)
    if has_ended and there < wanted:
        raise BadImageError("corrupt", f"PNG has {there:,} bytes of pixels, expected {wanted:,}")
    if there >= wanted + MOST_EXTRA:
        raise BadImageError("corrupt", f"PNG has far more bytes of pixels than the {wanted:,} that its size takes")


def _check_complete(chunks: Chunks) -> None:
    """Raise BadImageError unless header, pixels and any palette needed are each there once, in order."""
    kinds = [kind for kind, _, _ in chunks.intact]
    if not kinds or kinds[0] != b"IHDR" or (b"IDAT" not in kinds and not chunks.truncated_pixels):
        raise BadImageError("corrupt", "PNG is cut off before its pixels")
    if kinds.count(b"IHDR") > 1 or chunks.data[8:12] != b"\0\0\0\x0d" or chunks.data[26:28] != b"\0\0":
        raise BadImageError("corrupt", "PNG with a header that cannot be read")
    if chunks.data[25] != 3:
        return
    if b"PLTE" not in kinds:
        raise BadImageError("corrupt", "PNG without its palette")
    before = kinds[: kinds.index(b"IDAT")] if b"IDAT" in kinds else kinds
    _, start, end = chunks.intact[kinds.index(b"PLTE")]
    colors, left = divmod(end - start - 12, 3)
    if kinds.count(b"PLTE") > 1 or b"PLTE" not in before or left or not 1 <= colors <= 256:
        raise BadImageError("corrupt", "PNG with a palette that is damaged, doubled or behind the pixels")
