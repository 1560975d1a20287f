"""Files and folders of a source: names in order, and byte ranges; the only module of ``sources`` that asks a disk.

Everything here takes a ``Path``, or what behaves like one (``iterdir``, ``is_dir``, ``open``), as object stores give.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from sharding.errors import SourceError

_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
SMALL = 64 << 20  # bytes of a devkit (2.5 MB), a table, a list of classes
_LOCAL_WINDOW, _REMOTE_WINDOW = 4096, 1 << 20


class Item(NamedTuple):
    """A name in a folder. ``is_dir`` follows links; ``is_link`` says that there is one to follow."""

    name: str
    is_dir: bool
    is_link: bool


def as_place(src: str | os.PathLike[str]) -> Path:
    """A source as given, as something with ``iterdir`` and ``open``; paths of object stores stay what they are."""
    place: Path = src if isinstance(src, Path) or hasattr(src, "iterdir") else Path(src)  # type: ignore[assignment]
    return place


def is_system(name: str) -> bool:
    """Whether a name is one that operating systems and version control leave behind: ``.DS_Store``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def has_system_part(path: str) -> bool:
    """Whether any part of a path in an archive is a system name; ``.`` and ``..`` are none."""
    return any(is_system(part) and part not in (".", "..") for part in path.split("/"))


def items(folder: Path) -> list[Item]:
    """What a folder holds, sorted by name. Raises SourceError if it cannot be listed."""
    try:
        if isinstance(folder, Path):
            with os.scandir(folder) as entries:
                return sorted(Item(e.name, e.is_dir(), e.is_symlink()) for e in entries)
        return sorted(Item(path.name, path.is_dir(), False) for path in folder.iterdir())
    except OSError as error:
        raise SourceError(
            f"cannot list {folder}: {error.strerror}; every file must be accounted for: mend that and run again"
        ) from error


def walk(folder: Path, prefix: str) -> Iterator[str]:
    """Files at any depth as ``prefix/…``, in order; system folders and links to folders count as files."""
    for item in items(folder):
        path = f"{prefix}/{item.name}"
        if item.is_dir and not item.is_link and not is_system(item.name):
            yield from walk(folder / item.name, path)
        else:
            yield path


def files_of(listed: Iterable[Item], *extensions: str) -> list[str]:
    """Names of the files with one of these extensions, in any case; system files are left to the caller."""
    return [i.name for i in listed if not i.is_dir and not is_system(i.name) and i.name.lower().endswith(extensions)]


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet by its magic bytes."""
    return _start(path, 4) == b"PAR1"


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed by gzip."""
    return _start(path, 2) == b"\x1f\x8b"


def _start(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


class Bytes:
    """Bytes in memory, read as a ``RangeFile`` is."""

    def __init__(self, data: bytes) -> None:
        """Keep them."""
        self._data, self.size = data, len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end."""
        return self._data[offset : offset + size]

    peek_at = read_at


class RangeFile:
    """A file read at any place: by ``pread`` on a local disk, by the range from an object store."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises OSError if that fails."""
        self._descriptor, self._path = -1, path
        self._remote = None if isinstance(path, Path) else path
        self._at, self._window = 0, b""
        if self._remote is None:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self._descriptor).st_size
            # Without this a walk from header to header would make the kernel read ahead the images between them.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        else:
            self.size = path.stat().st_size

    def read_at(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset``; fewer at the end of the file."""
        if self._remote is not None:
            end = min(offset + size, self.size)
            return bytes(self._remote.fs.cat_file(self._remote.path, start=offset, end=end)) if end > offset else b""
        try:
            data = os.pread(self._descriptor, size, offset)
            while 0 < len(data) < size:
                more = os.pread(self._descriptor, size - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            error.filename = str(self._path)  # the system knows only the descriptor
            raise
        return data

    def peek_at(self, offset: int, size: int) -> bytes:
        """As ``read_at``, for small pieces that lie close together: a window of the file is kept."""
        start = offset - self._at
        if start < 0 or start + size > len(self._window):
            window = _LOCAL_WINDOW if self._remote is None else _REMOTE_WINDOW
            self._at, self._window, start = offset, self.read_at(offset, max(size, window)), 0
        return self._window[start : start + size]

    def close(self) -> None:
        """Close it, once."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        """A worker that ends, or a listing that is given up, leaves no file open."""
        self.close()

    def __enter__(self) -> RangeFile:
        """Use as a context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close at the end of the context."""
        self.close()


def _refused(path: Path, error: OSError) -> SourceError:
    return SourceError(f"cannot read {path}: {error.strerror}; run the same command again when it can be read")


def open_ranges(path: Path) -> RangeFile:
    """A ``RangeFile``. Raises SourceError if the file cannot be opened."""
    try:
        return RangeFile(path)
    except OSError as error:
        raise _refused(path, error) from error


def read_all(path: Path) -> bytes:
    """All of a small file. Raises SourceError if it cannot be read, or is not small."""
    try:
        with path.open("rb") as file:
            data = file.read(SMALL + 1)
    except OSError as error:
        raise _refused(path, error) from error
    if len(data) > SMALL:
        raise SourceError(f"cannot read {path}: larger than the {SMALL >> 20} MiB that any list or table takes")
    return data
