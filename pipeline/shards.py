"""Where the shards of an open data set are read: file descriptors by shard number, for ``os.pread``.

``LocalShards`` are files of this machine; ``remote.staging.StagedShards`` come from an object store through a cache.
The stream asks for the descriptors of each step, and may tell beforehand which shards the steps to come will need.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StreamError
from sharding import layout

_OTHER_FILES = 256  # descriptors left for everything else in the process


class Shards(Protocol):
    """The shards of one data set, numbered as in ``manifest.shards``."""

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """Descriptors of the files that hold these shards (repeats allowed), one for each entry; waits for them."""

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """Tell the shards of the steps to come, one entry for each call of ``descriptors``; may be endless, is lazy."""

    def close(self) -> None:
        """Close every descriptor."""


class LocalShards:
    """Shards in a folder of this machine; each is opened when first asked for and stays open until ``close``."""

    def __init__(self, folder: Path, records: Sequence[layout.ShardRecord]) -> None:
        """Check that all are there, with the sizes of the manifest. Raises StreamError if not."""
        self._folder, self._records = folder, records
        self._open: dict[int, int] = {}
        for record in records:
            _check(self._tar(record), record.num_bytes)
        allow_open_files(len(records))

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """As ``Shards.descriptors``; valid until ``close``. Raises StreamError if a shard is gone or has changed."""
        distinct, places = np.unique(shards, return_inverse=True)
        found = np.array([self._descriptor(int(shard)) for shard in distinct], np.int64)
        return found[places].reshape(shards.shape)

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """Nothing to prepare: the kernel reads ahead."""

    def close(self) -> None:
        """As ``Shards.close``; the shards can be asked for again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _tar(self, record: layout.ShardRecord) -> Path:
        return self._folder / f"{record.name}.tar"

    def _descriptor(self, shard: int) -> int:
        if shard not in self._open:
            tar, num_bytes = self._tar(self._records[shard]), self._records[shard].num_bytes
            _check(tar, num_bytes)
            try:
                self._open[shard] = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                remedy = "make it readable, or allow more open files with: ulimit -n"
                raise StreamError(f"shard {tar} cannot be opened: {error.strerror}; {remedy}") from error
        return self._open[shard]


class Deferred:
    """Shards that are made when they are first asked for, and again after ``close``: opening costs nothing."""

    def __init__(self, make: Callable[[], Shards]) -> None:
        """Nothing is made yet."""
        self._make = make
        self._made: Shards | None = None

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """As ``Shards.descriptors``."""
        return self._shards().descriptors(shards)

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """As ``Shards.expect``."""
        self._shards().expect(upcoming)

    def close(self) -> None:
        """As ``Shards.close``; the shards can be asked for again."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _shards(self) -> Shards:
        if self._made is None:
            self._made = self._make()
        return self._made


def allow_open_files(num_files: int) -> None:
    """Raise the process's limit of open files, as far as it may, so that this many more can be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_files + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))


def _check(tar: Path, num_bytes: int) -> None:
    """Refuse a shard that is missing or was cut short: what is read from it would be."""
    size = tar.stat().st_size if tar.is_file() else -1
    if size != num_bytes:
        found = "is missing" if size < 0 else f"has {size} bytes"
        raise StreamError(
            f"shard {tar} {found}, but the manifest says {num_bytes} bytes; restore the shard or shard the source again"
        )
