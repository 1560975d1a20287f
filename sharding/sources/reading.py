"""The bytes of one image, whatever form its source has; one ``Reader`` in every worker process.

What the system does not give is tried again. Then an error that is the file's own (no such file, no permission) is a
BadImageError, and one that says nothing of the file (a disk or network that fails) is a SourceError: a file must not
be left out because a server was away. Each read gives a mark too, by which it is seen later that a file has changed.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sharding.errors import BadImageError, SourceError
from sharding.listing import WHOLE_FILE
from sharding.sources.parquet import GroupImages
from sharding.sources.place import RangeFile, as_place
from sharding.sources.tar_walk import BLOCK, is_header_of

_OPEN_FILES = 8
_TRIES, _PAUSE_S = 3, 0.1
_OF_THE_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM,
}  # fmt: skip


class Mark(NamedTuple):
    """What changes when a file is written, replaced, or given back its old time."""

    inode: int
    size: int
    written_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Mark:
        """Of an open file, or of a name."""
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class _ChangedError(Exception):
    """A file was written while it was read."""


class Reader:
    """Reads images of a source. Keeps a few files open, and a place in the last Parquet row group.

    Opens nothing until it reads, and pickles as its root alone. Not for many threads.
    """

    def __init__(self, root: str | os.PathLike[str], listed: Mapping[str, Mark] | None = None) -> None:
        """``root`` is what ``recognise`` was given: a folder, or the one file that is the source.

        ``listed`` has marks of archives from when they were listed; one that has another since is not read.
        """
        self.root = as_place(root)
        self._listed = listed or {}
        self._is_file: bool | None = None
        self._prefix = f"{self.root}/" if isinstance(self.root, Path) else ""
        self._ranges: OrderedDict[str, RangeFile] = OrderedDict()
        self._parquet: OrderedDict[str, Any] = OrderedDict()
        self._group: tuple[str, int] | None = None  # whose images ``_images`` are
        self._images: GroupImages | None = None
        self._marks: dict[str, Mark | None] = {}  # of containers that are open
        self.mark: Mark | None = None  # of what was read last; None: not known (object stores), or not there

    def read(self, container: str, offset: int, size: int) -> bytes:
        """The bytes of an image; the arguments are those of an ``Entry``.

        Raises BadImageError("unreadable", …), or SourceError if that may be no fault of the file's.
        """
        self.mark = None
        for left in reversed(range(_TRIES)):
            try:
                return self._read(container, offset, size)
            except (OSError, _ChangedError) as error:
                self.close()  # a descriptor may be stale
                if isinstance(error, OSError) and _is_of_the_file(error):
                    if offset != WHOLE_FILE:  # an archive with many images, which were in it when it was listed
                        raise self._changed(container, _reason(error)) from error
                    raise BadImageError("unreadable", _reason(error)) from error
                if not left:
                    raise self._given_up(container, error) from error
            time.sleep(_PAUSE_S)
        raise AssertionError("the last try returns or raises")

    def mark_now(self, container: str) -> Mark | None:
        """The mark that a file of the source has now; None if it is gone, or an object store's."""
        if not isinstance(self.root, Path):
            return None
        try:
            return Mark.of(os.stat(self._path(container)))
        except OSError:
            return None

    def _read(self, container: str, offset: int, size: int) -> bytes:
        if offset == WHOLE_FILE:
            return self._whole(container)
        if container.lower().endswith(".parquet"):
            return self._row(container, offset, size)
        return self._range(container, offset, size)

    def _given_up(self, container: str, error: Exception) -> SourceError:
        why = _reason(error) if isinstance(error, OSError) else "it is written while it is read"
        return SourceError(
            f"cannot read {self._path(container)}: {why} ({_TRIES} tries); what is finished is kept: run the same "
            "command again when the file can be read"
        )

    def _changed(self, container: str, how: str) -> SourceError:
        return SourceError(
            f"{self._path(container)}: {how}; it is not what it was when it was listed: run the same command again "
            "when it is whole"
        )

    def close(self) -> None:
        """Close all files; a later ``read`` opens them again."""
        for file in [*self._ranges.values(), *self._parquet.values()]:
            file.close()
        self._ranges.clear()
        self._parquet.clear()
        self._marks.clear()
        self._group = self._images = None

    def __enter__(self) -> Reader:
        """Use as a context, which closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all files."""
        self.close()

    def __reduce__(self) -> tuple[type[Reader], tuple[Path, Mapping[str, Mark]]]:
        """Pickle the root and the marks; open files stay in their process."""
        return Reader, (self.root, self._listed)

    def _path(self, container: str) -> Path:
        if self._is_file is None:
            self._is_file = self.root.is_file()
        return self.root if self._is_file else self.root / container

    def _whole(self, container: str) -> bytes:
        if self._prefix:
            data, self.mark = _local_file(self._prefix + container)
            return data
        path = self._path(container)
        if not path.is_file():
            raise BadImageError("unreadable", "not a regular file, or a link that leads nowhere")
        return bytes(path.read_bytes())

    def _note_mark(self, container: str) -> None:
        """A container's mark, of before it was opened: what comes after that is noticed."""
        if container not in self._marks:
            mark = self.mark_now(container)
            if mark is not None and mark != self._listed.get(container, mark):
                raise self._changed(container, "was written or replaced")
            self._marks[container] = mark
        self.mark = self._marks[container]

    def _range(self, container: str, offset: int, size: int) -> bytes:
        """A member of a tar, and the header before it, which tells whether the tar is still the one that was listed."""
        self._note_mark(container)
        file = self._ranges.pop(container, None) or RangeFile(self._path(container))
        _keep(self._ranges, container, file)
        data = file.read_at(offset - BLOCK, BLOCK + size)
        if len(data) < BLOCK + size:
            raise self._changed(container, f"ends at byte {offset - BLOCK + len(data):,}, within an image")
        if not is_header_of(data[:BLOCK], size):
            raise self._changed(container, f"no file of {size:,} bytes begins at byte {offset:,}")
        return data[BLOCK:]

    def _row(self, container: str, group: int, row: int) -> bytes:
        import pyarrow as pa

        self._note_mark(container)
        try:
            data = self._group_images(container, group)[row]
        except IndexError as error:
            raise self._changed(container, f"row group {group}: {error}") from error
        except (pa.ArrowException, ValueError) as error:
            raise BadImageError("unreadable", str(error).splitlines()[0]) from error
        if data is None:
            raise BadImageError("unreadable", "the row holds no bytes, only the path of a file elsewhere")
        return data

    def _group_images(self, container: str, group: int) -> GroupImages:
        import pyarrow as pa

        if self._images is None or self._group != (container, group):
            self._images = None
            try:
                file = self._parquet.pop(container, None) or self._open_parquet(container)
                self._images, self._group = GroupImages(file, group), (container, group)
            except (pa.ArrowException, ValueError) as error:
                raise self._changed(container, str(error).splitlines()[0]) from error
            _keep(self._parquet, container, file)
        return self._images

    def _open_parquet(self, container: str) -> Any:
        import pyarrow.parquet as pq

        path = self._path(container)
        return pq.ParquetFile(path if isinstance(path, Path) else path.open("rb"))


def marks_of(root: Path, containers: Iterable[str]) -> dict[str, Mark]:
    """The marks of some files of a source, for ``Reader``; what has none (object stores) is left out."""
    with Reader(root) as reader:
        found = {container: reader.mark_now(container) for container in containers}
    return {container: mark for container, mark in found.items() if mark is not None}


def _local_file(path: str) -> tuple[bytes, Mark]:
    """All of a regular file, and its mark; a pipe, which could be waited for without end, is not opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BadImageError("unreadable", "not a regular file, or a link that leads nowhere") from error
    with open(descriptor, "rb", buffering=0) as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise BadImageError("unreadable", "not a regular file, or a link that leads nowhere")
        data, mark = file.read(), Mark.of(before)
        # Deleting or replacing it changes the time of its entry alone: what was read is one version all the same.
        after = Mark.of(os.fstat(descriptor))
        if (after.size, after.written_ns) != (mark.size, mark.written_ns) or len(data) != mark.size:
            raise _ChangedError
    return data, mark


def _is_of_the_file(error: OSError) -> bool:
    return error.errno in _OF_THE_FILE or isinstance(error, FileNotFoundError)


def _reason(error: OSError) -> str:
    """In the system's words, or an object store's."""
    words = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return words.splitlines()[0]


def _keep(files: OrderedDict[str, Any], name: str, file: Any) -> None:
    """Make a file the newest of those that are open; close the oldest if there are too many."""
    files[name] = file
    if len(files) > _OPEN_FILES:
        files.popitem(last=False)[1].close()
