"""A cache folder of bounded size for whole shards, shared by the processes of one machine. Nothing else writes to it.

::

    CACHE/alexstream.lock              locked for milliseconds by any process that reads or changes the cache
    CACHE/<random>.lease               one for each process, locked while it lives: shards in use, soon to be, written
    CACHE/<dataset digest>/<shard>.tar       complete; its sha256 was compared before it got this name
    CACHE/<dataset digest>/<shard>.tar.tmp   being written, of full size from the start; abandoned if no lease lists it

A lock ends with its process, so a killed process blocks no other, and its unfinished files are removed. Only files
named like shards, in folders named like a digest, are ever counted or removed, and symbolic links are not followed.
The folder must be on a disk of this machine, since ``flock`` does not reliably work between machines.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path

from alexstream.core.storage import fsync_folder
from alexstream.pipeline.cache.lease import Claims, Lease, lock_folder
from alexstream.pipeline.errors import StreamError

_TMP_SUFFIX = ".tmp"
_DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")
_FILE_PATTERN = re.compile(r"[a-z]+-[0-9]{6,}\.tar(?:\.tmp)?")
_SPACE_REMEDY = "give `cache_bytes` less than its disk has"
_LINK_REMEDY = "remove the link"
_REMEDIES = {
    errno.ELOOP: _LINK_REMEDY,
    errno.ENOSPC: _SPACE_REMEDY,
    errno.EDQUOT: _SPACE_REMEDY,
    errno.EFBIG: _SPACE_REMEDY,
    errno.EBUSY: "end that process",
}


class Reservation(Enum):
    """The result of ``ShardCache.reserve``."""

    CACHED = auto()
    """The shard is in the cache."""
    BUSY = auto()
    """Another process, or another stream of this one, is writing it."""
    FULL = auto()
    """There is no room, and nothing that may be evicted."""
    RESERVED = auto()
    """There is room, reserved for the caller, who writes the shard."""


class ShardCache:
    """Give one process access to a cache folder. A shard's name is ``<dataset digest>/<shard>.tar``."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Make the folder if needed, and evict until it is within the limit. Raises StreamError if it is unusable."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self._mutex = threading.Lock()
        with translate_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with lock_folder(folder):
                self._lease = Lease(folder)
                try:
                    self._make_room(0, self._lease.all_claims(), urgent=False)
                except BaseException:
                    self._lease.end()
                    raise

    def set_claims(self, use: Iterable[str], soon: Iterable[str]) -> None:
        """Replace this process's claims: shards in ``use`` are never evicted, those needed ``soon`` only if urgent."""
        with self._locked():
            self._lease.write(replace(self._lease.claims, use=tuple(use), soon=tuple(soon)))

    def open(self, name: str, num_bytes: int) -> int | None:
        """Open a complete shard for reading; return its descriptor, or None if it is not in the cache."""
        with self._locked():
            if not self._is_complete(name, num_bytes):
                return None
            touch(self.folder / name)
            return os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def reserve(self, name: str, num_bytes: int, *, urgent: bool) -> tuple[Reservation, int]:
        """Reserve room for a shard that is not in the cache, or report why there is no need or no way to.

        Returns YOURS with a descriptor of the ``.tmp`` file, which the caller must ``publish`` or ``discard``, or
        another ``Reservation`` with -1. Room is made by evicting shards that no process claims, the least recently used
        first; if ``urgent``, also shards needed soon, the one needed last first.
        """
        with self._locked():
            leases = self._lease.all_claims()
            if any(name in claims.writing for claims in leases):
                return Reservation.BUSY, -1
            if self._is_complete(name, num_bytes):
                touch(self.folder / name)
                return Reservation.CACHED, -1
            if not self._make_room(num_bytes, leases, urgent):
                return Reservation.FULL, -1
            self._add_writing(name)
            return Reservation.RESERVED, self._create_file(name, num_bytes)

    def publish(self, name: str, descriptor: int) -> None:
        """Sync a completely written shard to the disk, close it, and give it its final name."""
        try:
            with translate_os_errors(self.folder):
                touch(descriptor)  # a shard just written is the last one used
                os.fsync(descriptor)
        except StreamError:
            self.discard(name, descriptor)
            raise
        os.close(descriptor)
        with self._locked():
            if not self._lease.ended:  # otherwise the .tmp may already be another process's
                os.replace(self.folder / (name + _TMP_SUFFIX), self.folder / name)
                self._remove_writing(name)
                fsync_folder((self.folder / name).parent)

    def discard(self, name: str, descriptor: int) -> None:
        """Close and remove a shard that was not written completely."""
        os.close(descriptor)
        with self._locked():
            if not self._lease.ended:
                (self.folder / (name + _TMP_SUFFIX)).unlink(missing_ok=True)
                self._remove_writing(name)

    def last_write_ns(self, name: str) -> int:
        """Return when any process last wrote to an unfinished shard, in ns since the epoch; 0 if there is none."""
        with suppress(OSError):
            return (self.folder / (name + _TMP_SUFFIX)).stat().st_mtime_ns
        return 0

    def remove(self, name: str) -> None:
        """Remove a shard, after it was found to be damaged."""
        with self._locked():
            self._path(name).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Return the size of all shards, complete or being written, in bytes."""
        with self._locked():
            return sum(size for _, size, _ in self._list_files())

    def close(self) -> None:
        """Give up all claims. Shards stay in the cache for the next run."""
        with self._locked():
            self._lease.end()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude all other threads and processes; turn errors of the disk into StreamError."""
        with translate_os_errors(self.folder), self._mutex, lock_folder(self.folder):
            yield

    def _path(self, name: str) -> Path:
        """Return a shard's path. Raises OSError if its folder is a symbolic link, which may lead out of the cache."""
        path = self.folder / name
        if path.parent.is_symlink():
            raise OSError(errno.ELOOP, f"{path.parent.name} in it is a link, which is not followed")
        return path

    def _is_complete(self, name: str, num_bytes: int) -> bool:
        """Return True if a complete shard is in the cache; remove a file of another size, or a link, of that name."""
        path = self._path(name)
        try:
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_size == num_bytes:
                return True
        except FileNotFoundError:
            return False
        path.unlink()
        return False

    def _make_room(self, num_bytes: int, living: list[Claims], urgent: bool) -> bool:
        """Evict shards until there is room for ``num_bytes``; if that is impossible, evict none and return False."""
        files = self._remove_abandoned(living)
        excess = sum(size for _, size, _ in files) + num_bytes - self.limit_bytes
        chosen = []
        for name, size in _order_evictable(files, living, urgent):
            if excess <= 0:
                break
            chosen.append(name)
            excess -= size
        if excess > 0 and num_bytes:
            return False
        for name in chosen:
            (self.folder / name).unlink()
        return True

    def _list_files(self) -> list[tuple[str, int, int]]:
        """List name, size in bytes and time of last use in ns of every shard, complete or being written."""
        found = []
        for path in (*self.folder.glob("*/*.tar"), *self.folder.glob("*/*.tar" + _TMP_SUFFIX)):
            if (
                _DIGEST_PATTERN.fullmatch(path.parent.name)
                and _FILE_PATTERN.fullmatch(path.name)
                and not path.parent.is_symlink()
            ):
                status = path.lstat()
                found.append((f"{path.parent.name}/{path.name}", status.st_size, status.st_mtime_ns))
        return found

    def _remove_abandoned(self, living: list[Claims]) -> list[tuple[str, int, int]]:
        """Remove unfinished files of dead processes; list the other files as ``_list_files`` does."""
        written = {name + _TMP_SUFFIX for claims in living for name in claims.writing}
        files = self._list_files()
        remains = {name for name, _, _ in files if name.endswith(_TMP_SUFFIX) and name not in written}
        for name in remains:
            (self.folder / name).unlink()
        return [file for file in files if file[0] not in remains]

    def _create_file(self, name: str, num_bytes: int) -> int:
        path = self.folder / (name + _TMP_SUFFIX)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC  # remains were removed before
        descriptor = -1
        try:
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(self._path(name + _TMP_SUFFIX), flags, 0o666)
            _allocate(descriptor, num_bytes)
        except OSError:
            self._remove_writing(name)
            if descriptor >= 0:
                os.close(descriptor)
                path.unlink()
            raise
        return descriptor

    def _add_writing(self, name: str) -> None:
        claims = self._lease.claims
        self._lease.write(replace(claims, writing=(*claims.writing, name)))

    def _remove_writing(self, name: str) -> None:
        claims = self._lease.claims
        self._lease.write(replace(claims, writing=tuple(other for other in claims.writing if other != name)))


def touch(path: Path | int) -> None:
    """Set the time of last use of a file, by path or descriptor, to now.

    The time is given explicitly, since the kernel's own timestamps are milliseconds apart, too coarse for the order of
    eviction.
    """
    now = time.time_ns()
    os.utime(path, ns=(now, now))


@contextmanager
def translate_os_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into a StreamError that says what to do about it."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "make it writable")
        reason = error.strerror or str(error)
        raise StreamError(f"cache folder {folder}: {reason}; {remedy}, or another folder with `cache`") from error


def _order_evictable(
    files: list[tuple[str, int, int]], leases: list[Claims], urgent: bool
) -> Iterator[tuple[str, int]]:
    """Yield name and size of the shards that may be evicted, the first to be evicted first."""
    use = {name for claims in leases for name in claims.use}
    soon: dict[str, int] = {}
    for claims in leases:
        for place, name in enumerate(claims.soon):
            soon[name] = min(place, soon.get(name, place))
    whole = [file for file in files if file[0] not in use and not file[0].endswith(_TMP_SUFFIX)]
    for name, size, _ in sorted(whole, key=lambda file: file[2]):
        if name not in soon:
            yield name, size
    if urgent:
        for name, size, _ in sorted(whole, key=lambda file: -soon.get(file[0], 0)):
            if name in soon:
                yield name, size


def _allocate(descriptor: int, num_bytes: int) -> None:
    """Allocate a file's full size, so that it counts towards the limit and a full disk is noticed before a download."""
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(descriptor, num_bytes)
