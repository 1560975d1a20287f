"""Walk the members of a tar as byte ranges, from its headers alone; a tar inside a tar is a byte range too.

Reads USTAR, GNU (long names, sparse files) and PAX headers and skips the contents, so that listing 1.28 million images
reads half a kilobyte of each.
"""

from __future__ import annotations

import re
import tarfile
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.text import quote_value
from alexstream.sharding.sources.files import MemoryFile, RangeFile

BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(BLOCK)
_FILE_TYPES = b"0\0" + b"7"
_OTHER_TYPES = {b"1": "hard link", b"2": "symbolic link", b"3": "character device", b"4": "block device", b"6": "pipe"}
_EXTENSION_TYPES = b"xgLKX"  # types of headers that describe the next header
_MAX_EXTENSION_BYTES = 1 << 20  # far above any genuine long name or PAX header
_MAX_NAME_CHARS = 4096  # characters; more than file systems allow, and a global header repeats it per member
_PAX_RECORD = re.compile(rb"(\d{1,8}) ([^=]+)=")
_PAX_KEYS = ("path", "linkpath", "size")  # PAX records that are used, beside those of sparse files
REPLACED = "replaced by a later member of the same name"
_MAX_HELD_MEMBERS = 1 << 17  # members of one tar held in memory; a longer tar is walked twice


class ArchiveMember(NamedTuple):
    """A member: its name as stored, its byte range in the file, and why it is not a plain file ("" if it is one)."""

    name: str
    offset: int
    size: int
    reason: str


def walk_tar(
    file: RangeFile | MemoryFile, where: str, start: int = 0, end: int | None = None
) -> Iterator[ArchiveMember]:
    """Yield all members but folders, in order, of the tar from byte ``start`` to ``end`` of ``file``.

    ``where`` names the tar in errors. Raises SourceError, with the byte position, for a tar that is truncated or
    damaged, and for a second archive after the end of the first, whose members would be lost.
    """
    end = file.size if end is None else end
    at, name, extra, everywhere = start, "", dict[str, str](), dict[str, str]()
    while True:
        header = _read_header(file, at, end, where, name)
        if header == _ZEROS:
            return _check_tail(file, at + BLOCK, end, where)
        kind = header[156:157]
        # A plain USTAR header takes this short path: tars of ImageNet have nothing else.
        if kind in _FILE_TYPES and not extra and not everywhere and header[124] < 128:
            name, size, data = _parse_name(header), _parse_number(header[124:136], where, at), at + BLOCK
            reason = "folder" if name.endswith("/") else ""
        elif kind in _EXTENSION_TYPES:
            at = _read_extension(file, header, at, end, where, everywhere if kind == b"g" else extra)
            continue
        else:
            name, size, data, reason = _parse_special(file, header, at, where, {**everywhere, **extra})
            extra = {}
        if data + size > end:
            raise SourceError(
                _truncated_message(where, file, end, f"inside {quote_value(name)}, which goes to byte {data + size:,}")
            )
        if len(name) > _MAX_NAME_CHARS:
            name, reason = name[:_MAX_NAME_CHARS], f"name of {len(name):,} characters"
        if reason != "folder":
            yield ArchiveMember(name, data, size, reason)
        at = data + (size + BLOCK - 1) // BLOCK * BLOCK


def iter_last_members(
    file: RangeFile | MemoryFile, where: str, start: int = 0, end: int | None = None
) -> Iterator[ArchiveMember]:
    """Yield what ``walk_tar`` does; of members with the same path, all but the last get the reason REPLACED.

    tar itself replaces a file by appending it once more. Raises SourceError as ``walk_tar``, before the first member.
    """
    hashes, held = array("q"), list[ArchiveMember]()
    for member in walk_tar(file, where, start, end):
        hashes.append(hash(_member_path(member)))
        if len(held) < _MAX_HELD_MEMBERS:
            held.append(member)
    if len(held) == len(hashes):
        yield from mark_replaced(held)
    elif len(set(hashes)) == len(hashes):
        yield from walk_tar(file, where, start, end)
    else:
        again = {number for number, count in Counter(hashes).items() if count > 1}
        yield from _mark_suspects(lambda: walk_tar(file, where, start, end), again)


def mark_replaced(members: Collection[ArchiveMember]) -> Iterator[ArchiveMember]:
    """Yield the members of one tar, all but the last of each path with the reason REPLACED."""
    return _mark_suspects(lambda: members, None)


def _mark_suspects(
    members: Callable[[], Iterable[ArchiveMember]], suspects: Collection[int] | None
) -> Iterator[ArchiveMember]:
    """Count the paths, or only those with a hash among ``suspects``, and mark all but the last of each."""
    paths = map(_member_path, members())
    left = Counter(path for path in paths if suspects is None or hash(path) in suspects)
    for member in members():
        path = _member_path(member)
        left[path] -= 1
        yield member._replace(reason=member.reason or REPLACED) if left[path] > 0 else member


def _member_path(member: ArchiveMember) -> str:
    """Return the path that a member is unpacked to; unique for a hard link to itself, which unpacks to nothing."""
    if member.reason.startswith("hard link") and member.reason == f"hard link to {quote_value(member.name)}":
        return f"link at byte {member.offset}"
    name = member.name
    return "/".join(part for part in name.split("/") if part not in ("", ".")) if "/" in name else name


def is_tar(file: RangeFile | MemoryFile, start: int = 0) -> bool:
    """Return whether a tar header whose checksum is right is at byte ``start`` of a file."""
    header = file.peek_at(start, BLOCK)
    return len(header) == BLOCK and header != _ZEROS and _has_valid_checksum(header)


def is_header_for(header: bytes, size: int) -> bool:
    """Return whether a block is the header of a file of ``size`` bytes; binary size fields are not compared."""
    if not _has_valid_checksum(header):
        return False
    field = header[124:136]
    return bool(field[0] & 0x80) or int(field.strip(b"\0 ") or b"0", 8) == size


def _read_header(file: RangeFile | MemoryFile, at: int, end: int, where: str, after: str) -> bytes:
    if at >= end:
        raise SourceError(
            _truncated_message(where, file, end, f"without the mark of its end, after {quote_value(after)}")
        )
    header = file.peek_at(at, BLOCK)
    if len(header) < BLOCK or at + BLOCK > end:
        raise SourceError(_truncated_message(where, file, end, f"inside a header, after {quote_value(after)}"))
    if header != _ZEROS and not _has_valid_checksum(header):
        raise SourceError(
            f"{where}: no valid tar header at byte {at:,}, after {quote_value(after)}; the archive is damaged: fetch "
            "it again"
        )
    return header


def _truncated_message(where: str, file: RangeFile | MemoryFile, end: int, how: str) -> str:
    hint = f" (if it is complete: truncate -s +{2 * BLOCK} FILE)" if "mark" in how and end == file.size else ""
    return f"{where}: cut off, it ends at byte {end:,} {how}; fetch it again, or finish its download{hint}"


def _check_tail(file: RangeFile | MemoryFile, at: int, end: int, where: str) -> None:
    """Raise SourceError if another header follows the end mark; a few records of padding are normal."""
    tail = file.read_at(at, min(end - at, 8 * tarfile.RECORDSIZE))
    rest = tail.lstrip(b"\0")
    if not rest:
        return
    found = (len(tail) - len(rest)) // BLOCK * BLOCK
    if _has_valid_checksum(tail[found : found + BLOCK]):
        raise SourceError(
            f"{where}: a second archive begins at byte {at + found:,}, behind the end of the first (joined by cat?); "
            "split them into files of their own, or join them with: tar --concatenate"
        )


def _has_valid_checksum(header: bytes) -> bool:
    """Return whether the sum of all bytes, with the checksum field as spaces, is the stored checksum."""
    try:
        stored = int(header[148:156].strip(b"\0 ") or b"-1", 8)
    except ValueError:
        return False
    total = sum(header) - sum(header[148:156]) + 256
    # Some old implementations of tar sum signed bytes.
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])


def _parse_number(field: bytes, where: str, at: int) -> int:
    """Parse a number of a header: octal text, or binary if the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b"\0 ") or b"0"
    if digits.strip(b"01234567"):  # above all a minus sign, with which the walk would loop for ever
        raise SourceError(f"{where}: the header at byte {at:,} has no valid size; fetch the archive again")
    return int(digits, 8)


def _parse_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return _decode_text(name)


def _decode_text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _read_extension(
    file: RangeFile | MemoryFile, header: bytes, at: int, end: int, where: str, into: dict[str, str]
) -> int:
    """Read a header that describes the next one into ``into``; return the offset of the next header."""
    size = _parse_number(header[124:136], where, at)
    if size > _MAX_EXTENSION_BYTES:
        raise SourceError(
            f"{where}: the header at byte {at:,} describes the next in {size:,} bytes, more than any name takes; the "
            "archive is damaged: fetch it again"
        )
    if at + BLOCK + size > end:
        raise SourceError(_truncated_message(where, file, end, f"inside the header at byte {at:,}"))
    data = file.peek_at(at + BLOCK, size)
    kind = header[156:157]
    if kind == b"L":
        into["path"] = _decode_text(data.rstrip(b"\0"))
    elif kind == b"K":
        into["linkpath"] = _decode_text(data.rstrip(b"\0"))
    else:
        into.update(_parse_pax(data))
    return at + BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK


def _parse_pax(data: bytes) -> dict[str, str]:
    r"""Parse ``LENGTH KEY=VALUE\n`` records, where the length counts the whole record."""
    records: dict[str, str] = {}
    at = 0
    while (match := _PAX_RECORD.match(data, at)) is not None and (end := at + int(match[1])) > match.end():
        key = _decode_text(match[2])
        if key in _PAX_KEYS or key.startswith("GNU.sparse."):
            records[key] = _decode_text(data[match.end() : end - 1])
        at = end
    return records


def _parse_special(
    file: RangeFile | MemoryFile, header: bytes, at: int, where: str, extra: dict[str, str]
) -> tuple[str, int, int, str]:
    """Return name, size, content offset and skip reason of a member that needs more than a plain header."""
    kind = header[156:157]
    name = extra.get("GNU.sparse.name") or extra.get("path") or _parse_name(header)
    size = (
        int(extra["size"])
        if re.fullmatch(r"[0-9]{1,20}", extra.get("size", ""))
        else _parse_number(header[124:136], where, at)
    )
    data = at + BLOCK
    if kind == b"5" or (kind in _FILE_TYPES and name.endswith("/")):
        return name, 0 if kind == b"5" else size, data, "folder"
    if kind in _OTHER_TYPES:
        target = extra.get("linkpath") or _decode_text(header[157:257].partition(b"\0")[0])
        return name, 0, data, f"{_OTHER_TYPES[kind]}{f' to {quote_value(target)}' if kind in b'12' else ''}"
    if kind == b"S":
        more = header[482:483].strip(b"\0")
        while more:  # extension headers; if the tar ends here, reading the next header fails
            more, data = file.peek_at(data, BLOCK)[504:505].strip(b"\0"), data + BLOCK
        return name, size, data, "sparse file"
    if any(key.startswith("GNU.sparse.") for key in extra):
        return name, size, data, "sparse file"
    return name, size, data, "" if kind in _FILE_TYPES else f"member of unknown type {quote_value(_decode_text(kind))}"
