"""Open the shards of a data set: file descriptors by shard number, for ``os.pread``.

``LocalShards`` opens files of this machine; ``cached_shards.CachedShards`` downloads shards of an object store into a
cache. The stream asks for the descriptors of each step, and may announce which shards the coming steps will need.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alexstream.pipeline.errors import StreamError
from alexstream.sharding.dataset_v1.layout import shard_paths
from alexstream.sharding.dataset_v1.manifest import ShardRecord

_RESERVED_FILES = 256  # descriptors left for everything else in the process


class Shards(Protocol):
    """Give access to the shards of one data set, numbered as in ``manifest.shards``."""

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a file descriptor for each entry of ``shards``, int64 (repeats allowed); wait until all are there."""

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """Announce the shards of the coming steps, one entry for each call of ``descriptors``.

        The iterable is consumed lazily, and may be endless.
        """

    def close(self) -> None:
        """Close every descriptor."""


class LocalShards:
    """Open shards in a folder of this machine, each when it is first asked for; they stay open until ``close``."""

    def __init__(self, folder: Path, records: Sequence[ShardRecord]) -> None:
        """Check that all shards exist with the sizes of the manifest. Raises StreamError if not."""
        self._folder, self._records = folder, records
        self._open: dict[int, int] = {}
        for record in records:
            _check_size(self._tar_path(record), record.num_bytes)
        raise_open_file_limit(len(records))

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return descriptors that are valid until ``close``. Raises StreamError if a shard is gone or has changed."""
        distinct, places = np.unique(shards, return_inverse=True)
        found = np.array([self._open_shard(int(shard)) for shard in distinct], np.int64)
        return found[places].reshape(shards.shape)

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """Do nothing: the kernel reads ahead."""

    def close(self) -> None:
        """Close every descriptor; the shards can be asked for again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _tar_path(self, record: ShardRecord) -> Path:
        return shard_paths(self._folder, record.name).tar

    def _open_shard(self, shard: int) -> int:
        if shard not in self._open:
            tar, num_bytes = self._tar_path(self._records[shard]), self._records[shard].num_bytes
            _check_size(tar, num_bytes)
            try:
                self._open[shard] = os.open(tar, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                remedy = "make it readable, or allow more open files with: ulimit -n"
                raise StreamError(f"shard {tar} cannot be opened: {error.strerror}; {remedy}") from error
        return self._open[shard]


class LazyShards:
    """Make the shards with ``make`` when they are first asked for, and again after ``close``.

    So a data set can be opened for its catalog alone, without starting download threads.
    """

    def __init__(self, make: Callable[[], Shards]) -> None:
        self._make = make
        self._made: Shards | None = None

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """Make the shards if needed; return their descriptors as ``Shards.descriptors``."""
        return self._shards().descriptors(shards)

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """Make the shards if needed; announce the coming steps as ``Shards.expect``."""
        self._shards().expect(upcoming)

    def close(self) -> None:
        """Close the shards, if made; they are made anew when asked for again."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def _shards(self) -> Shards:
        if self._made is None:
            self._made = self._make()
        return self._made


def raise_open_file_limit(num_files: int) -> None:
    """Raise the process's limit on open files, as far as allowed, for ``num_files`` files beside its others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_files + _RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))


def _check_size(tar: Path, num_bytes: int) -> None:
    """Raise StreamError if a shard is missing or does not have ``num_bytes`` bytes."""
    size = tar.stat().st_size if tar.is_file() else -1
    if size != num_bytes:
        found = "is missing" if size < 0 else f"has {size} bytes"
        raise StreamError(
            f"shard {tar} {found}, but the manifest says {num_bytes} bytes; restore the shard or shard the source again"
        )
