"""What each living process of a machine wants kept in a cache folder: its lease, a file that it keeps locked.

A lock ends with its process, however that ends: a dead process's lease can be locked by anybody, and is removed.
Called by ``cache``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_LOCK, _LEASE = "alexstream.lock", ".lease"
_LOCK_WAIT_S, _LOCK_POLL_S = 60.0, 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Shards, by their names in the cache, that a process wants kept: in use, or soon (in the order of their use)."""

    use: tuple[str, ...] = ()
    soon: tuple[str, ...] = ()
    writing: tuple[str, ...] = ()


class Lease:
    """This process's lease. Everything here is called within ``exclusive``."""

    def __init__(self, folder: Path) -> None:
        """Make it; nothing is claimed."""
        self.claims = Claims()
        self._folder = folder
        self._descriptor, name = tempfile.mkstemp(suffix=_LEASE, dir=folder)
        self._path = Path(name)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def ended(self) -> bool:
        """Whether ``end`` was called."""
        return self._descriptor < 0

    def write(self, claims: Claims) -> None:
        """Claim this from now on, and nothing else."""
        if claims != self.claims and not self.ended:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(asdict(claims)).encode(), 0)
            self.claims = claims

    def all_claims(self) -> list[Claims]:
        """The claims of all living processes, this one's first."""
        found = [self.claims]
        for path in self._folder.glob("*" + _LEASE):
            if path != self._path and (text := _read(path)):
                found.append(Claims(**{key: tuple(names) for key, names in json.loads(text).items()}))
        return found

    def end(self) -> None:
        """Give up all claims."""
        if not self.ended:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Nobody else looks at the folder's leases and files, or changes them. Raises OSError if that cannot be had."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock_before(descriptor, time.monotonic() + _LOCK_WAIT_S)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
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
