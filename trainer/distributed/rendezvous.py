"""Rendezvous of the ranks: create a rank's process groups, and translate torch's errors into one-line messages."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from alexstream.trainer.checkpoint import resume_advice
from alexstream.trainer.distributed.store import POLL_S, StoreAddress, connect_to_store, listen_for_ranks
from alexstream.trainer.distributed.watchdog import FIRST_REPORT_S, StallWatchdog
from alexstream.trainer.errors import LostRanksError, TrainError
from alexstream.trainer.network.columns import Columns

RANK_TIMEOUT_S = 600.0  # how long one rank waits for another
_GLOO_TIMEOUT_S = (
    7 * 86400.0
)  # gloo's own timeout, practically none: ``trainer.distributed.watchdog`` ends long waits, and excludes pauses
_MAX_RANKS_LISTED = 8  # ranks listed in one message
# gloo raises plain RuntimeErrors. These phrases in their text mean that another rank timed out, or disconnected.
_TIMEOUT_PHRASES = ("imed out", "imeout")
_DISCONNECT_PHRASES = ("onnection closed", "onnection reset", "roken pipe", "pair closure")
_GLOO_SOURCE, _GLOO_ASSERTION = (
    "gloo/",
    "enforce fail",
)  # other errors from gloo's source are about connections; assertions not
_SOURCE_PREFIX = re.compile(r"^\[[^\]]*\.(cc|cpp|h):\d+\] *")  # the source line that torch puts before a message


@dataclass(frozen=True, slots=True, kw_only=True)
class RankInfo:
    """This rank's index and the number of ranks, the longest wait for another rank, and the run folder, if any."""

    index: int
    count: int
    timeout_s: float = RANK_TIMEOUT_S
    folder: Path | None = None


def start_watchdog(place: RankInfo, end: Callable[[str], None]) -> StallWatchdog:
    """Start this rank's watchdog, which calls ``end`` with one line if another rank does not answer in time.

    ``end`` is called in a thread, because the main thread may be blocked in a library, and must end the process.
    """

    def give_up(whom_and_how_long: str) -> None:
        end(str(_make_lost_ranks_error(place, f"heard nothing from {whom_and_how_long} (`timeout_s`)")))

    return StallWatchdog(f"rank {place.index}", min(FIRST_REPORT_S, place.timeout_s / 2), give_up)


def init_process_groups(
    device_type: str, address: StoreAddress, place: RankInfo, columns: int, waiting: StallWatchdog
) -> Columns:
    """Connect to the other ranks and create the process groups. Every rank of the run calls this.

    Consecutive ranks are the columns of a replica. Waits for all ranks at least ``RANK_TIMEOUT_S``, even if the timeout
    between ranks is shorter, since programs take time to start. Raises LostRanksError after that, TrainError if rank 0
    cannot listen at the address.
    """
    limit_s = max(place.timeout_s, RANK_TIMEOUT_S)
    serves = place.index == 0 and not address.is_served
    listener = listen_for_ranks(address) if serves else None
    store = connect_to_store(address, f"rank {place.index}", waiting, limit_s, listener)
    keyed = PrefixStore(f"alexstream/{address.keys}", store)
    _wait_for_ranks(keyed, address, place, waiting, limit_s)
    is_gloo = device_type != "cuda"
    # gloo's timeout counts the time for which this process is paused, the watchdog's does not, so the latter decides.
    timeout = timedelta(seconds=max(_GLOO_TIMEOUT_S, place.timeout_s) if is_gloo else place.timeout_s)
    with waiting.watch("the other ranks' connections", limit_s):
        dist.init_process_group(
            "gloo" if is_gloo else "nccl", store=keyed, rank=place.index, world_size=place.count, timeout=timeout
        )
        return _make_columns(columns, place, timeout, waiting)


def _wait_for_ranks(
    store: Store, address: StoreAddress, place: RankInfo, waiting: StallWatchdog, limit_s: float
) -> None:
    """Announce this rank in the store, and wait until all ranks have done so.

    Each rank sets a key of its own, again at every poll: a shared counter, or a key set once, could be changed or
    deleted by a foreign client of the store, and the ranks would wait for ever.
    """
    missing = list(range(place.count))
    with waiting.watch("the other ranks", limit_s) as wait:
        while missing:
            store.set(f"here/{place.index}", "1")  # a number: torch's store crashes if a client adds to other values
            missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
            wait.what = f"{_format_ranks(missing)} of {place.count} at {address}"
            if missing and wait.is_over:
                raise _make_lost_ranks_error(place, f"did not meet {wait.what} in {limit_s:g} s")
            if missing:
                time.sleep(POLL_S)


def _format_ranks(ranks: list[int]) -> str:
    names = [str(rank) for rank in ranks[:_MAX_RANKS_LISTED]] + ["…"] * (len(ranks) > _MAX_RANKS_LISTED)
    return f"rank {names[0]}" if len(names) == 1 else f"ranks {', '.join(names)}"


def _make_columns(count: int, place: RankInfo, timeout: timedelta, waiting: StallWatchdog | None = None) -> Columns:
    replicas = place.count // count
    mine, index = divmod(place.index, count)
    of_replica = [list(range(r * count, (r + 1) * count)) for r in range(replicas)]
    groups = [dist.new_group(ranks, timeout=timeout) for ranks in of_replica]
    # Input crops have groups of their own, so that they are not queued behind activations.
    data_groups = [dist.new_group(ranks, timeout=timeout) for ranks in of_replica]
    replica_groups = [dist.new_group(list(range(c, place.count, count)), timeout=timeout) for c in range(count)]
    return Columns(
        index=index,
        count=count,
        replica=mine,
        replicas=replicas,
        group=groups[mine],
        data_group=data_groups[mine],
        replica_group=replica_groups[index],
        watchdog=waiting,
        timeout_s=place.timeout_s,
    )


@contextmanager
def translate_dist_errors(place: RankInfo) -> Iterator[None]:
    """Translate torch's errors about a rank that died or does not answer into LostRanksError, in one line."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        late, gone = (
            _contains_any(text, _TIMEOUT_PHRASES),
            _contains_any(text, _DISCONNECT_PHRASES) or (_GLOO_SOURCE in text and _GLOO_ASSERTION not in text),
        )
        if not (late or gone or isinstance(error, dist.DistError)):
            raise
        how = (
            f"heard nothing from another rank for {place.timeout_s:g} s (`timeout_s`)" if late else "lost another rank"
        )
        raise _make_lost_ranks_error(place, how) from error


@contextmanager
def translate_rendezvous_errors(place: RankInfo) -> Iterator[None]:
    """Translate torch's errors during the rendezvous into one line that keeps torch's reason.

    Raises LostRanksError if another rank timed out or disconnected; TrainError for anything else, for example an
    unknown interface or host, or an address in use by another program.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = _SOURCE_PREFIX.sub("", (str(error) or type(error).__name__).splitlines()[0])
        how = f"did not meet the other ranks: {text}"
        if _contains_any(str(error), (*_TIMEOUT_PHRASES, *_DISCONNECT_PHRASES)):
            raise _make_lost_ranks_error(place, how) from error
        raise TrainError(
            f"rank {place.index} {how}; GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names the network interface, "
            "MASTER_ADDR and MASTER_PORT the first rank's address: fix what is wrong and start again"
        ) from error


def _contains_any(text: str, words: Iterable[str]) -> bool:
    return any(word in text for word in words)


def _make_lost_ranks_error(place: RankInfo, how: str) -> LostRanksError:
    return LostRanksError(f"rank {place.index} {how}, so the run was stopped; {resume_advice(place.folder)}")
