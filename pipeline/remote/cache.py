"""A bounded folder of whole shards that the processes of one machine share; the only module that writes into it.

::

    CACHE/alexstream.lock              held for milliseconds, by whoever looks or changes
    CACHE/<random>.lease               one a process, locked while it lives: what it uses, wants soon, is writing
    CACHE/<dataset digest>/<shard>.tar       whole, and its sha256 was right when it was written
    CACHE/<dataset digest>/<shard>.tar.tmp   being written, of full size from the start; nobody's if no lease names it

Locks end with their process, so a killed one blocks nobody, and what it was writing is removed. Only folders with
the name of a digest are ever counted or emptied. The folder must be on a disk of this machine: ``flock`` decides.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum, auto
from pathlib import Path

from pipeline.errors import StreamError
from pipeline.remote.lease import Claims, Lease, exclusive

_TMP = ".tmp"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NO_ROOM = "give --cache-size less than its disk has"
_REMEDIES = {errno.ENOSPC: _NO_ROOM, errno.EDQUOT: _NO_ROOM, errno.EFBIG: _NO_ROOM, errno.EBUSY: "end that process"}


class Place(Enum):
    """What ``reserve`` found."""

    WHOLE = auto()
    """It is in the cache."""
    ELSEWHERE = auto()
    """Another process, or another stream of this one, is writing it."""
    FULL = auto()
    """There is no room, and nothing that may go."""
    YOURS = auto()
    """There is room; it is for the caller to write."""


class Cache:
    """One process's hold on a cache folder. A shard's name is ``<dataset digest>/<shard>.tar``."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Make the folder if it is not there, and bring it under the limit. Raises StreamError if it cannot be used."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self._mutex = threading.Lock()
        with refusals(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder):
                self._lease = Lease(folder)
                try:
                    self._make_room(0, self._lease.all_claims(), urgent=False)
                except BaseException:
                    self._lease.end()
                    raise

    def claim(self, use: Iterable[str], soon: Iterable[str]) -> None:
        """From now on these are in use, which nobody evicts, and these wanted soon, which go only if they must."""
        with self._alone():
            self._lease.write(replace(self._lease.claims, use=tuple(use), soon=tuple(soon)))

    def open(self, name: str, num_bytes: int) -> int | None:
        """A descriptor of a whole shard, for reading; None if it is not here."""
        with self._alone():
            if not self._is_whole(name, num_bytes):
                return None
            touch(self.folder / name)
            return os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)

    def reserve(self, name: str, num_bytes: int, *, urgent: bool) -> tuple[Place, int]:
        """Whether a shard is here, or a descriptor of its ``.tmp`` to write to, for ``publish`` or ``discard``.

        Room is made by evicting what no process claims, the least recently used first; if it is ``urgent``, then also
        what is wanted soon, the last needed first.
        """
        with self._alone():
            leases = self._lease.all_claims()
            if any(name in claims.writing for claims in leases):
                return Place.ELSEWHERE, -1
            if self._is_whole(name, num_bytes):
                touch(self.folder / name)
                return Place.WHOLE, -1
            if not self._make_room(num_bytes, leases, urgent):
                return Place.FULL, -1
            self._writes(name)
            return Place.YOURS, self._create(name, num_bytes)

    def publish(self, name: str, descriptor: int) -> None:
        """What was written is whole: bring it to the disk, and under its name."""
        try:
            with refusals(self.folder):
                os.fsync(descriptor)
        except StreamError:
            self.discard(name, descriptor)
            raise
        os.close(descriptor)
        with self._alone():
            if not self._lease.ended:  # else the .tmp is another's by now
                os.replace(self.folder / (name + _TMP), self.folder / name)
                self._writes_no_more(name)
                _sync_folder((self.folder / name).parent)

    def discard(self, name: str, descriptor: int) -> None:
        """What was written is not whole, and goes."""
        os.close(descriptor)
        with self._alone():
            if not self._lease.ended:
                (self.folder / (name + _TMP)).unlink(missing_ok=True)
                self._writes_no_more(name)

    def written_at(self, name: str) -> int:
        """When something was last written of a shard that is on its way, by anybody; 0 if it is not."""
        with suppress(OSError):
            return (self.folder / (name + _TMP)).stat().st_mtime_ns
        return 0

    def remove(self, name: str) -> None:
        """A shard turned out to be damaged."""
        with self._alone():
            (self.folder / name).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Bytes of all shards, whole or being written."""
        with self._alone():
            return sum(size for _, size, _ in self._files())

    def close(self) -> None:
        """Give up all claims. What is here stays for the next run."""
        with self._alone():
            self._lease.end()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else, in this process or another, looks or changes."""
        with refusals(self.folder), self._mutex, exclusive(self.folder):
            yield

    def _is_whole(self, name: str, num_bytes: int) -> bool:
        """Whether a shard is here; one of another size was not written by this module, and goes."""
        path = self.folder / name
        try:
            if path.stat().st_size == num_bytes:
                return True
        except FileNotFoundError:
            return False
        path.unlink()
        return False

    def _make_room(self, num_bytes: int, living: list[Claims], urgent: bool) -> bool:
        """Evict until there is room for ``num_bytes``; False, with nothing evicted in vain, if there cannot be."""
        files = self._without_remains(living)
        excess = sum(size for _, size, _ in files) + num_bytes - self.limit_bytes
        chosen = []
        for name, size in _victims(files, living, urgent):
            if excess <= 0:
                break
            chosen.append(name)
            excess -= size
        if excess > 0 and num_bytes:
            return False
        for name in chosen:
            (self.folder / name).unlink()
        return True

    def _files(self) -> list[tuple[str, int, int]]:
        """Name, size and time of last use of every file that the cache has written or is writing."""
        found = []
        for path in (*self.folder.glob("*/*.tar"), *self.folder.glob("*/*.tar" + _TMP)):
            if _DIGEST.fullmatch(path.parent.name):
                status = path.lstat()
                found.append((f"{path.parent.name}/{path.name}", status.st_size, status.st_mtime_ns))
        return found

    def _without_remains(self, living: list[Claims]) -> list[tuple[str, int, int]]:
        """``_files``, once what dead processes were writing is removed."""
        written = {name + _TMP for claims in living for name in claims.writing}
        files = self._files()
        remains = {name for name, _, _ in files if name.endswith(_TMP) and name not in written}
        for name in remains:
            (self.folder / name).unlink()
        return [file for file in files if file[0] not in remains]

    def _create(self, name: str, num_bytes: int) -> int:
        path = self.folder / (name + _TMP)
        descriptor = -1
        try:
            path.parent.mkdir(exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            _allocate(descriptor, num_bytes)
        except OSError:
            self._writes_no_more(name)
            if descriptor >= 0:
                os.close(descriptor)
                path.unlink()
            raise
        return descriptor

    def _writes(self, name: str) -> None:
        claims = self._lease.claims
        self._lease.write(replace(claims, writing=(*claims.writing, name)))

    def _writes_no_more(self, name: str) -> None:
        claims = self._lease.claims
        self._lease.write(replace(claims, writing=tuple(other for other in claims.writing if other != name)))


def touch(path: Path | int) -> None:
    """Note that a file (or an open one's descriptor) is used now, finer than the kernel's own clock for files."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """What the disk refuses becomes a StreamError with what to do about it."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "make it writable")
        reason = error.strerror or str(error)
        raise StreamError(f"cache folder {folder}: {reason}; {remedy}, or another folder with --cache") from error


def _victims(files: list[tuple[str, int, int]], leases: list[Claims], urgent: bool) -> Iterator[tuple[str, int]]:
    """What may be evicted, with its size, in the order in which it should."""
    use = {name for claims in leases for name in claims.use}
    soon: dict[str, int] = {}
    for claims in leases:
        for place, name in enumerate(claims.soon):
            soon[name] = min(place, soon.get(name, place))
    whole = [file for file in files if file[0] not in use and not file[0].endswith(_TMP)]
    for name, size, _ in sorted(whole, key=lambda file: file[2]):
        if name not in soon:
            yield name, size
    if urgent:
        for name, size, _ in sorted(whole, key=lambda file: -soon.get(file[0], 0)):
            if name in soon:
                yield name, size


def _allocate(descriptor: int, num_bytes: int) -> None:
    """Give a file its full size, so that it counts and a full disk is noticed before anything is downloaded."""
    try:
        os.posix_fallocate(descriptor, 0, num_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(descriptor, num_bytes)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
