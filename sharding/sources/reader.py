"""Read the bytes of one image from any form of source; each worker process has one ``Reader``.

A failed read is retried. Then an error of the file itself (not found, no permission) raises BadImageError, and any
other (a failing disk or network) SourceError: a file must not be skipped because a server was down. Each read also
yields a stamp of the file, by which a later change is detected.
"""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alexstream.core.errors import BadImageError, SourceError
from alexstream.core.storage import open_descriptor
from alexstream.sharding.images.formats import MAX_PIXELS
from alexstream.sharding.sources.files import RangeFile, as_path
from alexstream.sharding.sources.parquet import RowGroupImages
from alexstream.sharding.sources.parquet_file import ParquetLimitError, SourceParquet, to_source_error
from alexstream.sharding.sources.tars.walk import BLOCK, is_header_for
from alexstream.sharding.sources.types import WHOLE_FILE

# Pixels of 16 bits in four channels, uncompressed, and metadata: no image that is decoded has more.
MAX_IMAGE_BYTES = 8 * MAX_PIXELS + (64 << 20)
_NOT_REGULAR = "not a regular file, or a link that leads nowhere"
_OPEN_FILES = 8
_ATTEMPTS, _PAUSE_S = 3, 0.1
_FILE_ERRNOS = {
    errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM,
}  # fmt: skip


class FileStamp(NamedTuple):
    """The stat fields by which a change to a file is detected."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def from_stat(cls, found: os.stat_result) -> FileStamp:
        """Build from the stat result of an open file or a path."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def has_same_size_and_mtime(self, other: FileStamp) -> bool:
        """Compare size and modification time only.

        Inode numbers are not stable on every file system (FUSE makes them up at each look-up), and the status change
        time also changes with a new link or another owner. Files that differ in these alone may be equal or not: their
        content decides.
        """
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


class _ChangedError(Exception):
    """A file was written while it was read."""


class SourceBytes(NamedTuple):
    """The bytes of an image, and the stamp of the file they were read from; None for files in object stores."""

    data: bytes
    stamp: FileStamp | None


class Reader:
    """Reads images of a source. Keeps a few files open, and the current batch of one Parquet row group.

    Opens nothing until the first read, and pickles without its open files. Not thread-safe.
    """

    def __init__(self, root: str | os.PathLike[str], listed: Mapping[str, FileStamp] | None = None) -> None:
        """Store the source ``root``: a folder, or the file that is the source.

        ``listed``: stamps of the containers when they were listed; one that has changed since is not read.
        """
        self.root = as_path(root)
        self._listed = listed or {}
        self._is_file: bool | None = None
        self._prefix = f"{self.root}/" if isinstance(self.root, Path) else ""
        self._ranges: OrderedDict[str, RangeFile] = OrderedDict()
        self._parquet: OrderedDict[str, SourceParquet] = OrderedDict()
        self._group: tuple[str, int] | None = None  # whose images ``_images`` are
        self._images: RowGroupImages | None = None
        self._stamps: dict[str, FileStamp | None] = {}  # of containers that are open

    def read(self, container: str, offset: int, size: int) -> SourceBytes:
        """Return the bytes of an image and the stamp of its file; the arguments are those of an ``Entry``.

        Raises BadImageError("unreadable", …) if the file itself is at fault, SourceError if that is not certain.
        """
        for left in reversed(range(_ATTEMPTS)):
            try:
                return self._read(container, offset, size)
            except (OSError, _ChangedError) as error:
                self.close()  # a descriptor may be stale
                if isinstance(error, OSError) and _is_file_error(error):
                    if offset != WHOLE_FILE:  # an archive with many images, which were in it when it was listed
                        raise self._changed_error(container, _error_text(error)) from error
                    raise BadImageError("unreadable", _error_text(error)) from error
                if not left:
                    raise self._retry_error(container, error) from error
            time.sleep(_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def current_stamp(self, container: str) -> FileStamp | None:
        """Return the current stamp of a file of the source; None if it is gone, or in an object store."""
        if not isinstance(self.root, Path):
            return None
        try:
            return FileStamp.from_stat(os.stat(self._path(container)))
        except OSError:
            return None

    def container_stamp(self, container: str) -> FileStamp | None:
        """Return the stamp of a container from before it was opened; None if it is not open, or has none."""
        return self._stamps.get(container)

    def _read(self, container: str, offset: int, size: int) -> SourceBytes:
        if offset == WHOLE_FILE:
            return self._read_whole_file(container)
        self._check_stamp(container)
        is_row = container.lower().endswith(".parquet")
        if not is_row:
            _check_size(size)
        read = self._read_row if is_row else self._read_member
        return SourceBytes(read(container, offset, size), self._stamps[container])

    def _retry_error(self, container: str, error: Exception) -> SourceError:
        why = _error_text(error) if isinstance(error, OSError) else "it is written while it is read"
        return SourceError(
            f"cannot read {self._path(container)}: {why} ({_ATTEMPTS} tries); what is finished is kept: run the same "
            "command again when the file can be read"
        )

    def _changed_error(self, container: str, how: str) -> SourceError:
        return SourceError(
            f"{self._path(container)}: {how}; it is not what it was when it was listed: run the same command again "
            "when it is whole"
        )

    def close(self) -> None:
        """Close all files; a later ``read`` opens them again."""
        for file in self._ranges.values():
            file.close()
        for opened in self._parquet.values():
            opened.close()
        self._ranges.clear()
        self._parquet.clear()
        self._stamps.clear()
        self._group = self._images = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Reader], tuple[Path, Mapping[str, FileStamp]]]:
        """Pickle root and stamps; open files stay in their process."""
        return Reader, (self.root, self._listed)

    def _path(self, container: str) -> Path:
        if self._is_file is None:
            self._is_file = self.root.is_file()
        return self.root if self._is_file else self.root / container

    def _read_whole_file(self, container: str) -> SourceBytes:
        if self._prefix:
            return _read_local_file(self._prefix + container)
        path = self._path(container)
        if not path.is_file():
            raise BadImageError("unreadable", _NOT_REGULAR)
        _check_size(path.stat().st_size)
        return SourceBytes(bytes(path.read_bytes()), None)

    def _check_stamp(self, container: str) -> None:
        """Keep a container's stamp from before it is opened, so that later changes are noticed."""
        if container not in self._stamps:
            stamp = self.current_stamp(container)
            if stamp is not None and not stamp.has_same_size_and_mtime(self._listed.get(container, stamp)):
                raise self._changed_error(container, "was written or replaced")
            self._stamps[container] = stamp

    def _read_member(self, container: str, offset: int, size: int) -> bytes:
        """Read a member of a tar and the header before it, which shows if the tar is still the one listed."""
        file = self._ranges.pop(container, None) or RangeFile(self._path(container))
        _cache_file(self._ranges, container, file)
        data = file.read_at(offset - BLOCK, BLOCK + size)
        if len(data) < BLOCK + size:
            raise self._changed_error(container, f"ends at byte {offset - BLOCK + len(data):,}, within an image")
        if not is_header_for(data[:BLOCK], size):
            raise self._changed_error(container, f"no file of {size:,} bytes begins at byte {offset:,}")
        return data[BLOCK:]

    def _read_row(self, container: str, group: int, row: int) -> bytes:
        import pyarrow as pa

        try:
            data = self._group_images(container, group)[row]
        except IndexError as error:
            raise self._changed_error(container, f"row group {group}: {error}") from error
        except (pa.ArrowException, ValueError) as error:
            raise BadImageError("unreadable", str(error).splitlines()[0]) from error
        if data is None:
            raise BadImageError("unreadable", "the row holds no bytes, only the path of a file elsewhere")
        return data

    def _group_images(self, container: str, group: int) -> RowGroupImages:
        import pyarrow as pa

        if self._images is None or self._group != (container, group):
            self._images = None
            try:
                file = self._parquet.pop(container, None) or SourceParquet(self._path(container))
                self._images, self._group = RowGroupImages(file, group), (container, group)
            except ParquetLimitError as error:
                raise to_source_error(self._path(container), error) from error
            except (pa.ArrowException, ValueError) as error:
                raise self._changed_error(container, str(error).splitlines()[0]) from error
            _cache_file(self._parquet, container, file)
        return self._images


def stamp_files(root: Path, containers: Iterable[str]) -> dict[str, FileStamp]:
    """Return the stamps of some files of a source, for ``Reader``; files in object stores have none."""
    with Reader(root) as reader:
        found = {container: reader.current_stamp(container) for container in containers}
    return {container: stamp for container, stamp in found.items() if stamp is not None}


def _read_local_file(path: str) -> SourceBytes:
    """Read a regular file and its stamp; a pipe is not opened, since it might block for ever."""
    try:
        descriptor = open_descriptor(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            raise BadImageError("unreadable", _NOT_REGULAR) from error
        raise
    with open(descriptor, "rb", buffering=0) as file:
        stamp = FileStamp.from_stat(os.fstat(descriptor))
        _check_size(stamp.size)
        data = file.read(stamp.size + 1)
        # Deleting or replacing it changes the time of its entry alone: what was read is one version all the same.
        after = FileStamp.from_stat(os.fstat(descriptor))
        if (after.size, after.mtime_ns) != (stamp.size, stamp.mtime_ns) or len(data) != stamp.size:
            raise _ChangedError
    return SourceBytes(data, stamp)


def read_image_file(path: Path) -> bytes:
    """Return the bytes of one local image. Raises BadImageError for what is no regular file or too large, OSError."""
    try:
        return _read_local_file(str(path)).data
    except _ChangedError as error:
        raise BadImageError("unreadable", "it is written while it is read") from error


def _check_size(num_bytes: int) -> None:
    """Raise BadImageError for more bytes than any image has that is decoded: they need not be read."""
    if num_bytes > MAX_IMAGE_BYTES:
        raise BadImageError("too-large", f"{num_bytes:,} bytes, more than {MAX_IMAGE_BYTES:,}")


def _is_file_error(error: OSError) -> bool:
    return error.errno in _FILE_ERRNOS or isinstance(error, FileNotFoundError)


def _error_text(error: OSError) -> str:
    """Return the system's or the object store's description of an error."""
    words = error.strerror or str(error) or type(error).__name__
    return words.splitlines()[0]


def _cache_file(files: OrderedDict[str, Any], name: str, file: Any) -> None:
    """Add a file as the newest of the open files; close the oldest if there are too many."""
    files[name] = file
    if len(files) > _OPEN_FILES:
        files.popitem(last=False)[1].close()
