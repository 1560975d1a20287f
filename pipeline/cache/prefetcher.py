"""Download shards in background threads: first those that the consumer waits for, then those of the coming steps.

``reading.cached_shards`` is the consumer's side.

What is known of a shard is one record, ``ShardState``. It is kept as long as the shard is in use, needed by a coming
step, or being fetched.

One lock, ``changed``, guards them; downloads and the caller's iterator of coming steps run without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexstream.core.parameters import to_display
from alexstream.pipeline.cache.cache import Reservation
from alexstream.pipeline.cache.fetch import CacheOptions, ShardDownloader
from alexstream.pipeline.cache.lookahead import Lookahead
from alexstream.pipeline.errors import StreamError
from alexstream.sharding.dataset_v1.manifest import ShardRecord

logger = logging.getLogger(__name__)

POLL_S = 0.05  # interval of looking at other processes' work, while waiting for it
_MAX_STEPS_AHEAD = 1024
_JOIN_TIMEOUT_S = (
    10.0  # a thread inside a client that cannot be interrupted is left after this; it ends with the process
)
_RETRY_FULL_S, _RETRY_FAILED_S = 0.5, 30.0  # pauses in prefetching after the cache was full, and after a shard failed


@dataclass(slots=True, kw_only=True)
class CacheStats:
    """Count what was done so far. ``hits``: shards that were already in the cache."""

    downloads: int = 0
    downloaded_bytes: int = 0
    hits: int = 0
    waited_s: float = 0.0


@dataclass(slots=True)
class ShardState:
    """Hold what is known of one shard.

    ``in_use``: a step that is not over needs it. ``demanded``: it is in use and not open yet, so that the consumer
    waits for it. ``fetching``: a thread is bringing it into the cache. ``cached``: it is there, and claimed.
    ``failure``: its download failed while the consumer waited for it; until it is waited for anew. ``not_before``: when
    it may be tried again, since another process writes it, the cache was full or its download failed; until it is
    waited for anew. ``written_at_ns``: when another process was last seen to write it.
    """

    in_use: bool = False
    demanded: bool = False
    fetching: bool = False
    cached: bool = False
    failure: StreamError | None = None
    not_before: float = 0.0
    written_at_ns: int | None = None


class ShardFetcher:
    """Bring shards, by their numbers, into the cache. Hold ``changed`` to call any method but ``close``."""

    def __init__(
        self,
        remote: Path,
        digest: str,
        records: Sequence[ShardRecord],
        cache_options: CacheOptions,
        tally: CacheStats,
    ) -> None:
        """Start the threads. Raises StreamError if the cache folder cannot be used."""
        self.changed = threading.Condition()
        self._records, self._cache_options, self._tally = records, cache_options, tally
        self._downloader = ShardDownloader(remote, digest, records, cache_options, self._note_progress)
        self._lookahead = Lookahead((), _MAX_STEPS_AHEAD)
        self._shards: defaultdict[int, ShardState] = defaultdict(ShardState)
        self._broken: Exception | None = None  # for the consumer: raised by the iterator of steps, or a bug in here
        self._ahead: deque[int] = deque()  # to be fetched for coming steps, in the order of need
        self._ahead_not_before = self._moved = 0.0
        self._walking = self._closed = False
        self._threads = [threading.Thread(target=self._run_worker, daemon=True) for _ in range(cache_options.workers)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads and give up all claims."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        self._downloader.stop()
        deadline = time.monotonic() + _JOIN_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._downloader.cache.close()

    # Called by the consumer.

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """Replace the coming steps by ``upcoming``, the shards of each."""
        self._lookahead = Lookahead(upcoming, _MAX_STEPS_AHEAD)
        self._ahead.clear()
        self._broken = None
        self.changed.notify_all()

    def begin_step(self, asked: Collection[int]) -> None:
        """Begin the next step; the shards ``asked``, and no others, are in use from now on."""
        self._lookahead.take()
        for shard, state in self._shards.items():
            state.in_use = shard in asked
        for shard in asked:
            self._shards[shard].in_use = True
        self._forget_unneeded()
        self._update_claims()
        self._ahead_not_before, self._moved = 0.0, time.monotonic()
        self.changed.notify_all()

    def _forget_unneeded(self) -> None:
        for shard, state in list(self._shards.items()):
            if not (state.in_use or state.fetching or self._lookahead.next_use(shard) is not None):
                del self._shards[shard]

    def open(self, shard: int) -> int | None:
        """Open a shard that is in the cache; return its descriptor, or None if it is not there."""
        state = self._shards[shard]
        descriptor = self._downloader.open(shard) if state.cached else None
        state.cached = descriptor is not None
        return descriptor

    def demand(self, missing: set[int]) -> None:
        """Fetch these shards first, since the consumer waits for them; forget the failures of newly missing ones."""
        for shard in self._list_demanded():
            self._shards[shard].demanded = shard in missing
        for state in (self._shards[shard] for shard in missing):
            if not state.demanded:
                state.demanded, state.not_before, state.failure = True, 0.0, None
                self.changed.notify_all()

    def _list_demanded(self) -> list[int]:
        return [shard for shard, state in self._shards.items() if state.demanded]

    def check(self) -> None:
        """Raise what has gone wrong with the demanded shards, or StreamError if nothing progresses any more."""
        if self._broken is not None:
            raise self._broken
        for state in self._shards.values():
            if state.demanded and state.failure is not None:
                raise state.failure
        self._check_progress()

    def _check_progress(self) -> None:
        """Raise StreamError if no byte has arrived for longer than a download's own timeouts allow."""
        idle_s = time.monotonic() - self._moved
        if idle_s > 1.5 * self._cache_options.retry_policy.stall_s + 10 * POLL_S:
            shard, taken = self._records[min(self._list_demanded())], self._downloader.cache.used_bytes()
            raise StreamError(
                f"shard {shard.name}.tar: no bytes received for {idle_s:.1f} s; the cache folder "
                f"{self._cache_options.cache} may hold {self._cache_options.limit_bytes} bytes, and {taken} are in "
                "use, also by other processes; give a larger `cache_bytes`, or end those processes"
            )

    def _note_progress(self) -> None:
        self._moved = time.monotonic()

    def _update_claims(self) -> None:
        """Tell the other processes which shards this one uses, and which it will use soon, in the order of use."""
        claimed = [shard for shard, one in self._shards.items() if (one.cached or one.fetching) and not one.in_use]
        soon = sorted((self._lookahead.next_use(shard) or 0, shard) for shard in claimed)
        in_use = [self._downloader.make_name(shard) for shard, one in self._shards.items() if one.in_use]
        self._downloader.cache.set_claims(in_use, [self._downloader.make_name(shard) for _, shard in soon])

    # Run by the threads.

    def _run_worker(self) -> None:
        while (job := self._wait_for_job()) is not None:
            shard, urgent = job
            outcome: Reservation | Exception
            try:
                with self.changed:
                    self._update_claims()
                outcome = self._downloader.ensure_cached(shard, urgent=urgent)
            except Exception as error:  # raised in the consumer, by check()
                outcome = error
            with self.changed:
                self._record_outcome(shard, outcome)
                self.changed.notify_all()

    def _wait_for_job(self) -> tuple[int, bool] | None:
        """Wait for a shard to fetch; return it and whether the consumer waits for it, or None after ``close``."""
        while True:
            with self.changed:
                if self._closed:
                    return None
                job = self._choose_job()
                if job is not None:
                    self._shards[job[0]].fetching = True
                    return job
                if not self._may_look_ahead():
                    self.changed.wait(self._idle_s())
                    continue
                self._walking, lookahead = True, self._lookahead
            self._look_ahead(lookahead)

    def _idle_s(self) -> float | None:
        """Return how long a thread may wait in seconds if nothing changes in this process; None: for ever."""
        if self._list_demanded():
            return POLL_S
        return _RETRY_FULL_S if self._ahead or self._ahead_not_before > time.monotonic() else None

    def _choose_job(self) -> tuple[int, bool] | None:
        now = time.monotonic()
        for shard in sorted(self._list_demanded()):
            state = self._shards[shard]
            if not (state.fetching or state.cached or state.failure) and state.not_before <= now:
                return shard, True
        if self._ahead_not_before > now:
            return None
        needed = (shard for shard in self._ahead if self._lookahead.next_use(shard) is not None)
        self._ahead = deque(shard for shard in needed if not self._is_cached(shard))
        for shard in islice(self._ahead, 2 * self._cache_options.workers):
            if not self._shards[shard].fetching and self._shards[shard].not_before <= now:
                return shard, False
        return None

    def _is_cached(self, shard: int) -> bool:
        return shard in self._shards and self._shards[shard].cached

    def _may_look_ahead(self) -> bool:
        idle = len(self._ahead) < 2 * self._cache_options.workers and self._ahead_not_before <= time.monotonic()
        return idle and not self._walking and self._broken is None and self._lookahead.may_look

    def _look_ahead(self, lookahead: Lookahead) -> None:
        """Look one step further; without the lock, so that the consumer does not wait for the caller's iterator."""
        shards, broken = None, None
        try:
            shards = lookahead.look()
        except Exception as error:  # raised in the consumer, by check()
            broken = error
        with self.changed:
            self._walking = False
            if lookahead is self._lookahead:  # not replaced by expect() meanwhile
                self._broken = broken
                self._ahead.extend(s for s in lookahead.see(shards) if not self._is_cached(s))
            self.changed.notify_all()

    def _record_outcome(self, shard: int, outcome: Reservation | Exception) -> None:
        """Record the outcome of a job."""
        state, now = self._shards[shard], time.monotonic()
        state.fetching = False
        if outcome is Reservation.CACHED or outcome is Reservation.RESERVED:
            state.cached = True
            self._moved = now
            self._update_stats(shard, outcome)
        elif outcome is Reservation.BUSY:
            state.not_before = now + POLL_S
            self._track_writer(shard)
        elif outcome is Reservation.FULL:
            state.not_before = now + POLL_S
            self._ahead_not_before = now + _RETRY_FULL_S
        elif isinstance(outcome, StreamError):
            state.not_before = now + _RETRY_FAILED_S
            self._note_failure(shard, outcome)
        elif isinstance(outcome, Exception) and not self._closed:  # a bug in here, or Closed
            self._broken = outcome

    def _update_stats(self, shard: int, place: Reservation) -> None:
        downloaded = place is Reservation.RESERVED
        self._tally.hits += not downloaded
        self._tally.downloads += downloaded
        self._tally.downloaded_bytes += downloaded * self._records[shard].num_bytes

    def _note_failure(self, shard: int, error: StreamError) -> None:
        """Keep the error for the consumer if it waits for the shard; otherwise log it, since it is tried again."""
        if self._shards[shard].demanded:
            self._shards[shard].failure = error
        else:
            logger.warning("prefetching: %s (will be tried again)", to_display(str(error)))

    def _track_writer(self, shard: int) -> None:
        """Count it as progress when another process has written more of a shard that we wait for."""
        state = self._shards[shard]
        written_at_ns = self._downloader.cache.last_write_ns(self._downloader.make_name(shard))
        if written_at_ns != state.written_at_ns:
            state.written_at_ns = written_at_ns
            self._moved = time.monotonic()
