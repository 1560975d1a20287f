"""A checksum inside a checkpoint: the sha256 of all that comes before it, as the comment at the end of a zip archive.

What reads such files (torch, zipfile) passes a comment over; without one, a flipped bit in a tensor goes unnoticed.
"""

from __future__ import annotations

import hashlib
import re
import struct
from io import BytesIO
from pathlib import Path

_COMMENT = re.compile(rb"alexstream sha256 ([0-9a-f]{64})")
_LENGTH = len("alexstream sha256 ") + 64
_ENDING = b"PK\x05\x06"  # what the last record of a zip archive begins with; 22 bytes, the length of the comment last
_CHUNK = 1 << 20


def seal(archive: BytesIO) -> bytes:
    """Announce a comment at the end of ``archive``; gives the comment, to be written after it."""
    with archive.getbuffer() as view:
        if bytes(view[-22:-18]) != _ENDING:
            raise AssertionError("torch.save wrote no plain zip archive")
        view[-2:] = struct.pack("<H", _LENGTH)
        return b"alexstream sha256 " + hashlib.sha256(view).hexdigest().encode()


def is_as_sealed(path: Path) -> bool | None:
    """Whether a file still is what was sealed; None: it has no seal. Raises OSError if it cannot be read."""
    left = path.stat().st_size - _LENGTH
    if left < 0:
        return None
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        found = _COMMENT.fullmatch(file.read())
    return None if found is None else found[1].decode() == digest.hexdigest()
