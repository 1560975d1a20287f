"""Write byte-reproducible USTAR shards, and DALI indexes from the offsets written.

A sample is two adjacent members, ``KEY.jpg`` (or ``.rgb``, ``.png``, ``.webp``) and ``KEY.cls``. Time, owner and mode
of the source are not stored.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from alexstream.core.text import quote_value

BLOCK = tarfile.BLOCKSIZE  # 512: headers and contents start at multiples of this
MIN_LABEL_DIGITS = 4


def count_label_digits(num_classes: int) -> int:
    """Return the digits of every label of a set: with equal sizes ("0007") DALI can read labels as a tensor."""
    return max(MIN_LABEL_DIGITS, len(str(num_classes - 1)))


def padded_bytes(size: int) -> int:
    """Return the bytes that a member of ``size`` bytes takes in a tar, header included."""
    return BLOCK + size + -size % BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in a tar: name, offset of its contents from the start of the tar, and size, both in bytes."""

    name: str
    offset: int
    size: int

    @property
    def extension(self) -> str:
        """Everything after the first dot, as WebDataset and DALI define it."""
        return self.name.partition(".")[2]


class TarWriter:
    """Writes a shard sample by sample and hashes it on the way, so that no shard is in memory as a whole."""

    def __init__(self, file: BinaryIO, label_digits: int = MIN_LABEL_DIGITS) -> None:
        """Start an empty tar in ``file``; all labels have ``count_label_digits`` digits."""
        self._file = file
        self._label_digits = label_digits
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0
        self.samples: list[tuple[Member, Member]] = []

    def add(self, key: str, extension: str, content: bytes, label: int) -> Member:
        """Append one sample and return the member that holds its image."""
        text = f"{label:0{self._label_digits}d}".encode()
        image = Member(name=f"{key}.{extension}", offset=self.num_bytes + BLOCK, size=len(content))
        number = Member(name=f"{key}.cls", offset=image.offset + padded_bytes(len(content)), size=len(text))
        self.samples.append((image, number))
        self._write(_encode_member(image.name, content) + _encode_member(number.name, text))
        return image

    def finish(self) -> None:
        """Write the end mark, padded to whole 10,240-byte records as tar does."""
        end = self.num_bytes + 2 * BLOCK
        self._write(bytes(2 * BLOCK + -end % tarfile.RECORDSIZE))

    @property
    def sha256(self) -> str:
        """Sha256 of everything written so far."""
        return self._sha256.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.num_bytes += len(data)


def _make_empty_header() -> bytes:
    info = tarfile.TarInfo("")
    info.mode, info.mtime = 0o644, 0
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


_EMPTY_HEADER = _make_empty_header()  # header by the standard library, of a member without name and size
_EMPTY_CHECKSUM = sum(_EMPTY_HEADER) - sum(_EMPTY_HEADER[148:156]) + 8 * 32 - sum(_EMPTY_HEADER[124:136])


def _encode_member(name: str, content: bytes) -> bytes:
    """Return header, content and padding of a member, as ``tarfile`` writes them but 40 µs faster per header.

    Raises ValueError for a name that is not ASCII or longer than the 100 bytes of the field.
    """
    text, size = name.encode("ascii"), b"%011o\0" % len(content)
    if len(text) > 100:
        raise ValueError(f"member name {quote_value(name)}: {len(text)} bytes, at most 100 fit")
    checksum = b"%06o\0 " % (_EMPTY_CHECKSUM + sum(text) + sum(size))
    header = (
        text.ljust(100, b"\0") + _EMPTY_HEADER[100:124] + size + _EMPTY_HEADER[136:148] + checksum + _EMPTY_HEADER[156:]
    )
    return b"".join((header, content, bytes(-len(content) % BLOCK)))


def encode_index(samples: Iterable[tuple[Member, ...]]) -> bytes:
    """Return a DALI index v1.2: a count, then per sample ``extension offset size name`` for each member."""
    lines = [" ".join(f"{m.extension} {m.offset} {m.size} {m.name}" for m in members) for members in samples]
    return "".join(f"{line}\n" for line in [f"v1.2 {len(lines)}", *lines]).encode("ascii")
