"""Pure: which shards the steps to come use, as far as somebody has looked, and when each is needed next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class Horizon:
    """Steps that were seen and not yet taken. They are seen in order, and taken in order; either may lead."""

    def __init__(self, upcoming: Iterable[NDArray[np.int64]], max_steps: int) -> None:
        """No step is seen yet; at most ``max_steps`` will be, beyond the one that was taken last."""
        self._upcoming, self._max_steps = iter(upcoming), max_steps
        self._steps: deque[list[int]] = deque()
        self._uses: dict[int, deque[int]] = {}
        self._seen = self._taken = 0
        self._ended = False

    @property
    def may_look(self) -> bool:
        """Whether there may be a further step, and it is not too far ahead."""
        return not self._ended and self._seen - self._taken < self._max_steps

    def look(self) -> list[int] | None:
        """The shards of the next step; None at the end. May take long: runs whatever makes up the steps."""
        shards = next(self._upcoming, None)
        return None if shards is None else [int(shard) for shard in np.unique(shards)]

    def see(self, shards: list[int] | None) -> list[int]:
        """Add what ``look`` gave; those of its shards that no other step which was seen uses."""
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
        """The next step is being used."""
        self._taken += 1
        for shard in self._steps.popleft() if self._steps else []:
            self._uses[shard].popleft()
            if not self._uses[shard]:
                del self._uses[shard]

    def next_use(self, shard: int) -> int | None:
        """The number of the next step that uses a shard; None if none was seen."""
        return self._uses[shard][0] if shard in self._uses else None
