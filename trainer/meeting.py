"""How a rank meets the others and becomes a column of a replica; and what is said when it loses them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from trainer.columns import Columns
from trainer.errors import LostRanksError
from trainer.ranks import REMEDY

TIMEOUT_S = 600.0  # how long one rank waits for another
# In what gloo raises, which are plain RuntimeErrors.
_LOSSES = ("gloo", "c10d", "imed out", "imeout", "onnection closed", "onnection reset", "roken pipe", "pair closure")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which rank this is, of how many, and how long one waits for another."""

    index: int
    count: int
    timeout_s: float = TIMEOUT_S


def joined(device_type: str, store: Store, place: Place, columns: int) -> Columns:
    """Meet the others in ``store``, consecutive ranks being the columns of a replica. Every rank of the run calls this.

    Until all are there, the wait is at least the usual one: programs take their time to start.
    """
    store = PrefixStore("alexstream", store)
    store.set_timeout(timedelta(seconds=max(place.timeout_s, TIMEOUT_S)))
    if store.add("here", 1) == place.count:
        store.set("all", "")
    store.wait(["all"])
    dist.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        store=store,
        rank=place.index,
        world_size=place.count,
        timeout=timedelta(seconds=place.timeout_s),
    )
    return _columns(columns, place)


def _columns(count: int, place: Place) -> Columns:
    replicas = place.count // count
    mine, index = divmod(place.index, count)
    wait = timedelta(seconds=place.timeout_s)
    of_replica = [list(range(r * count, (r + 1) * count)) for r in range(replicas)]
    groups = [dist.new_group(ranks, timeout=wait) for ranks in of_replica]
    # Input crops travel in groups of their own, so that they need not wait for activations.
    data_groups = [dist.new_group(ranks, timeout=wait) for ranks in of_replica]
    replica_groups = [dist.new_group(list(range(c, place.count, count)), timeout=wait) for c in range(count)]
    return Columns(
        index=index,
        count=count,
        replica=mine,
        replicas=replicas,
        group=groups[mine],
        data_group=data_groups[mine],
        replica_group=replica_groups[index],
    )


@contextmanager
def losses_named(place: Place) -> Iterator[None]:
    """What torch raises when another rank died or stands still, in one line. Raises LostRanksError."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and not any(word in text for word in _LOSSES):
            raise
        late = "imed out" in text or "imeout" in text
        how = f"heard nothing from another rank for {place.timeout_s:g} s (--timeout)" if late else "lost another rank"
        raise LostRanksError(f"rank {place.index} {how}, {REMEDY}") from error


def end_with(parent: int) -> None:
    """A rank whose launcher was killed ends too: nobody would read its results or stop it."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
