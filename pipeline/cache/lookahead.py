"""Look ahead at the shards that coming steps use, and tell when each is needed next. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class Lookahead:
    """Queue the steps that have been seen and not yet taken.

    Steps are seen in order and taken in order; the consumer may take a step before it has been seen.
    """

    def __init__(self, upcoming: Iterable[NDArray[np.int64]], max_steps: int) -> None:
        """Look at most ``max_steps`` beyond the step that was taken last."""
        self._upcoming, self._max_steps = iter(upcoming), max_steps
        self._steps: deque[list[int]] = deque()
        self._uses: dict[int, deque[int]] = {}
        self._seen = self._taken = 0
        self._ended = False

    @property
    def may_look(self) -> bool:
        """True if there may be a further step, and it is not too far ahead."""
        return not self._ended and self._seen - self._taken < self._max_steps

    def look(self) -> list[int] | None:
        """Return the shards of the next step, or None at the end. May be slow, since it runs the caller's iterator."""
        shards = next(self._upcoming, None)
        return None if shards is None else [int(shard) for shard in np.unique(shards)]

    def see(self, shards: list[int] | None) -> list[int]:
        """Add the step that ``look`` returned; return those of its shards that no other queued step uses."""
        if shards is None:
            self._ended = True
            return []
        self._seen += 1
        if self._seen <= self._taken:
            return []
        self._steps.append(shards)
        new = [shard for shard in shards if shard not in self._uses]
        for shard in shards:
            self._uses.setdefault(shard, deque()).append(self._seen)
        return new

    def take(self) -> None:
        """Remove the next step, which is now in use."""
        self._taken += 1
        for shard in self._steps.popleft() if self._steps else []:
            self._uses[shard].popleft()
            if not self._uses[shard]:
                del self._uses[shard]

    def next_use(self, shard: int) -> int | None:
        """Return the number of the next step that uses a shard, or None if none was seen."""
        return self._uses[shard][0] if shard in self._uses else None
