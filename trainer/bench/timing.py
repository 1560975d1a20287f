"""Seconds that work takes on a device, and the most memory it took. Called by the measurements beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

Clock = Callable[[], float]  # seconds, from any start


def elapsed_s(work: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Seconds from a device that has nothing to do to one that has done all of ``work``."""
    wait_for(device)
    start = clock()
    work()
    wait_for(device)
    return clock() - start


def peak_mib() -> float:
    """The most memory that this process ever had, MiB, shared libraries included; 0 where the system does not tell.

    Not from ``getrusage``: there a process begins with what the one that started it had.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def gpu_peak_mib(device: torch.device) -> float | None:
    """The most that tensors of this process ever took on a GPU, MiB; None for a device that is none."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def wait_for(device: torch.device) -> None:
    """Return when it has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
