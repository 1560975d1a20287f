"""Byte-reproducible USTAR shards with DALI indexes, written from the offsets that were written.

A sample is two adjacent members, ``KEY.jpg`` (or ``.rgb``, ``.png``, ``.webp``) and ``KEY.cls``. No time, owner or
mode of the source gets in.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

BLOCK = tarfile.BLOCKSIZE  # 512: headers and contents start at multiples of this
MIN_LABEL_DIGITS = 4


def label_digits(num_classes: int) -> int:
    """Digits of every label of a set: "0007" is the same size for every sample, so DALI may read it as a tensor."""
    return max(MIN_LABEL_DIGITS, len(str(num_classes - 1)))


def padded(size: int) -> int:
    """Bytes that a member of ``size`` bytes takes in a tar, header included."""
    return BLOCK + size + -size % BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file in a tar: name, offset of its contents from the start of the tar, and size, both in bytes."""

    name: str
    offset: int
    size: int

    @property
    def extension(self) -> str:
        """Everything after the first dot, as WebDataset and DALI read it."""
        return self.name.partition(".")[2]


class TarWriter:
    """Writes a shard sample by sample, hashing on the way: a shard never lies in memory whole."""

    def __init__(self, file: BinaryIO, label_digits: int = MIN_LABEL_DIGITS) -> None:
        """Start an empty tar in ``file``, whose labels are all ``label_digits`` long."""
        self._file = file
        self._label_digits = label_digits
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self.num_bytes = 0
        self.samples: list[tuple[Member, Member]] = []

    def add(self, key: str, extension: str, content: bytes, label: int) -> Member:
        """Append one sample and return the member that holds its image."""
        image = self._append(f"{key}.{extension}", content)
        self.samples.append((image, self._append(f"{key}.cls", f"{label:0{self._label_digits}d}".encode())))
        return image

    def finish(self) -> None:
        """End the archive, padded to whole 10,240-byte records as tar writes it."""
        end = self.num_bytes + 2 * BLOCK
        self._write(bytes(2 * BLOCK + -end % tarfile.RECORDSIZE))

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        """Of what was written so far."""
        return self._md5.hexdigest()

    def _append(self, name: str, content: bytes) -> Member:
        header = tarfile.TarInfo(name)
        header.size, header.mode, header.mtime = len(content), 0o644, 0
        self._write(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        member = Member(name=name, offset=self.num_bytes, size=len(content))
        self._write(content)
        self._write(bytes(-len(content) % BLOCK))
        return member

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._md5.update(data)
        self.num_bytes += len(data)


def index_bytes(samples: Iterable[tuple[Member, ...]]) -> bytes:
    """DALI index v1.2: a count, then per sample ``extension offset size name`` for each member."""
    lines = [" ".join(f"{m.extension} {m.offset} {m.size} {m.name}" for m in members) for members in samples]
    return "".join(f"{line}\n" for line in [f"v1.2 {len(lines)}", *lines]).encode("ascii")
