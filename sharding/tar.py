"""Byte-reproducible USTAR shards with DALI indexes, written from the offsets that were written.

A sample is two adjacent members, ``KEY.jpg`` and ``KEY.cls``. No time, owner or mode of the source gets in.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

BLOCK = tarfile.BLOCKSIZE  # 512: headers and contents start at multiples of this
MIN_LABEL_DIGITS = 4


def label_digits(num_classes: int) -> int:
    """Digits of every label of a set: "0007" is the same size for every sample, so DALI may read it as a tensor."""
    return max(MIN_LABEL_DIGITS, len(str(num_classes - 1)))


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


class TarShard:
    """A tar under construction, in memory: a shard is at most some hundred MB and appears at once."""

    def __init__(self, label_digits: int = MIN_LABEL_DIGITS) -> None:
        """Start an empty tar whose labels are all ``label_digits`` long."""
        self._label_digits = label_digits
        self._buffer = io.BytesIO()
        self.samples: list[tuple[Member, Member]] = []

    def add(self, key: str, jpeg: bytes, label: int) -> Member:
        """Append one sample and return the member that holds its image."""
        image = self._append(f"{key}.jpg", jpeg)
        self.samples.append((image, self._append(f"{key}.cls", f"{label:0{self._label_digits}d}".encode())))
        return image

    def finish(self) -> bytes:
        """End the archive and return its bytes, padded to whole 10,240-byte records as tar writes it."""
        self._buffer.write(bytes(2 * BLOCK))
        self._buffer.write(bytes(-self._buffer.tell() % tarfile.RECORDSIZE))
        return self._buffer.getvalue()

    def _append(self, name: str, content: bytes) -> Member:
        header = tarfile.TarInfo(name)
        header.size, header.mode, header.mtime = len(content), 0o644, 0
        self._buffer.write(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        member = Member(name=name, offset=self._buffer.tell(), size=len(content))
        self._buffer.write(content)
        self._buffer.write(bytes(-len(content) % BLOCK))
        return member


def index_bytes(samples: Iterable[tuple[Member, ...]]) -> bytes:
    """DALI index v1.2: a count, then per sample ``extension offset size name`` for each member."""
    lines = [" ".join(f"{m.extension} {m.offset} {m.size} {m.name}" for m in members) for members in samples]
    return "".join(f"{line}\n" for line in [f"v1.2 {len(lines)}", *lines]).encode("ascii")
