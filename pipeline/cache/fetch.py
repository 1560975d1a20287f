"""Download shards from an object store into the cache, in ranged reads with timeouts, hashing bytes as they arrive.

Every failure of a store becomes a StreamError in bounded time: late answers, no answer, errors, missing bytes, wrong
bytes. Called by the threads of ``prefetcher``.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexstream.pipeline.cache.cache import Reservation, ShardCache, translate_os_errors
from alexstream.pipeline.errors import StreamError
from alexstream.sharding.dataset_v1.layout import shard_paths
from alexstream.sharding.dataset_v1.manifest import ShardRecord

_NOT_RETRIED = (FileNotFoundError, PermissionError)  # asking again gives the same answer


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Hold timeouts and retries: ``attempts`` for each chunk, ``timeout_s`` for each attempt, ``limit_s`` for a shard.

    The pause before the second attempt is ``backoff_s``; it doubles with each further attempt.
    """

    chunk_bytes: int = 8 << 20
    attempts: int = 4
    timeout_s: float = 30.0
    backoff_s: float = 0.5
    limit_s: float = 1800.0

    def __post_init__(self) -> None:
        if min(self.chunk_bytes, self.attempts) < 1 or min(self.timeout_s, self.limit_s) <= 0 or self.backoff_s < 0:
            raise ValueError(f"received {self}, expected positive numbers")

    def pause_s(self, attempt: int) -> float:
        """Return the pause before an attempt, in seconds; the first attempt is number 0."""
        return self.backoff_s * 2.0 ** (attempt - 1) if attempt else 0.0

    @property
    def stall_s(self) -> float:
        """The longest time without a byte before a shard is given up."""
        return self.attempts * self.timeout_s + sum(self.pause_s(i) for i in range(self.attempts))


class FetcherClosed(Exception):
    """Raised by a download when its ``StoreReader`` is closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """Hold the options of the cache: its folder, its size, the number of download threads, retries.

    ``limit_bytes`` counts all shards in the folder, of any data set. A shard that an earlier run left in the cache is
    recognized by name and size; ``verify`` also compares its sha256, once.
    """

    cache: Path
    limit_bytes: int
    workers: int = 4
    verify: bool = False
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        if min(self.limit_bytes, self.workers) < 1:
            raise ValueError(f"limit_bytes {self.limit_bytes}, workers {self.workers}: expected positive numbers")


class StoreReader:
    """Download shards from ``remote``, a folder of an object store (``upath.UPath``). Thread-safe."""

    def __init__(self, remote: Path, retry_policy: RetryPolicy) -> None:
        self.remote, self.policy = remote, retry_policy
        self._closed = threading.Event()
        self._waiting: set[Future[bytes]] = set()

    def fetch(self, record: ShardRecord, write: Callable[[bytes, int], None]) -> None:
        """Download a shard, calling ``write(bytes, offset)`` for each chunk; start again if the sha256 differs.

        Raises StreamError if the store does not deliver the shard that the manifest describes, Closed after ``close``.
        """
        deadline = time.monotonic() + self.policy.limit_s
        received = ""
        for attempt in range(self.policy.attempts):
            self._pause(attempt)
            size, sha256 = self._download_once(record, write, deadline)
            if sha256 == record.sha256:
                return
            received = f"{size} bytes with sha256 {sha256[:12]}…"
        raise self._error(
            record,
            f"received {received} in each of {self.policy.attempts} attempts, expected {record.num_bytes} bytes with "
            f"{record.sha256[:12]}…; copy the shard to the store again, or shard the source again",
        )

    def close(self) -> None:
        """Cancel all downloads, which then raise Closed."""
        self._closed.set()
        for future in tuple(self._waiting):
            future.cancel()

    def _download_once(
        self, record: ShardRecord, write: Callable[[bytes, int], None], deadline: float
    ) -> tuple[int, str]:
        """Download a shard once, to its end or to that of a shorter object; return the size and sha256 received."""
        sha256, size = hashlib.sha256(), 0
        while size < record.num_bytes:
            end = min(size + self.policy.chunk_bytes, record.num_bytes)
            piece = self._read_chunk(record, size, end, deadline)
            sha256.update(piece)
            write(piece, size)
            size += len(piece)
            if size < end:
                break
        return size, sha256.hexdigest()

    def _read_chunk(self, record: ShardRecord, start: int, end: int, deadline: float) -> bytes:
        """Read bytes ``start`` to ``end`` of a shard, retrying as the policy allows. Raises StreamError, Closed."""
        reason: Exception | None = None
        for attempt in range(self.policy.attempts):
            self._pause(attempt)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            try:
                return self._read(record, start, end, min(self.policy.timeout_s, left_s))
            except Exception as error:  # each store's client has exceptions of its own
                if self._closed.is_set():
                    raise FetcherClosed from error
                reason = error
                if isinstance(error, _NOT_RETRIED):
                    break
        in_time = time.monotonic() < deadline
        raise self._make_chunk_error(record, start, reason if in_time else None) from reason

    def _read(self, record: ShardRecord, start: int, end: int, timeout_s: float) -> bytes:
        remote: Any = shard_paths(self.remote, record.name).tar
        if not remote.fs.async_impl:
            return bytes(remote.fs.cat_file(remote.path, start=start, end=end))
        # Submitted to the client's own event loop, since its blocking calls can neither time out nor be canceled.
        coroutine = remote.fs._cat_file(remote.path, start=start, end=end)
        future: Future[bytes] = asyncio.run_coroutine_threadsafe(coroutine, remote.fs.loop)
        self._waiting.add(future)
        try:
            if self._closed.is_set():
                raise FetcherClosed
            return bytes(future.result(timeout_s))
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {timeout_s:.3g} s") from error
        finally:
            future.cancel()
            self._waiting.discard(future)

    def _pause(self, attempt: int) -> None:
        if self._closed.wait(self.policy.pause_s(attempt)):
            raise FetcherClosed

    def _make_chunk_error(self, record: ShardRecord, start: int, reason: Exception | None) -> StreamError:
        """Make the error for a chunk that could not be read; ``reason`` None: the shard's time limit has passed."""
        if isinstance(reason, FileNotFoundError):
            return self._error(record, "does not exist; copy the shard there, or shard the source again")
        if isinstance(reason, PermissionError):
            return self._error(
                record, f"may not be read ({_first_line(reason)}); check the store's keys and permissions"
            )
        if reason is None:
            limit = f"incomplete after {self.policy.limit_s:.3g} s: {start} of {record.num_bytes} bytes received"
            return self._error(record, f"{limit}; check the connection to the store, then run the command again")
        remedy = "check the connection to the store, then run the command again"
        tried = f"{start} of {record.num_bytes} bytes received, then {self.policy.attempts} attempts failed"
        return self._error(record, f"{tried}, the last with {_first_line(reason)}; {remedy}")

    def _error(self, record: ShardRecord, what: str) -> StreamError:
        return StreamError(f"shard {self.remote / record.name}.tar: {what}")


def write_at(descriptor: int, piece: bytes, offset: int) -> None:
    """Write all of ``piece`` at byte ``offset``, in as many calls as it takes."""
    view = memoryview(piece)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _first_line(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return (reason.splitlines() or [""])[0] or type(error).__name__


class ShardDownloader:
    """Bring shards, by their numbers, into the cache. Thread-safe. ``on_progress`` is called after every write."""

    def __init__(
        self,
        remote: Path,
        digest: str,
        records: Sequence[ShardRecord],
        cache_options: CacheOptions,
        on_progress: Callable[[], None],
    ) -> None:
        """Open the cache. Raises StreamError if its folder cannot be used."""
        self._digest, self._records = digest, records
        self._cache_options, self._on_progress = cache_options, on_progress
        self.cache = ShardCache(cache_options.cache, cache_options.limit_bytes)
        self._reader = StoreReader(remote, cache_options.retry_policy)
        self._verified: set[int] = set()

    def make_name(self, shard: int) -> str:
        """Return a shard's name in the cache."""
        return f"{self._digest}/{self._records[shard].name}.tar"

    def open(self, shard: int) -> int | None:
        """Open a shard in the cache; return its descriptor, or None if it is not there."""
        return self.cache.open(self.make_name(shard), self._records[shard].num_bytes)

    def ensure_cached(self, shard: int, *, urgent: bool) -> Reservation:
        """Bring a shard into the cache, if it is not there.

        Returns CACHED if it was there, RESERVED if it was downloaded, BUSY or FULL if it could not be reserved now.
        Raises StreamError if the download or writing fails, FetcherClosed after ``stop``.
        """
        record, name = self._records[shard], self.make_name(shard)
        place, descriptor = self.cache.reserve(name, record.num_bytes, urgent=urgent)
        if place is Reservation.CACHED and self._is_damaged(shard):
            self.cache.remove(name)
            place, descriptor = self.cache.reserve(name, record.num_bytes, urgent=urgent)
        if place is Reservation.RESERVED:
            self._download(shard, descriptor)
        return place

    def stop(self) -> None:
        """Cancel all downloads."""
        self._reader.close()

    def _is_damaged(self, shard: int) -> bool:
        """Return True if ``verify`` is on and the sha256 of a shard that an earlier run left is not the manifest's."""
        if not self._cache_options.verify or shard in self._verified:
            return False
        with (
            translate_os_errors(self._cache_options.cache),
            open(self._cache_options.cache / self.make_name(shard), "rb") as file,
        ):
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 == self._records[shard].sha256:
            self._verified.add(shard)
        return shard not in self._verified

    def _download(self, shard: int, descriptor: int) -> None:
        record, name = self._records[shard], self.make_name(shard)

        def write(piece: bytes, offset: int) -> None:
            with translate_os_errors(self._cache_options.cache):
                write_at(descriptor, piece, offset)
            self._on_progress()

        try:
            self._reader.fetch(record, write)
        except BaseException:
            self.cache.discard(name, descriptor)
            raise
        self.cache.publish(name, descriptor)
        self._verified.add(shard)
