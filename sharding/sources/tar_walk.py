"""The members of a tar as byte ranges, from its headers alone; a tar inside a tar is a byte range too.

USTAR, GNU (long names, sparse files) and PAX headers; the contents are jumped over, so that listing 1.28 million
images reads half a kilobyte of each.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from sharding.errors import SourceError
from sharding.sources.place import Bytes, RangeFile

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(BLOCK)
_FILES = b"0\0" + b"7"
_NO_FILES = {b"1": "hard link", b"2": "symbolic link", b"3": "character device", b"4": "block device", b"6": "pipe"}
_PREFIXES = b"xgLKX"  # headers that describe the next one
_MAX_EXTRA = 1 << 20  # no honest long name or PAX header is larger
_MAX_NAME = 4096  # characters; no file system holds more, and a global header would repeat it for every member
_RECORD = re.compile(rb"(\d{1,8}) ([^=]+)=")
_USED = ("path", "linkpath", "size")  # of PAX records, and those of sparse files


class Member(NamedTuple):
    """One member: its name as stored, its byte range in the file, and why it is no plain file ("" if it is one)."""

    name: str
    offset: int
    size: int
    reason: str


def walk_tar(file: RangeFile | Bytes, where: str, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """All members but folders, in order, of the tar that lies from ``start`` to ``end`` in ``file``.

    ``where`` names the tar in errors. Raises SourceError for a tar that is cut off or damaged, with the byte, and for
    a second archive behind the end of the first, whose members would be lost.
    """
    end = file.size if end is None else end
    at, name, extra, everywhere = start, "", dict[str, str](), dict[str, str]()
    while True:
        header = _header(file, at, end, where, name)
        if header == _ZEROS:
            return _check_tail(file, at + BLOCK, end, where)
        kind = header[156:157]
        if kind in _FILES and not extra and not everywhere and header[124] < 128:
            name, size, data = _plain_name(header), _octal(header[124:136], where, at), at + BLOCK
            reason = "folder" if name.endswith("/") else ""
        elif kind in _PREFIXES:
            at = _read_extra(file, header, at, end, where, everywhere if kind == b"g" else extra)
            continue
        else:
            name, size, data, reason = _special(file, header, at, where, {**everywhere, **extra})
            extra = {}
        if data + size > end:
            raise SourceError(_cut_off(where, file, end, f"inside {name!r}, which goes to byte {data + size:,}"))
        if len(name) > _MAX_NAME:
            name, reason = name[:_MAX_NAME], f"name of {len(name):,} characters"
        if reason != "folder":
            yield Member(name, data, size, reason)
        at = data + (size + BLOCK - 1) // BLOCK * BLOCK


def is_tar(file: RangeFile | Bytes) -> bool:
    """Whether a file starts as a tar does: with a header whose checksum is right."""
    header = file.peek_at(0, BLOCK)
    return len(header) == BLOCK and header != _ZEROS and _checksum_is_right(header)


def is_header_of(header: bytes, size: int) -> bool:
    """Whether a block is the header of a file of ``size`` bytes; sizes beyond the field's are not compared."""
    if not _checksum_is_right(header):
        return False
    field = header[124:136]
    return bool(field[0] & 0x80) or int(field.strip(b"\0 ") or b"0", 8) == size


def _header(file: RangeFile | Bytes, at: int, end: int, where: str, after: str) -> bytes:
    if at >= end:
        raise SourceError(_cut_off(where, file, end, f"without the mark that ends a tar, after {after!r}"))
    header = file.peek_at(at, BLOCK)
    if len(header) < BLOCK or at + BLOCK > end:
        raise SourceError(_cut_off(where, file, end, f"inside a header, after {after!r}"))
    if header != _ZEROS and not _checksum_is_right(header):
        raise SourceError(
            f"{where}: no valid tar header at byte {at:,}, after {after!r}; the archive is damaged: fetch it again"
        )
    return header


def _cut_off(where: str, file: RangeFile | Bytes, end: int, how: str) -> str:
    hint = f" (if you know it to be whole: truncate -s +{2 * BLOCK} FILE)" if "mark" in how and end == file.size else ""
    return f"{where}: cut off, it ends at byte {end:,} {how}; fetch it again, or finish its download{hint}"


def _check_tail(file: RangeFile | Bytes, at: int, end: int, where: str) -> None:
    """Behind the end there is padding, at most a few records of it; another header there is another archive."""
    tail = file.read_at(at, min(end - at, 8 * tarfile.RECORDSIZE))
    rest = tail.lstrip(b"\0")
    if not rest:
        return
    found = (len(tail) - len(rest)) // BLOCK * BLOCK
    if _checksum_is_right(tail[found : found + BLOCK]):
        raise SourceError(
            f"{where}: a second archive begins at byte {at + found:,}, behind the end of the first (joined by cat?); "
            "split them into files of their own, or join them with: tar --concatenate"
        )


def _checksum_is_right(header: bytes) -> bool:
    """The sum of all bytes, those of the checksum itself counted as spaces."""
    try:
        stored = int(header[148:156].strip(b"\0 ") or b"-1", 8)
    except ValueError:
        return False
    total = sum(header) - sum(header[148:156]) + 256
    # Some old tars add signed bytes.
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])


def _octal(field: bytes, where: str, at: int) -> int:
    """A number as tars store it: octal text, or binary where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ") or b"0"
    if digits.strip(b"01234567"):  # a minus above all: the walk would go back, and round and round
        raise SourceError(f"{where}: the header at byte {at:,} has no valid size; fetch the archive again")
    return int(digits, 8)


def _plain_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return _text(name)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _read_extra(file: RangeFile | Bytes, header: bytes, at: int, end: int, where: str, into: dict[str, str]) -> int:
    """Read a header that describes the next; return where that begins."""
    size = _octal(header[124:136], where, at)
    if size > _MAX_EXTRA:
        raise SourceError(
            f"{where}: the header at byte {at:,} describes the next in {size:,} bytes, more than any name takes; the "
            "archive is damaged: fetch it again"
        )
    if at + BLOCK + size > end:
        raise SourceError(_cut_off(where, file, end, f"inside the header at byte {at:,}"))
    data = file.peek_at(at + BLOCK, size)
    kind = header[156:157]
    if kind == b"L":
        into["path"] = _text(data.rstrip(b"\0"))
    elif kind == b"K":
        into["linkpath"] = _text(data.rstrip(b"\0"))
    else:
        into.update(_pax_records(data))
    return at + BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK


def _pax_records(data: bytes) -> dict[str, str]:
    """``LENGTH KEY=VALUE\\n`` records; the length counts all of the record."""
    records: dict[str, str] = {}
    at = 0
    while (match := _RECORD.match(data, at)) is not None and (end := at + int(match[1])) > match.end():
        key = _text(match[2])
        if key in _USED or key.startswith("GNU.sparse."):
            records[key] = _text(data[match.end() : end - 1])
        at = end
    return records


def _special(
    file: RangeFile | Bytes, header: bytes, at: int, where: str, extra: dict[str, str]
) -> tuple[str, int, int, str]:
    """Name, size, start of the contents, and reason of a member that a plain header does not describe."""
    kind = header[156:157]
    name = extra.get("GNU.sparse.name") or extra.get("path") or _plain_name(header)
    size = (
        int(extra["size"])
        if re.fullmatch(r"[0-9]{1,20}", extra.get("size", ""))
        else _octal(header[124:136], where, at)
    )
    data = at + BLOCK
    if kind == b"5" or (kind in _FILES and name.endswith("/")):
        return name, 0 if kind == b"5" else size, data, "folder"
    if kind in _NO_FILES:
        target = extra.get("linkpath") or _text(header[157:257].partition(b"\0")[0])
        return name, 0, data, f"{_NO_FILES[kind]}{f' to {target!r}' if kind in b'12' else ''}"
    if kind == b"S":
        more = header[482:483].strip(b"\0")
        while more:  # slices: the tar may end here, which is found out by its next header
            more, data = file.peek_at(data, BLOCK)[504:505].strip(b"\0"), data + BLOCK
        return name, size, data, "sparse file"
    if any(key.startswith("GNU.sparse.") for key in extra):
        return name, size, data, "sparse file"
    return name, size, data, "" if kind in _FILES else f"member of unknown type {_text(kind)!r}"
