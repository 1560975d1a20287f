"""Starts the ranks of a run on this machine and tells each which column and device it is."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from pipeline.errors import AlexstreamError
from trainer.columns import Columns
from trainer.errors import TrainError
from trainer.geometry import NUM_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One process of a run: its columns, its device, and whether it is the one that speaks and writes."""

    columns: Columns
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.columns.index == 0


def choose_device_type(num_devices: int, wanted: str = "auto") -> str:
    """``cuda`` if there are enough GPUs and they are wanted, else ``cpu``.

    Raises TrainError for a number of devices that the two-column network cannot have, or too few GPUs.
    """
    if num_devices not in (1, NUM_COLUMNS):
        raise TrainError(
            f"--devices: received {num_devices}, expected 1 (both columns in one process) or 2 (one column "
            "per process); the network has two columns"
        )
    gpus = num_gpus()
    if wanted == "cuda" and gpus < num_devices:
        raise TrainError(f"--device cuda with --devices {num_devices}: this machine has {gpus} GPUs; use cpu")
    return "cuda" if wanted != "cpu" and gpus >= num_devices else "cpu"


def num_gpus() -> int:
    """GPUs that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(work: Callable[..., None], args: tuple[Any, ...], num_devices: int, device_type: str) -> None:
    """Run ``work(rank, *args)`` in one process per device and wait for all of them.

    One device: in this process. Two: both are started here, meet through a file, and if one dies the other is
    stopped. Raises what ``work`` raises if it is an AlexstreamError, TrainError if a rank dies otherwise.
    """
    if num_devices == 1:
        _use_device(device_type, 0, 1)
        work(Rank(columns=Columns(), device=_device(device_type, 0)), *args)
        return
    with tempfile.TemporaryDirectory(prefix="alexstream-") as meeting:
        logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # what it tells is told below
        messages = multiprocessing.get_context("spawn").SimpleQueue()
        call = _Call(
            meeting=f"file://{meeting}/ranks",
            count=num_devices,
            device_type=device_type,
            launcher=os.getpid(),
            work=work,
        )
        try:
            # Daemons, so that an interrupt of this process alone ends them too instead of waiting for them.
            start_processes(  # type: ignore[no-untyped-call]
                _enter, (call, messages, args), nprocs=num_devices, daemon=True, start_method="spawn"
            )
        except ProcessExitedException as error:
            if not messages.empty():
                raise TrainError(messages.get()) from None
            raise TrainError(
                f"rank {error.error_index} died ({error.signal_name or error.exit_code}), so the run was stopped; "
                "continue from its last checkpoint with --resume"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What every rank of a run is told: where to meet, how many, on what, by whom, to do what."""

    meeting: str
    count: int
    device_type: str
    launcher: int
    work: Callable[..., None]


def _enter(index: int, call: _Call, messages: Any, args: tuple[Any, ...]) -> None:
    """A rank's process: join the others, work, leave. Expected errors go to the parent as one line."""
    threading.Thread(target=_die_with, args=(call.launcher,), daemon=True).start()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    _use_device(call.device_type, index, call.count)
    backend = "nccl" if call.device_type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=call.meeting, rank=index, world_size=call.count)
    try:
        mesh = init_device_mesh(
            call.device_type, (call.count // NUM_COLUMNS, NUM_COLUMNS), mesh_dim_names=("replica", "column")
        )
        columns = Columns(
            index=mesh.get_local_rank("column"),
            count=NUM_COLUMNS,
            group=mesh.get_group("column"),
            data_group=dist.new_group(),
        )
        call.work(Rank(columns=columns, device=_device(call.device_type, index)), *args)
    except AlexstreamError as error:
        messages.put(str(error))
        sys.exit(1)
    dist.destroy_process_group()


def _die_with(parent: int) -> None:
    """A rank whose launcher was killed ends too: nobody would read its results or stop it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _device(device_type: str, index: int) -> torch.device:
    return torch.device(device_type, index) if device_type == "cuda" else torch.device(device_type)


def _use_device(device_type: str, index: int, count: int) -> None:
    if device_type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic cuBLAS asks for
        torch.cuda.set_device(index)
    else:
        torch.set_num_threads(max(1, cores() // count))
