"""Time and peak memory of work on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

Clock = Callable[[], float]  # seconds, from any start


def time_work_s(work: Callable[[], object], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Return the seconds that ``work`` takes, from an idle device until the device has finished it."""
    synchronize(device)
    start = clock()
    work()
    synchronize(device)
    return clock() - start


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB, with shared libraries; 0 if the system does not tell.

    Not from ``getrusage``, where a process inherits the peak of the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def gpu_peak_mib(device: torch.device) -> float | None:
    """Return the peak memory of this process's tensors on a GPU, in MiB; None if the device is not a GPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
