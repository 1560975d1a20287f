"""Shards of an object store, brought into a bounded cache of this machine before the stream needs them.

::

    staging = Staging(cache=Path("/scratch/cache"), limit_bytes=200 << 30)
    shards = StagedShards(location("s3://bucket/train"), manifest.digest, manifest.shards, staging, keep_steps=4)
    shards.expect(shards_of_step(number) for number in count(start_step))
    found = shards.descriptors(shards_of_step(start_step))   # one for each entry
    os.pread(int(found[0]), size, offset)

Threads walk along ``expect`` and fetch what is not here, as far as the limit allows: ahead of use, they evict only
what no process of this machine uses or is going to use. Every failure reaches the consumer in ``descriptors``, and
in bounded time. Use it in the process that made it: threads do not survive a fork.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cache import Cache, Place, refusals
from pipeline.errors import StreamError
from pipeline.fetch import Fetcher, Patience, write_at
from pipeline.horizon import Horizon
from pipeline.shards import allow_open_files
from sharding import layout

logger = logging.getLogger(__name__)

_MAX_STEPS_AHEAD = 1024
_POLL_S = 0.05  # how often other processes of the machine are looked at, when one waits for them
_FULL_S, _FAILED_S = 0.5, 30.0  # when staging ahead is tried again after a cache was full, or a shard failed
_LONG_WAIT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """Where and how shards are staged. ``limit_bytes`` is for all that the cache folder holds, of any data set.

    A shard that an earlier run has left in the cache is known by its name and size; ``verify`` reads it again, once,
    and compares its sha256.
    """

    cache: Path
    limit_bytes: int
    workers: int = 4
    verify: bool = False
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        """Refuse what could not stage anything."""
        if min(self.limit_bytes, self.workers) < 1:
            raise ValueError(f"limit_bytes {self.limit_bytes}, workers {self.workers}: expected positive numbers")


@dataclass(slots=True, kw_only=True)
class Tally:
    """What staging has done so far. ``hits``: shards that were in the cache when they were looked for."""

    downloads: int = 0
    downloaded_bytes: int = 0
    hits: int = 0
    waited_s: float = 0.0


class StagedShards:
    """As ``shards.Shards``, for a data set in an object store.

    A descriptor is valid from the call of ``descriptors`` that gave it until the ``keep_steps``-th call after that
    begins, or until ``close``; so long, its shard stays in the cache. With ``keep_steps`` 1 that is the next call.
    """

    def __init__(
        self, remote: Path, digest: str, records: Sequence[layout.ShardRecord], staging: Staging, keep_steps: int = 1
    ) -> None:
        """Open the cache; nothing is fetched yet. ``remote`` is a ``upath.UPath``, ``digest`` the manifest's.

        Raises StreamError if the cache folder cannot be used.
        """
        if keep_steps < 1:
            raise ValueError(f"keep_steps: received {keep_steps}, expected 1 or more")
        self.tally = Tally()
        self._digest, self._records, self._staging, self._keep_steps = digest, records, staging, keep_steps
        self._cache = Cache(staging.cache, staging.limit_bytes)
        self._fetcher = Fetcher(remote, staging.patience)
        allow_open_files(len(records))
        self._changed = threading.Condition()  # guards all that follows
        self._call = 0
        self._asked: dict[int, int] = {}  # shard → the last call that asked for it, as long as that keeps it open
        self._open: dict[int, int] = {}  # shard → descriptor
        self._demanded: set[int] = set()  # what the consumer is waiting for
        self._failed: dict[int, StreamError] = {}
        self._horizon = Horizon((), _MAX_STEPS_AHEAD)
        self._ahead: deque[int] = deque()  # seen on the horizon, to be fetched
        self._here: set[int] = set()  # in the cache when last looked, and claimed
        self._fetching: set[int] = set()
        self._not_before: dict[int, float] = {}
        self._ahead_not_before = self._moved = 0.0
        self._written_at: dict[int, int] = {}
        self._verified: set[int] = set()
        self._walking = self._closed = False
        self._broken: Exception | None = None
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(staging.workers)]
        for thread in self._threads:
            thread.start()

    # What the consumer calls.

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """As ``Shards.expect``: the next call of ``descriptors`` is the first of these steps. Replaces what was told.

        The iterator is advanced by one staging thread at a time, up to 1024 steps ahead.
        """
        with self._changed:
            self._horizon = Horizon(upcoming, _MAX_STEPS_AHEAD)
            self._ahead.clear()
            self._broken = None
            self._changed.notify_all()

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """As ``Shards.descriptors``.

        Raises StreamError if a shard cannot be had, or not all of these fit into the cache at once.
        """
        distinct, places = np.unique(shards, return_inverse=True)
        wanted = [int(shard) for shard in distinct]
        with self._changed:
            self._begin_step(wanted)
            self._wait_for(wanted)
            found = np.array([self._open[shard] for shard in wanted], np.int64)
        return found[places].reshape(shards.shape)

    def close(self) -> None:
        """End the threads, close every descriptor, give up all claims. What is in the cache stays."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._fetcher.close()
        for thread in self._threads:
            thread.join(_FAILED_S)
        while self._open:
            os.close(self._open.popitem()[1])
        self._cache.close()

    # The consumer's side; ``_changed`` is held.

    def _begin_step(self, wanted: list[int]) -> None:
        """Note what is wanted, and let go of what no step keeps any longer."""
        if self._closed:
            raise ValueError("the shards are closed")
        self._call += 1
        self._horizon.take()
        self._asked.update(dict.fromkeys(wanted, self._call))
        for shard in [s for s, call in self._asked.items() if call <= self._call - self._keep_steps]:
            self._let_go(shard)
        self._here = {s for s in self._here if s in self._asked or self._horizon.next_use(s) is not None}
        self._check_fit()
        self._claim()
        self._ahead_not_before = 0.0
        self._changed.notify_all()

    def _let_go(self, shard: int) -> None:
        del self._asked[shard]
        if shard in self._open:
            descriptor = self._open.pop(shard)
            with suppress(OSError):
                os.utime(descriptor)  # evicted by when it was last used, not by when it was opened
            os.close(descriptor)

    def _check_fit(self) -> None:
        needed = sum(self._records[shard].num_bytes for shard in self._asked)
        if needed > self._staging.limit_bytes:
            raise StreamError(
                f"cache folder {self._staging.cache}: {len(self._asked)} shards are needed at once, which are {needed} "
                f"bytes, and it may hold {self._staging.limit_bytes}; give --cache-size {needed} or more, or "
                "--order grouped, which needs few shards at a time"
            )

    def _claim(self) -> None:
        """Tell the other processes what this one uses, and what soon, in the order of use."""
        soon = [(self._horizon.next_use(shard) or 0, shard) for shard in self._here | self._fetching]
        names = [self._name(shard) for _, shard in sorted(soon) if shard not in self._asked]
        self._cache.claim([self._name(shard) for shard in self._asked], names)

    def _wait_for(self, wanted: list[int]) -> None:
        began = self._moved = time.monotonic()
        self._demand(wanted)
        try:
            while self._demanded:
                self._raise_failure()
                self._check_progress()
                self._changed.wait(_POLL_S)
                self._demand(wanted)
        finally:
            self._demanded.clear()
            self._failed.clear()
        waited_s = time.monotonic() - began
        self.tally.waited_s += waited_s
        if waited_s > _LONG_WAIT_S:
            names = ", ".join(self._records[shard].name for shard in wanted[:3])
            logger.info("waited %.1f s for %d shards (%s …); so far %s", waited_s, len(wanted), names, self.tally)

    def _demand(self, wanted: list[int]) -> None:
        """Open what is here; what is not, the threads must fetch before anything else."""
        for shard in wanted:
            if shard not in self._open and shard in self._here:
                descriptor = self._cache.open(self._name(shard), self._records[shard].num_bytes)
                if descriptor is None:
                    self._here.discard(shard)
                else:
                    self._open[shard] = descriptor
        missing = {shard for shard in wanted if shard not in self._open}
        for shard in missing - self._demanded:
            self._not_before.pop(shard, None)
            self._changed.notify_all()
        self._demanded = missing

    def _raise_failure(self) -> None:
        if self._broken is not None:
            raise self._broken
        for shard in self._demanded & self._failed.keys():
            raise self._failed[shard]

    def _check_progress(self) -> None:
        """No byte has come for longer than any fetch may be silent: give up instead of hanging."""
        idle_s = time.monotonic() - self._moved
        if idle_s > 1.5 * self._staging.patience.stall_s + 10 * _POLL_S:
            shard = self._records[min(self._demanded)]
            raise StreamError(
                f"shard {shard.name}.tar: nothing has come of it for {idle_s:.1f} s; the cache folder "
                f"{self._staging.cache} may hold {self._staging.limit_bytes} bytes, and {self._cache.used_bytes()} "
                "are taken, also by other processes; give a larger --cache-size, or end what holds them up"
            )

    # The threads.

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            shard, urgent = job
            outcome: Place | Exception
            try:
                with self._changed:
                    self._claim()
                outcome = self._stage(shard, urgent)
            except Exception as error:  # it belongs to the consumer
                outcome = error
            with self._changed:
                self._settle(shard, outcome)
                self._changed.notify_all()

    def _next_job(self) -> tuple[int, bool] | None:
        """A shard to fetch, and whether the consumer waits for it; None when all is over."""
        while True:
            with self._changed:
                if self._closed:
                    return None
                job = self._choose()
                if job is not None:
                    self._fetching.add(job[0])
                    return job
                if not self._may_walk():
                    self._changed.wait(self._idle_s())
                    continue
                self._walking, horizon = True, self._horizon
            self._walk(horizon)

    def _idle_s(self) -> float | None:
        """How long a thread may wait if nothing changes in this process."""
        return _POLL_S if self._demanded else _FULL_S if self._ahead else None

    def _choose(self) -> tuple[int, bool] | None:
        now = time.monotonic()
        for shard in sorted(self._demanded - self._fetching - self._here - self._failed.keys()):
            if self._not_before.get(shard, 0) <= now:
                return shard, True
        if self._ahead_not_before > now:
            return None
        self._ahead = deque(s for s in self._ahead if s not in self._here and self._horizon.next_use(s) is not None)
        for shard in islice(self._ahead, 2 * self._staging.workers):
            if shard not in self._fetching and self._not_before.get(shard, 0) <= now:
                return shard, False
        return None

    def _may_walk(self) -> bool:
        idle = len(self._ahead) < 2 * self._staging.workers and self._ahead_not_before <= time.monotonic()
        return idle and not self._walking and self._broken is None and self._horizon.may_look

    def _walk(self, horizon: Horizon) -> None:
        """Look one step further, without the lock: the consumer need not wait for it."""
        shards, broken = None, None
        try:
            shards = horizon.look()
        except Exception as error:  # it belongs to the consumer
            broken = error
        with self._changed:
            self._walking = False
            if horizon is self._horizon:
                self._broken = broken
                self._ahead.extend(s for s in horizon.see(shards) if s not in self._here)
            self._changed.notify_all()

    def _settle(self, shard: int, outcome: Place | Exception) -> None:
        """What came of a job."""
        self._fetching.discard(shard)
        now = time.monotonic()
        if outcome is Place.WHOLE or outcome is Place.YOURS:
            self._here.add(shard)
            self._moved = now
            self._count(shard, outcome)
        elif outcome is Place.ELSEWHERE:
            self._not_before[shard] = now + _POLL_S
            self._watch(shard)
        elif outcome is Place.FULL:
            self._not_before[shard] = now + _POLL_S
            self._ahead_not_before = now + _FULL_S
        elif isinstance(outcome, StreamError):
            self._not_before[shard] = now + _FAILED_S
            self._note_failure(shard, outcome)
        elif isinstance(outcome, Exception) and not self._closed:  # a mistake in here, or Closed
            self._broken = outcome

    def _count(self, shard: int, place: Place) -> None:
        downloaded = place is Place.YOURS
        self.tally.hits += not downloaded
        self.tally.downloads += downloaded
        self.tally.downloaded_bytes += downloaded * self._records[shard].num_bytes

    def _note_failure(self, shard: int, error: StreamError) -> None:
        """The consumer hears of it if it waits for the shard; if not, it is tried again until then."""
        if shard in self._demanded:
            self._failed[shard] = error
        else:
            logger.warning("staging ahead: %s (tried again)", error)

    def _watch(self, shard: int) -> None:
        """Another process writes: as long as it gets on, so do we."""
        written_at = self._cache.written_at(self._name(shard))
        if written_at != self._written_at.get(shard):
            self._written_at[shard] = written_at
            self._moved = time.monotonic()

    # One shard; no lock is held.

    def _stage(self, shard: int, urgent: bool) -> Place:
        record, name = self._records[shard], self._name(shard)
        place, descriptor = self._cache.reserve(name, record.num_bytes, urgent=urgent)
        if place is Place.WHOLE and self._is_damaged(shard):
            self._cache.remove(name)
            place, descriptor = self._cache.reserve(name, record.num_bytes, urgent=urgent)
        if place is Place.YOURS:
            self._download(shard, descriptor)
        return place

    def _is_damaged(self, shard: int) -> bool:
        """Whether a shard that an earlier run has left is not what it was, if that is to be asked."""
        if not self._staging.verify or shard in self._verified:
            return False
        with refusals(self._staging.cache), open(self._staging.cache / self._name(shard), "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 == self._records[shard].sha256:
            self._verified.add(shard)
        return shard not in self._verified

    def _download(self, shard: int, descriptor: int) -> None:
        record, name = self._records[shard], self._name(shard)

        def write(piece: bytes, offset: int) -> None:
            with refusals(self._staging.cache):
                write_at(descriptor, piece, offset)
            self._moved = time.monotonic()

        try:
            self._fetcher.fetch(record, write)
        except BaseException:
            self._cache.discard(name, descriptor)
            raise
        self._cache.publish(name, descriptor)
        self._verified.add(shard)

    def _name(self, shard: int) -> str:
        return f"{self._digest}/{self._records[shard].name}.tar"
