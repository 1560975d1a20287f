"""One shard from an object store into an open file: in ranged reads, hashed while they come, each with a deadline.

What a store can do wrong becomes a StreamError in bounded time: it answers late, never, with an error, with less than
it said, or with other bytes. Called by ``staging``'s threads.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StreamError
from sharding.layout import ShardRecord

_FINAL = (FileNotFoundError, PermissionError)  # asking again gives the same answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How a store is asked: ``attempts`` times for each piece, ``timeout_s`` each, ``limit_s`` for a whole shard.

    Pauses between attempts begin with ``backoff_s`` and double.
    """

    chunk_bytes: int = 8 << 20
    attempts: int = 4
    timeout_s: float = 30.0
    backoff_s: float = 0.5
    limit_s: float = 1800.0

    def __post_init__(self) -> None:
        """Refuse what would never ask, or never end."""
        if min(self.chunk_bytes, self.attempts) < 1 or min(self.timeout_s, self.limit_s) <= 0 or self.backoff_s < 0:
            raise ValueError(f"received {self}, expected positive numbers")

    def pause_s(self, attempt: int) -> float:
        """How long to wait before this attempt; the first is number 0."""
        return self.backoff_s * 2.0 ** (attempt - 1) if attempt else 0.0

    @property
    def stall_s(self) -> float:
        """The longest time without a byte before a shard is given up."""
        return self.attempts * self.timeout_s + sum(self.pause_s(i) for i in range(self.attempts))


class Closed(Exception):
    """The fetcher was closed while it fetched."""


class Fetcher:
    """Reads shards from ``remote``, a path of an object store; any number of threads may use it."""

    def __init__(self, remote: Path, patience: Patience) -> None:
        """Nothing is asked yet."""
        self.remote, self.patience = remote, patience
        self._closed = threading.Event()
        self._waiting: set[Future[bytes]] = set()

    def fetch(self, record: ShardRecord, write: Callable[[bytes, int], None]) -> None:
        """Give all of a shard to ``write``, piece by piece, with each piece's offset; again from 0 if it was damaged.

        Raises StreamError when the store does not give the shard that the manifest names, Closed after ``close``.
        """
        deadline = time.monotonic() + self.patience.limit_s
        received = ""
        for attempt in range(self.patience.attempts):
            self._pause(attempt)
            size, sha256 = self._copy(record, write, deadline)
            if sha256 == record.sha256:
                return
            received = f"{size} bytes with sha256 {sha256[:12]}…"
        raise self._error(
            record,
            f"received {received} in each of {self.patience.attempts} attempts, expected {record.num_bytes} bytes with "
            f"{record.sha256[:12]}…; copy the shard to the store again, or shard the source again",
        )

    def close(self) -> None:
        """End what is being fetched, with Closed."""
        self._closed.set()
        for future in tuple(self._waiting):
            future.cancel()

    def _copy(self, record: ShardRecord, write: Callable[[bytes, int], None], deadline: float) -> tuple[int, str]:
        """Read a shard once, to its end or to where the store's copy ends; its size and sha256."""
        sha256, size = hashlib.sha256(), 0
        while size < record.num_bytes:
            end = min(size + self.patience.chunk_bytes, record.num_bytes)
            piece = self._piece(record, size, end, deadline)
            sha256.update(piece)
            write(piece, size)
            size += len(piece)
            if size < end:
                break
        return size, sha256.hexdigest()

    def _piece(self, record: ShardRecord, start: int, end: int, deadline: float) -> bytes:
        """Bytes ``start`` to ``end``, with as many attempts as it takes and is allowed."""
        reason: Exception | None = None
        for attempt in range(self.patience.attempts):
            self._pause(attempt)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            try:
                return self._read(record, start, end, min(self.patience.timeout_s, left_s))
            except Exception as error:  # each store's client has exceptions of its own
                if self._closed.is_set():
                    raise Closed from error
                reason = error
                if isinstance(error, _FINAL):
                    break
        in_time = time.monotonic() < deadline
        raise self._refused(record, start, reason if in_time else None) from reason

    def _read(self, record: ShardRecord, start: int, end: int, timeout_s: float) -> bytes:
        remote: Any = self.remote / f"{record.name}.tar"
        if not remote.fs.async_impl:
            return bytes(remote.fs.cat_file(remote.path, start=start, end=end))
        # Handed to the client's own loop, and not through its blocking calls: those cannot be given up.
        coroutine = remote.fs._cat_file(remote.path, start=start, end=end)
        future: Future[bytes] = asyncio.run_coroutine_threadsafe(coroutine, remote.fs.loop)
        self._waiting.add(future)
        try:
            if self._closed.is_set():
                raise Closed
            return bytes(future.result(timeout_s))
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {timeout_s:.3g} s") from error
        finally:
            future.cancel()
            self._waiting.discard(future)

    def _pause(self, attempt: int) -> None:
        if self._closed.wait(self.patience.pause_s(attempt)):
            raise Closed

    def _refused(self, record: ShardRecord, start: int, reason: Exception | None) -> StreamError:
        """What to tell when a piece did not come."""
        if isinstance(reason, FileNotFoundError):
            return self._error(record, "is not there; copy the shard there, or shard the source again")
        if isinstance(reason, PermissionError):
            return self._error(record, f"may not be read ({_line(reason)}); check the store's keys and permissions")
        if reason is None:
            limit = f"not whole after {self.patience.limit_s:.3g} s: {start} of {record.num_bytes} bytes received"
            return self._error(record, f"{limit}; check the connection to the store, then run the command again")
        remedy = "check the connection to the store, then run the command again"
        tried = f"{start} of {record.num_bytes} bytes received, then {self.patience.attempts} attempts failed"
        return self._error(record, f"{tried}, the last with {_line(reason)}; {remedy}")

    def _error(self, record: ShardRecord, what: str) -> StreamError:
        return StreamError(f"shard {self.remote / record.name}.tar: {what}")


def write_at(descriptor: int, piece: bytes, offset: int) -> None:
    """Write all of ``piece`` at ``offset``."""
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
