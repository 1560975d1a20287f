"""Threads that bring shards into the cache: first what the consumer waits for, then what the horizon shows.

They tell the consumer what became of it; ``staging`` is the consumer's side.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StreamError
from pipeline.remote.cache import Place
from pipeline.remote.delivery import Delivery, Staging
from pipeline.remote.horizon import Horizon
from sharding import layout

logger = logging.getLogger(__name__)

POLL_S = 0.05  # how often other processes of the machine are looked at, when one waits for them
_MAX_STEPS_AHEAD = 1024
_CLOSE_S = 10.0  # for threads in the hands of a client that cannot be interrupted; they end with the process
_FULL_S, _FAILED_S = 0.5, 30.0  # when staging ahead is tried again after a cache was full, or a shard failed


@dataclass(slots=True, kw_only=True)
class Tally:
    """What staging has done so far. ``hits``: shards that were in the cache when they were looked for."""

    downloads: int = 0
    downloaded_bytes: int = 0
    hits: int = 0
    waited_s: float = 0.0


class Stager:
    """Brings shards, by their numbers. ``changed`` guards it: hold it to call anything but ``close``."""

    def __init__(
        self, remote: Path, digest: str, records: Sequence[layout.ShardRecord], staging: Staging, tally: Tally
    ) -> None:
        """Start the threads. Raises StreamError if the cache folder cannot be used."""
        self.changed = threading.Condition()
        self._records, self._staging, self._tally = records, staging, tally
        self._delivery = Delivery(remote, digest, records, staging, self._note_progress)
        self._horizon = Horizon((), _MAX_STEPS_AHEAD)
        self._asked: set[int] = set()  # in use: the consumer has them open, or waits for them
        self._demanded: set[int] = set()  # what the consumer waits for
        self._failed: dict[int, StreamError] = {}
        self._broken: Exception | None = None
        self._ahead: deque[int] = deque()  # seen on the horizon, to be fetched
        self._here: set[int] = set()  # in the cache when last looked, and claimed
        self._fetching: set[int] = set()
        self._not_before: dict[int, float] = {}
        self._ahead_not_before = self._moved = 0.0
        self._written_at: dict[int, int] = {}
        self._walking = self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(staging.workers)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads, and give up all claims."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
        self._delivery.stop()
        deadline = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._delivery.cache.close()

    # What the consumer calls.

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """The shards of the steps to come, instead of those that were told before."""
        self._horizon = Horizon(upcoming, _MAX_STEPS_AHEAD)
        self._ahead.clear()
        self._broken = None
        self.changed.notify_all()

    def begin_step(self, asked: Collection[int]) -> None:
        """The next step begins; these are in use from now on, and no others."""
        self._horizon.take()
        self._asked = set(asked)
        self._here = {s for s in self._here if s in self._asked or self._horizon.next_use(s) is not None}
        self._claim()
        self._ahead_not_before, self._moved = 0.0, time.monotonic()
        self.changed.notify_all()

    def open(self, shard: int) -> int | None:
        """A descriptor of a shard that is here; None if it is not."""
        descriptor = self._delivery.open(shard) if shard in self._here else None
        if descriptor is None:
            self._here.discard(shard)
        return descriptor

    def demand(self, missing: set[int]) -> None:
        """The consumer waits for these, and for no others."""
        for shard in missing - self._demanded:
            self._not_before.pop(shard, None)
            self._failed.pop(shard, None)
            self.changed.notify_all()
        self._demanded = missing

    def check(self) -> None:
        """Raise what has gone wrong with what is demanded, or that nothing happens any more."""
        if self._broken is not None:
            raise self._broken
        for shard in self._demanded & self._failed.keys():
            raise self._failed[shard]
        self._check_progress()

    def _check_progress(self) -> None:
        """No byte has come for longer than any fetch may be silent: give up instead of hanging."""
        idle_s = time.monotonic() - self._moved
        if idle_s > 1.5 * self._staging.patience.stall_s + 10 * POLL_S:
            shard, taken = self._records[min(self._demanded)], self._delivery.cache.used_bytes()
            raise StreamError(
                f"shard {shard.name}.tar: nothing has come of it for {idle_s:.1f} s; the cache folder "
                f"{self._staging.cache} may hold {self._staging.limit_bytes} bytes, and {taken} are taken, also "
                " by other processes; give a larger --cache-size, or end what holds them up"
            )

    def _note_progress(self) -> None:
        self._moved = time.monotonic()

    def _claim(self) -> None:
        """Tell the other processes what this one uses, and what soon, in the order of use."""
        soon = [(self._horizon.next_use(shard) or 0, shard) for shard in self._here | self._fetching]
        names = [self._delivery.name(shard) for _, shard in sorted(soon) if shard not in self._asked]
        self._delivery.cache.claim([self._delivery.name(shard) for shard in self._asked], names)

    # The threads.

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            shard, urgent = job
            outcome: Place | Exception
            try:
                with self.changed:
                    self._claim()
                outcome = self._delivery.bring(shard, urgent=urgent)
            except Exception as error:  # it belongs to the consumer
                outcome = error
            with self.changed:
                self._settle(shard, outcome)
                self.changed.notify_all()

    def _next_job(self) -> tuple[int, bool] | None:
        """A shard to fetch, and whether the consumer waits for it; None when all is over."""
        while True:
            with self.changed:
                if self._closed:
                    return None
                job = self._choose()
                if job is not None:
                    self._fetching.add(job[0])
                    return job
                if not self._may_walk():
                    self.changed.wait(self._idle_s())
                    continue
                self._walking, horizon = True, self._horizon
            self._walk(horizon)

    def _idle_s(self) -> float | None:
        """How long a thread may wait if nothing changes in this process."""
        if self._demanded:
            return POLL_S
        return _FULL_S if self._ahead or self._ahead_not_before > time.monotonic() else None

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
        with self.changed:
            self._walking = False
            if horizon is self._horizon:
                self._broken = broken
                self._ahead.extend(s for s in horizon.see(shards) if s not in self._here)
            self.changed.notify_all()

    def _settle(self, shard: int, outcome: Place | Exception) -> None:
        """What came of a job."""
        self._fetching.discard(shard)
        now = time.monotonic()
        if outcome is Place.WHOLE or outcome is Place.YOURS:
            self._here.add(shard)
            self._moved = now
            self._count(shard, outcome)
        elif outcome is Place.ELSEWHERE:
            self._not_before[shard] = now + POLL_S
            self._watch(shard)
        elif outcome is Place.FULL:
            self._not_before[shard] = now + POLL_S
            self._ahead_not_before = now + _FULL_S
        elif isinstance(outcome, StreamError):
            self._not_before[shard] = now + _FAILED_S
            self._note_failure(shard, outcome)
        elif isinstance(outcome, Exception) and not self._closed:  # a mistake in here, or Closed
            self._broken = outcome

    def _count(self, shard: int, place: Place) -> None:
        downloaded = place is Place.YOURS
        self._tally.hits += not downloaded
        self._tally.downloads += downloaded
        self._tally.downloaded_bytes += downloaded * self._records[shard].num_bytes

    def _note_failure(self, shard: int, error: StreamError) -> None:
        """The consumer hears of it if it waits for the shard; if not, it is tried again until then."""
        if shard in self._demanded:
            self._failed[shard] = error
        else:
            logger.warning("staging ahead: %s (tried again)", error)

    def _watch(self, shard: int) -> None:
        """Another process writes: as long as it gets on, so do we."""
        written_at = self._delivery.cache.written_at(self._delivery.name(shard))
        if written_at != self._written_at.get(shard):
            self._written_at[shard] = written_at
            self._moved = time.monotonic()
