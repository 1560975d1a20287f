"""The bytes of one image, whatever form its source has; one ``Reader`` in every worker process."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Any

from sharding.errors import BadImageError
from sharding.listing import WHOLE_FILE
from sharding.sources.parquet import row_group_images
from sharding.sources.place import RangeFile, as_place

_OPEN_FILES = 8


class Reader:
    """Reads images of a source. Keeps a few files open, and the images of the last Parquet row group.

    Opens nothing until it reads, and pickles as its root alone. Not for many threads.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """``root`` is what ``recognise`` was given: a folder, or the one file that is the source."""
        self.root = as_place(root)
        self._is_file: bool | None = None
        self._prefix = f"{self.root}/" if isinstance(self.root, Path) else ""
        self._ranges: OrderedDict[str, RangeFile] = OrderedDict()
        self._parquet: OrderedDict[str, Any] = OrderedDict()
        self._group: tuple[str, int] | None = None  # whose images ``_images`` are
        self._images: Any = None

    def read(self, container: str, offset: int, size: int) -> bytes:
        """The bytes of an image; the arguments are those of an ``Entry``. Raises BadImageError("unreadable", …)."""
        try:
            if offset == WHOLE_FILE:
                return self._whole(container)
            if container.lower().endswith(".parquet"):
                return self._row(container, offset, size)
            return self._range(container, offset, size)
        except OSError as error:
            raise BadImageError("unreadable", f"{os.strerror(error.errno or 0)}") from error

    def close(self) -> None:
        """Close all files; a later ``read`` opens them again."""
        for file in [*self._ranges.values(), *self._parquet.values()]:
            file.close()
        self._ranges.clear()
        self._parquet.clear()
        self._group = self._images = None

    def __enter__(self) -> Reader:
        """Use as a context, which closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all files."""
        self.close()

    def __reduce__(self) -> tuple[type[Reader], tuple[Path]]:
        """Pickle the root; open files stay in their process."""
        return Reader, (self.root,)

    def _path(self, container: str) -> Path:
        if self._is_file is None:
            self._is_file = self.root.is_file()
        return self.root if self._is_file else self.root / container

    def _whole(self, container: str) -> bytes:
        if self._prefix:
            return _local_file(self._prefix + container)
        path = self._path(container)
        if not path.is_file():
            raise BadImageError("unreadable", "not a regular file, or a link that leads nowhere")
        return bytes(path.read_bytes())

    def _range(self, container: str, offset: int, size: int) -> bytes:
        file = self._ranges.pop(container, None) or RangeFile(self._path(container))
        _keep(self._ranges, container, file)
        data = file.read_at(offset, size)
        if len(data) < size:
            raise BadImageError("unreadable", f"{container} ends within it, {len(data)} bytes of {size} are there")
        return data

    def _row(self, container: str, group: int, row: int) -> bytes:
        import pyarrow as pa

        if self._group != (container, group):
            try:
                file = self._parquet.pop(container, None) or self._open_parquet(container)
                _keep(self._parquet, container, file)
                self._images, self._group = row_group_images(file, group), (container, group)
            except (pa.ArrowException, ValueError) as error:
                raise BadImageError("unreadable", str(error).splitlines()[0]) from error
        data = self._images[row].as_py()
        if data is None:
            raise BadImageError("unreadable", "the row holds no bytes, only the path of a file elsewhere")
        return bytes(data)

    def _open_parquet(self, container: str) -> Any:
        import pyarrow.parquet as pq

        path = self._path(container)
        return pq.ParquetFile(path if isinstance(path, Path) else path.open("rb"))


def _local_file(path: str) -> bytes:
    """All of a regular file; a pipe, which could be waited for without end, is not opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise BadImageError("unreadable", "not a regular file, or a link that leads nowhere") from error
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BadImageError("unreadable", "not a regular file, or a link that leads nowhere")
        return file.read()


def _keep(files: OrderedDict[str, Any], name: str, file: Any) -> None:
    """Make a file the newest of those that are open; close the oldest if there are too many."""
    files[name] = file
    if len(files) > _OPEN_FILES:
        files.popitem(last=False)[1].close()
