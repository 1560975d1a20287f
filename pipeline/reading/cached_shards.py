"""Read shards of an object store through a bounded cache on this machine, filled ahead of use.

::

    options = CacheOptions(cache=Path("/scratch/cache"), limit_bytes=200 << 30)
    shards = CachedShards(parse_location("s3://bucket/train"), manifest.digest, manifest.shards, options, keep_steps=4)
    shards.expect(shards_of_step(number) for number in count(start_step))
    found = shards.descriptors(shards_of_step(start_step))   # one descriptor for each entry
    os.pread(int(found[0]), size, offset)

Threads iterate over ``expect``'s steps and download shards that are not in the cache, as far as its limit allows.
Ahead of use, they evict only shards that no process of this machine uses or will use soon. Every failure is raised by
``descriptors``, in bounded time: failures of the store or the disk when the shard is asked for (until then they are
logged, and the download is tried again), those of the iterator when a shard must be waited for.

Create, use and close it in one process: threads do not survive a fork, and a forked child that outlives its killed
parent keeps the parent's claims alive.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexstream.pipeline.cache.cache import touch
from alexstream.pipeline.cache.fetch import CacheOptions as CacheOptions
from alexstream.pipeline.cache.prefetcher import POLL_S, CacheStats, ShardFetcher
from alexstream.pipeline.errors import StreamError
from alexstream.pipeline.reading.shards import raise_open_file_limit
from alexstream.sharding.dataset_v1.manifest import ShardRecord

logger = logging.getLogger(__name__)

_LONG_WAIT_S = 1.0


class CachedShards:
    """Open shards of a data set in an object store; implements ``shards.Shards``.

    A descriptor is valid from the call of ``descriptors`` that returned it until the ``keep_steps``-th call after that
    begins (with ``keep_steps`` 1, the next call), or until ``close``. Until then its shard stays in the cache.
    """

    def __init__(
        self,
        remote: Path,
        digest: str,
        records: Sequence[ShardRecord],
        cache_options: CacheOptions,
        keep_steps: int = 1,
    ) -> None:
        """Open the cache and start the threads; nothing is downloaded before it is announced or asked for.

        ``remote`` is a ``upath.UPath``, ``digest`` the manifest's. Raises StreamError if the cache folder cannot be
        used.
        """
        if keep_steps < 1:
            raise ValueError(f"keep_steps: received {keep_steps}, expected 1 or more")
        self.tally = CacheStats()
        self._records, self._cache_options, self._keep_steps = records, cache_options, keep_steps
        self._fetcher = ShardFetcher(remote, digest, records, cache_options, self.tally)
        self._call = 0
        self._asked: dict[int, int] = {}  # shard → the last call that asked for it, as long as that keeps it open
        self._open: dict[int, int] = {}  # shard → descriptor
        self._closed = False
        raise_open_file_limit(len(records))

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """Announce the shards of the coming steps, the next call of ``descriptors`` first; replaces earlier ones.

        The iterator is advanced by one download thread at a time, up to 1024 steps ahead.
        """
        with self._fetcher.changed:
            self._fetcher.expect(upcoming)

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a descriptor for each entry of ``shards``, int64; wait until all are in the cache.

        Raises StreamError if a shard cannot be downloaded, or if not all of these fit into the cache at once.
        """
        if self._closed:
            raise ValueError("the shards are closed")
        distinct, places = np.unique(shards, return_inverse=True)
        wanted = [int(shard) for shard in distinct]
        with self._fetcher.changed:
            self._begin_step(wanted)
            self._wait_for(wanted)
        found = np.array([self._open[shard] for shard in wanted], np.int64)
        return found[places].reshape(shards.shape)

    def close(self) -> None:
        """End the threads, close every descriptor, give up all claims. Shards stay in the cache."""
        if self._closed:
            return
        self._closed = True
        while self._open:
            os.close(self._open.popitem()[1])
        self._fetcher.close()

    def _begin_step(self, wanted: list[int]) -> None:
        """Record the shards of this step, and close those that no step keeps open any longer."""
        self._call += 1
        self._asked.update(dict.fromkeys(wanted, self._call))
        for shard in [s for s, call in self._asked.items() if call <= self._call - self._keep_steps]:
            self._close_shard(shard)
        self._check_fit()
        self._fetcher.begin_step(self._asked)

    def _close_shard(self, shard: int) -> None:
        del self._asked[shard]
        if shard in self._open:
            descriptor = self._open.pop(shard)
            with suppress(OSError):
                touch(descriptor)  # eviction goes by the end of its use, not by its opening
            os.close(descriptor)

    def _check_fit(self) -> None:
        needed = sum(self._records[shard].num_bytes for shard in self._asked)
        if needed > self._cache_options.limit_bytes:
            raise StreamError(
                f"cache folder {self._cache_options.cache}: {len(self._asked)} shards are needed at once, which are "
                f"{needed} "
                f"bytes, and it may hold {self._cache_options.limit_bytes}; give `cache_bytes` {needed} or more, or "
                "`order` grouped, which needs few shards at a time"
            )

    def _wait_for(self, wanted: list[int]) -> None:
        began = time.monotonic()
        try:
            while missing := self._open_cached(wanted):
                self._fetcher.demand(missing)
                self._fetcher.check()
                self._fetcher.changed.wait(POLL_S)
        finally:
            self._fetcher.demand(set())
            self._log_wait(time.monotonic() - began, wanted)

    def _open_cached(self, wanted: list[int]) -> set[int]:
        """Open those that are in the cache; return the others."""
        for shard in wanted:
            if shard not in self._open and (descriptor := self._fetcher.open(shard)) is not None:
                self._open[shard] = descriptor
        return {shard for shard in wanted if shard not in self._open}

    def _log_wait(self, waited_s: float, wanted: list[int]) -> None:
        self.tally.waited_s += waited_s
        if waited_s > _LONG_WAIT_S:
            names = ", ".join(self._records[shard].name for shard in wanted[:3])
            logger.info("waited %.1f s for %d shards (%s …); so far %s", waited_s, len(wanted), names, self.tally)
