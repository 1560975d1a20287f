"""One shard from the store into the cache; the cache and the store put together. Called by ``stager``'s threads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.remote.cache import Cache, Place, refusals
from pipeline.remote.fetch import Fetcher, Patience, write_at
from sharding import layout


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


class Delivery:
    """Shards by their numbers; any number of threads may use it. ``on_progress`` is called whenever bytes have come."""

    def __init__(
        self,
        remote: Path,
        digest: str,
        records: Sequence[layout.ShardRecord],
        staging: Staging,
        on_progress: Callable[[], None],
    ) -> None:
        """Open the cache. Raises StreamError if its folder cannot be used."""
        self._digest, self._records, self._staging, self._on_progress = digest, records, staging, on_progress
        self.cache = Cache(staging.cache, staging.limit_bytes)
        self._fetcher = Fetcher(remote, staging.patience)
        self._verified: set[int] = set()

    def name(self, shard: int) -> str:
        """What the cache calls it."""
        return f"{self._digest}/{self._records[shard].name}.tar"

    def open(self, shard: int) -> int | None:
        """A descriptor of a shard in the cache; None if it is not there."""
        return self.cache.open(self.name(shard), self._records[shard].num_bytes)

    def bring(self, shard: int, *, urgent: bool) -> Place:
        """See that a shard is in the cache: it was (WHOLE), it was fetched (YOURS), or it cannot be now.

        Raises StreamError if the store does not give it or the disk does not take it; Closed after ``stop``.
        """
        record, name = self._records[shard], self.name(shard)
        place, descriptor = self.cache.reserve(name, record.num_bytes, urgent=urgent)
        if place is Place.WHOLE and self._is_damaged(shard):
            self.cache.remove(name)
            place, descriptor = self.cache.reserve(name, record.num_bytes, urgent=urgent)
        if place is Place.YOURS:
            self._download(shard, descriptor)
        return place

    def stop(self) -> None:
        """End what is being fetched."""
        self._fetcher.close()

    def _is_damaged(self, shard: int) -> bool:
        """Whether a shard that an earlier run has left is not what it was, if that is to be asked."""
        if not self._staging.verify or shard in self._verified:
            return False
        with refusals(self._staging.cache), open(self._staging.cache / self.name(shard), "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 == self._records[shard].sha256:
            self._verified.add(shard)
        return shard not in self._verified

    def _download(self, shard: int, descriptor: int) -> None:
        record, name = self._records[shard], self.name(shard)

        def write(piece: bytes, offset: int) -> None:
            with refusals(self._staging.cache):
                write_at(descriptor, piece, offset)
            self._on_progress()

        try:
            self._fetcher.fetch(record, write)
        except BaseException:
            self.cache.discard(name, descriptor)
            raise
        self.cache.publish(name, descriptor)
        self._verified.add(shard)
