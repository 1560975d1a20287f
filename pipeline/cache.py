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
import fcntl
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from pipeline.errors import StreamError

_LOCK, _LEASE, _TMP = "alexstream.lock", ".lease", ".tmp"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LOCK_WAIT_S, _LOCK_POLL_S = 60.0, 0.002


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Shards, by their names in the cache, that a process wants kept: in use, or soon (in the order of their use)."""

    use: tuple[str, ...] = ()
    soon: tuple[str, ...] = ()
    writing: tuple[str, ...] = ()


class Cache:
    """One process's hold on a cache folder. A shard's name is ``<dataset digest>/<shard>.tar``."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Make the folder if it is not there, and bring it under the limit. Raises StreamError if it cannot be used."""
        self.folder, self.limit_bytes = folder, limit_bytes
        self._mutex = threading.Lock()
        self._claims = Claims()
        with refusals(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with self._exclusive():
                self._lease, self._lease_path = _new_lease(folder)
                try:
                    self._make_room(0, self._leases(), urgent=False)
                except BaseException:
                    self._end_lease()
                    raise

    def claim(self, use: Iterable[str], soon: Iterable[str]) -> None:
        """From now on these are in use, which nobody evicts, and these wanted soon, which go only if they must."""
        with refusals(self.folder), self._exclusive():
            self._write_lease(Claims(use=tuple(use), soon=tuple(soon), writing=self._claims.writing))

    def open(self, name: str, num_bytes: int) -> int | None:
        """A descriptor of a whole shard, for reading; None if it is not here."""
        with refusals(self.folder), self._exclusive():
            if not self._is_whole(name, num_bytes):
                return None
            os.utime(self.folder / name)
            return os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC)

    def reserve(self, name: str, num_bytes: int, *, urgent: bool) -> tuple[Place, int]:
        """Whether a shard is here, or a descriptor of its ``.tmp`` to write to, for ``publish`` or ``discard``.

        Room is made by evicting what no process claims, the least recently used first; if it is ``urgent``, then also
        what is wanted soon, the last needed first.
        """
        with refusals(self.folder), self._exclusive():
            leases = self._leases()
            if any(name in claims.writing for claims in leases):
                return Place.ELSEWHERE, -1
            if self._is_whole(name, num_bytes):
                os.utime(self.folder / name)
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
        with refusals(self.folder), self._exclusive():
            self._writes_no_more(name)
            os.replace(self.folder / (name + _TMP), self.folder / name)
            _sync_folder((self.folder / name).parent)

    def discard(self, name: str, descriptor: int) -> None:
        """What was written is not whole, and goes."""
        os.close(descriptor)
        with refusals(self.folder), self._exclusive():
            self._writes_no_more(name)
            (self.folder / (name + _TMP)).unlink(missing_ok=True)

    def written_at(self, name: str) -> int:
        """When something was last written of a shard that is on its way, by anybody; 0 if it is not."""
        with suppress(OSError):
            return (self.folder / (name + _TMP)).stat().st_mtime_ns
        return 0

    def remove(self, name: str) -> None:
        """A shard turned out to be damaged."""
        with refusals(self.folder), self._exclusive():
            (self.folder / name).unlink(missing_ok=True)

    def used_bytes(self) -> int:
        """Bytes of all shards, whole or being written."""
        with refusals(self.folder), self._exclusive():
            return sum(size for _, size, _ in self._files())

    def close(self) -> None:
        """Give up all claims. What is here stays for the next run."""
        with refusals(self.folder), self._exclusive():
            self._end_lease()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Nobody else, in this process or another, looks or changes."""
        with self._mutex:
            descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                _lock_before(descriptor, time.monotonic() + _LOCK_WAIT_S)
                yield
            finally:
                os.close(descriptor)

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

    def _make_room(self, num_bytes: int, leases: list[Claims], urgent: bool) -> bool:
        """Evict until there is room for ``num_bytes``; False, with nothing evicted in vain, if there cannot be."""
        files = self._without_remains(leases)
        excess = sum(size for _, size, _ in files) + num_bytes - self.limit_bytes
        chosen = []
        for name, size in _victims(files, leases, urgent):
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

    def _without_remains(self, leases: list[Claims]) -> list[tuple[str, int, int]]:
        """``_files``, once what dead processes were writing is removed."""
        written = {name + _TMP for claims in leases for name in claims.writing}
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

    def _leases(self) -> list[Claims]:
        """The claims of all living processes, this one's among them; leases of dead ones are removed."""
        found = [self._claims]
        for path in self.folder.glob("*" + _LEASE):
            if path != self._lease_path and (text := _read_lease(path)):
                found.append(Claims(**{key: tuple(names) for key, names in json.loads(text).items()}))
        return found

    def _writes(self, name: str) -> None:
        writing = (*self._claims.writing, name)
        self._write_lease(Claims(use=self._claims.use, soon=self._claims.soon, writing=writing))

    def _writes_no_more(self, name: str) -> None:
        writing = tuple(other for other in self._claims.writing if other != name)
        self._write_lease(Claims(use=self._claims.use, soon=self._claims.soon, writing=writing))

    def _write_lease(self, claims: Claims) -> None:
        if claims != self._claims and self._lease >= 0:
            fields = {"use": claims.use, "soon": claims.soon, "writing": claims.writing}
            text = json.dumps(fields).encode()
            os.ftruncate(self._lease, 0)
            os.pwrite(self._lease, text, 0)
        self._claims = claims

    def _end_lease(self) -> None:
        self._lease_path.unlink(missing_ok=True)
        os.close(self._lease)
        self._lease = -1


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """What the disk refuses becomes a StreamError with what to do about it."""
    try:
        yield
    except OSError as error:
        room = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "give --cache-size less than its disk has" if room else "make it writable"
        reason = error.strerror or str(error)
        raise StreamError(f"cache folder {folder}: {reason}; {remedy}, or another folder with --cache-dir") from error


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


def _new_lease(folder: Path) -> tuple[int, Path]:
    descriptor, name = tempfile.mkstemp(suffix=_LEASE, dir=folder)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor, Path(name)


def _read_lease(path: Path) -> bytes:
    """What a living process's lease says; nothing, and the lease is removed, if its process is dead."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    else:
        path.unlink()
        return b""
    finally:
        os.close(descriptor)


def _lock_before(descriptor: int, deadline: float) -> None:
    """Take a lock, or say that somebody has held it for too long: a stopped process must not stop all others."""
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, f"another process has held {_LOCK} for {_LOCK_WAIT_S:.0f} s")
        time.sleep(_LOCK_POLL_S)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
