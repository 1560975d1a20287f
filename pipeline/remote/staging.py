"""Shards of an object store, brought into a bounded cache of this machine before the stream needs them.

::

    staging = Staging(cache=Path("/scratch/cache"), limit_bytes=200 << 30)
    shards = StagedShards(location("s3://bucket/train"), manifest.digest, manifest.shards, staging, keep_steps=4)
    shards.expect(shards_of_step(number) for number in count(start_step))
    found = shards.descriptors(shards_of_step(start_step))   # one for each entry
    os.pread(int(found[0]), size, offset)

Threads walk along ``expect`` and fetch what is not here, as far as the limit allows: ahead of use, they evict only
what no process of this machine uses or is going to use. Every failure reaches the consumer in ``descriptors``, and
in bounded time: that of the store or the disk when the shard is asked for (until then it is logged and tried again),
that of the iterator when a shard must be waited for. Make it, use it and close it in one process: threads do not
survive a fork, and a forked child that outlives its killed parent keeps the parent's claims alive.
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

from pipeline.errors import StreamError
from pipeline.remote.cache import touch
from pipeline.remote.delivery import Staging as Staging
from pipeline.remote.stager import POLL_S, Stager, Tally
from pipeline.shards import allow_open_files
from sharding import layout

logger = logging.getLogger(__name__)

_LONG_WAIT_S = 1.0


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
        self._records, self._staging, self._keep_steps = records, staging, keep_steps
        self._stager = Stager(remote, digest, records, staging, self.tally)
        self._call = 0
        self._asked: dict[int, int] = {}  # shard → the last call that asked for it, as long as that keeps it open
        self._open: dict[int, int] = {}  # shard → descriptor
        self._closed = False
        allow_open_files(len(records))

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        """As ``Shards.expect``: the next call of ``descriptors`` is the first of these steps. Replaces what was told.

        The iterator is advanced by one staging thread at a time, up to 1024 steps ahead.
        """
        with self._stager.changed:
            self._stager.expect(upcoming)

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        """As ``Shards.descriptors``.

        Raises StreamError if a shard cannot be had, or not all of these fit into the cache at once.
        """
        if self._closed:
            raise ValueError("the shards are closed")
        distinct, places = np.unique(shards, return_inverse=True)
        wanted = [int(shard) for shard in distinct]
        with self._stager.changed:
            self._begin_step(wanted)
            self._wait_for(wanted)
        found = np.array([self._open[shard] for shard in wanted], np.int64)
        return found[places].reshape(shards.shape)

    def close(self) -> None:
        """End the threads, close every descriptor, give up all claims. What is in the cache stays."""
        if self._closed:
            return
        self._closed = True
        while self._open:
            os.close(self._open.popitem()[1])
        self._stager.close()

    def _begin_step(self, wanted: list[int]) -> None:
        """Note what is wanted, and let go of what no step keeps any longer."""
        self._call += 1
        self._asked.update(dict.fromkeys(wanted, self._call))
        for shard in [s for s, call in self._asked.items() if call <= self._call - self._keep_steps]:
            self._let_go(shard)
        self._check_fit()
        self._stager.begin_step(self._asked)

    def _let_go(self, shard: int) -> None:
        del self._asked[shard]
        if shard in self._open:
            descriptor = self._open.pop(shard)
            with suppress(OSError):
                touch(descriptor)  # evicted by when it was last used, not by when it was opened
            os.close(descriptor)

    def _check_fit(self) -> None:
        needed = sum(self._records[shard].num_bytes for shard in self._asked)
        if needed > self._staging.limit_bytes:
            raise StreamError(
                f"cache folder {self._staging.cache}: {len(self._asked)} shards are needed at once, which are {needed} "
                f"bytes, and it may hold {self._staging.limit_bytes}; give --cache-size {needed} or more, or "
                "--order grouped, which needs few shards at a time"
            )

    def _wait_for(self, wanted: list[int]) -> None:
        began = time.monotonic()
        try:
            while missing := self._open_those_here(wanted):
                self._stager.demand(missing)
                self._stager.check()
                self._stager.changed.wait(POLL_S)
        finally:
            self._stager.demand(set())
            self._tell(time.monotonic() - began, wanted)

    def _open_those_here(self, wanted: list[int]) -> set[int]:
        """Open what is in the cache; the rest is returned."""
        for shard in wanted:
            if shard not in self._open and (descriptor := self._stager.open(shard)) is not None:
                self._open[shard] = descriptor
        return {shard for shard in wanted if shard not in self._open}

    def _tell(self, waited_s: float, wanted: list[int]) -> None:
        self.tally.waited_s += waited_s
        if waited_s > _LONG_WAIT_S:
            names = ", ".join(self._records[shard].name for shard in wanted[:3])
            logger.info("waited %.1f s for %d shards (%s …); so far %s", waited_s, len(wanted), names, self.tally)
