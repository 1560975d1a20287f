"""Placeholder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StreamError
from sharding.layout import ShardRecord


class LocalShards:
    """Shards in a folder of this machine."""

    def __init__(self, folder: Path, records: Sequence[ShardRecord]) -> None:
        self._fds: dict[int, int] = {}
        self._paths = [folder / f"{r.name}.tar" for r in records]
        for path, record in zip(self._paths, records, strict=True):
            size = path.stat().st_size if path.is_file() else -1
            if size != record.num_bytes:
                found = "is missing" if size < 0 else f"has {size} bytes"
                raise StreamError(
                    f"shard {path} {found}, but the manifest says {record.num_bytes} bytes; "
                    "restore the shard or shard the source again"
                )

    def descriptors(self, shards: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([self._open(int(s)) for s in shards], np.int64)

    def _open(self, shard: int) -> int:
        if shard not in self._fds:
            self._fds[shard] = os.open(self._paths[shard], os.O_RDONLY)
        return self._fds[shard]

    def expect(self, upcoming: Iterable[NDArray[np.int64]]) -> None:
        pass

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def __del__(self) -> None:
        self.close()
