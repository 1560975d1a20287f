"""Leases: files in which each process of a machine lists the shards of a cache folder that it uses.

A process keeps its lease locked. The lock ends with the process, however that ends, so another process that can lock
the lease knows that its owner is dead, and removes it. Called by ``cache``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from alexstream.core.schema import from_json, parse_json
from alexstream.pipeline.errors import StreamError

_LOCK_NAME, _LEASE_SUFFIX = "alexstream.lock", ".lease"
_LEASE_PATTERN = re.compile(r"tmp[a-z0-9_]{8}\.lease")  # as ``tempfile`` names them; other files are not ours
_LOCK_WAIT_S, _LOCK_POLL_S = 60.0, 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """List shards, by their names in the cache, that a process uses, will use soon (in that order), or is writing."""

    use: tuple[str, ...] = ()
    soon: tuple[str, ...] = ()
    writing: tuple[str, ...] = ()


class Lease:
    """Hold this process's lease. Call its methods only within ``lock_folder``."""

    def __init__(self, folder: Path) -> None:
        """Create and lock the lease, with no claims."""
        self.claims = Claims()
        self._folder = folder
        self._descriptor, name = tempfile.mkstemp(suffix=_LEASE_SUFFIX, dir=folder)
        self._path = Path(name)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def ended(self) -> bool:
        """True after ``end`` was called."""
        return self._descriptor < 0

    def write(self, claims: Claims) -> None:
        """Replace this process's claims."""
        if claims != self.claims and not self.ended:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(asdict(claims)).encode(), 0)
            self.claims = claims

    def all_claims(self) -> list[Claims]:
        """Return the claims of all living processes, this one's first."""
        found = [self.claims]
        for path in self._folder.glob("*" + _LEASE_SUFFIX):
            if path != self._path and _LEASE_PATTERN.fullmatch(path.name) and (text := _read_lease(path)):
                found.append(_parse_claims(path, text))
        return found

    def end(self) -> None:
        """Give up all claims and remove the lease."""
        if not self.ended:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def _parse_claims(path: Path, text: bytes) -> Claims:
    """Parse a lease. Raises StreamError if it is invalid, or written by another version."""
    try:
        return from_json(Claims, parse_json(text))
    except ValueError as error:
        raise StreamError(
            f"cache folder {path.parent}: a process that runs another version of alexstream is using it ({path.name}: "
            f"{error}); wait for it, or give another folder with `cache`"
        ) from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock the folder against all other processes. Raises OSError if the lock cannot be had within a minute."""
    descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        _lock_until(descriptor, time.monotonic() + _LOCK_WAIT_S)
        yield
    finally:
        os.close(descriptor)


def _read_lease(path: Path) -> bytes:
    """Read the lease of a living process; if its process is dead, remove it and return no bytes."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
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


def _lock_until(descriptor: int, deadline: float) -> None:
    """Take a lock, polling until ``deadline``, since a suspended process must not block all others for ever.

    Raises OSError (EBUSY) at the deadline.
    """
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, f"another process has held {_LOCK_NAME} for {_LOCK_WAIT_S:.0f} s")
        time.sleep(_LOCK_POLL_S)
