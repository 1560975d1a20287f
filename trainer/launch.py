"""Starts the ranks of a run, or takes the rank that torchrun gave, and tells each its column, replica and device.

Without torchrun: one process, or one per column, all started here. Under torchrun: world size = replicas × columns,
consecutive ranks hold the columns of one replica, on any number of nodes.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from pipeline.errors import AlexstreamError
from trainer.claim import Claim
from trainer.columns import Columns
from trainer.errors import LostRanksError, TrainError
from trainer.geometry import NUM_COLUMNS
from trainer.meeting import TIMEOUT_S, Place, end_with, joined, losses_named
from trainer.memory import freed_memory_kept
from trainer.ranks import run_ranks, take_interrupts


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One process of a run: its columns, its device, and whether it is the one that speaks and writes."""

    columns: Columns
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.columns.index == 0 and self.columns.replica == 0


def num_local_processes(num_devices: int) -> int:
    """Processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if under_torchrun() else num_devices


def choose_device_type(num_devices: int, wanted: str = "auto", columns: int = NUM_COLUMNS) -> str:
    """``cuda`` if there are enough GPUs and they are wanted, else ``cpu``.

    Raises TrainError for a number of devices that a network of so many columns cannot have, or too few GPUs.
    """
    if num_devices not in (1, NUM_COLUMNS):
        raise TrainError(
            f"--devices: received {num_devices}, expected 1 (both columns in one process) or 2 (one column "
            "per process); the network has two columns"
        )
    if num_devices > columns:
        raise TrainError(f"--devices: received {num_devices}, but this network has one column; expected 1")
    gpus = num_gpus()
    num_devices = num_local_processes(num_devices)
    if wanted == "cuda" and gpus < num_devices:
        raise TrainError(f"--device cuda with --devices {num_devices}: this machine has {gpus} GPUs; use cpu")
    return "cuda" if wanted != "cpu" and gpus >= num_devices else "cpu"


def num_gpus() -> int:
    """GPUs that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def under_torchrun() -> bool:
    """Whether this process is one of several that torchrun (or something like it) started."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))


def is_main_process() -> bool:
    """Whether this process is the one that writes and speaks for the run before its ranks have met."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def num_replicas(num_devices: int) -> int:
    """How often the network is held, each time by ``num_devices`` processes; 1 but under torchrun.

    Raises TrainError if torchrun's processes do not make up whole replicas.
    """
    if not under_torchrun():
        return 1
    world_size = int(os.environ["WORLD_SIZE"])
    if world_size % num_devices:
        raise TrainError(
            f"--devices {num_devices} under torchrun with {world_size} processes: expected a multiple of {num_devices}"
        )
    return world_size // num_devices


def run(
    work: Callable[..., None],
    args: tuple[Any, ...],
    num_devices: int,
    device_type: str,
    *,
    timeout_s: float = TIMEOUT_S,
    claim: Claim | None = None,
) -> None:
    """Run ``work(rank, *args)`` in every process of the run and wait for all of them.

    Under torchrun this process is one of them. Otherwise one device: in this process; two: both are started here,
    meet through a file, hold ``claim`` with this process, and if one dies the other is stopped. Raises what ``work``
    raises if it is an AlexstreamError, TrainError if a rank dies otherwise or does not answer for ``timeout_s``.
    """
    if under_torchrun():
        _work_as_rank(work, args, num_devices, device_type, timeout_s)
        return
    if num_devices == 1:
        _use_device(device_type, 0, 1)
        _do(work, Rank(columns=Columns(), device=_device(device_type, 0)), args)
        return
    # A file in memory: whatever becomes of this process, nothing is left of it.
    meeting = os.memfd_create("alexstream-ranks")
    try:
        call = _Call(
            meeting=f"/proc/{os.getpid()}/fd/{meeting}",
            count=num_devices,
            device_type=device_type,
            launcher=os.getpid(),
            timeout_s=timeout_s,
            claim=claim,
            work=work,
        )
        run_ranks(_enter, (call, args), num_devices, timeout_s)
    finally:
        os.close(meeting)


def results_of(work: Callable[..., Any], args: tuple[Any, ...], num_devices: int, device_type: str) -> list[Any]:
    """As ``run``: what ``work`` returned, of JSON's types, on each rank in turn; under torchrun, on this one alone."""
    with tempfile.TemporaryDirectory(prefix="alexstream-") as folder:
        run(_keep_result, (work, args, Path(folder)), num_devices, device_type)
        return [json.loads(path.read_text()) for path in sorted(Path(folder).iterdir())]


def _keep_result(rank: Rank, work: Callable[..., Any], args: tuple[Any, ...], folder: Path) -> None:
    (folder / f"{rank.columns.index}.json").write_text(json.dumps(work(rank, *args)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What every rank of a run is told: where to meet, how many, on what, by whom, to do what."""

    meeting: str
    count: int
    device_type: str
    launcher: int
    timeout_s: float
    claim: Claim | None
    work: Callable[..., None]


def _enter(index: int, pipe: Any, call: _Call, args: tuple[Any, ...]) -> None:
    """A rank's process: join the others, work, leave. Expected errors go to the parent."""
    take_interrupts()
    end_with(call.launcher)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    place = Place(index=index, count=call.count, timeout_s=call.timeout_s)
    try:
        with losses_named(place):
            _use_device(call.device_type, index, call.count)
            store = dist.FileStore(call.meeting, call.count)  # type: ignore[attr-defined]
            columns = joined(call.device_type, store, place, call.count)
            _do(call.work, Rank(columns=columns, device=_device(call.device_type, index)), args)
    except (AlexstreamError, OSError) as error:
        with suppress(OSError):  # nobody hears it if the launcher was killed
            pipe.send((isinstance(error, LostRanksError), str(error)))
        sys.exit(1)
    dist.destroy_process_group()


def _work_as_rank(
    work: Callable[..., None], args: tuple[Any, ...], num_columns: int, device_type: str, timeout_s: float
) -> None:
    """As ``_enter``, in a process that torchrun started; it also ends the others if this one dies."""
    end_with(os.getppid())
    local_rank, local_count = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    place = Place(index=int(os.environ["RANK"]), count=int(os.environ["WORLD_SIZE"]), timeout_s=timeout_s)
    with losses_named(place):
        _use_device(device_type, local_rank, local_count)
        store = next(rendezvous("env://", place.index, place.count))[0]
        columns = joined(device_type, store, place, num_columns)
        _do(work, Rank(columns=columns, device=_device(device_type, local_rank)), args)
    dist.destroy_process_group()


def _do(work: Callable[..., None], rank: Rank, args: tuple[Any, ...]) -> None:
    with freed_memory_kept() if rank.device.type == "cpu" else nullcontext():
        work(rank, *args)


def _device(device_type: str, index: int) -> torch.device:
    return torch.device(device_type, index) if device_type == "cuda" else torch.device(device_type)


def _use_device(device_type: str, index: int, count: int) -> None:
    if device_type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic cuBLAS asks for
        torch.cuda.set_device(index)
    else:
        torch.set_num_threads(max(1, cores() // count))
