"""What this machine has, what will be used of it, and what to install: a list of checks. Called by ``cli.py doctor``.

A check is ``good``, a ``note`` (it works, something would make it better) or ``bad`` (something will not work).
"""

from __future__ import annotations

import mmap
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from pipeline import fused

State = Literal["good", "note", "bad"]
SUPPORTED = (3, 11)
DISK_MIB = 256  # written and read to measure a disk
SLOW_MIB_S = 200.0
FEW_FILES, LITTLE_SHM_MIB, LITTLE_GIB = 1024, 64, 4
EXTRAS = {"s3": ("s3fs", "shards in an object store"), "ray": ("ray", "shard --executor ray")}
EXTRAS |= {"tensorboard": ("tensorboard", "train --tensorboard")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """``found``: in words; ``advice``: what to do about it, empty if nothing is to be done."""

    name: str
    found: str
    state: State = "good"
    advice: str = ""

    def line(self) -> str:
        """``! open files        1,024 at most      raise it with: ulimit -n 65536``."""
        sign = {"good": "✓", "note": "!", "bad": "✗"}[self.state]
        return f"{sign} {self.name:22} {self.found}" + (f"\n  {'':22} → {self.advice}" if self.advice else "")


def examine(folder: Path) -> Iterator[Check]:
    """All checks, one after the other; ``folder``: the disk that shards are on. Measuring the disk takes seconds."""
    for check in (_python, _torch, _dali, _nvimagecodec, _nccl, _operator, _extras):
        yield check()
    yield from _gpus()
    for check in (_cores, _memory, _open_files, _shared_memory):
        yield check()
    yield _disk(folder)
    yield _used()


def _python() -> Check:
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info[:2] < SUPPORTED:
        return Check(name="Python", found=found, state="bad", advice="install Python 3.11 or newer")
    return Check(name="Python", found=found)


def _torch() -> Check:
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    if torch.version.cuda is None and _driver():
        advice = "there is an NVIDIA driver: pip install torch, in the build for its CUDA"
        return Check(name="torch", found=f"{torch.__version__}, {cuda}", state="note", advice=advice)
    return Check(name="torch", found=f"{torch.__version__}, {cuda}")


def _dali() -> Check:
    found = [f"{name} {_version(name)}" for name in ("nvidia-dali-cuda130", "nvidia-dali-cuda120") if _version(name)]
    if not found:
        return Check(name="DALI", found="not installed", state="bad", advice="pip install nvidia-dali-cuda130")
    if len(found) > 1:
        return Check(name="DALI", found=" and ".join(found), state="bad", advice="pip uninstall one of them")
    cuda = torch.version.cuda or ""
    if cuda and f"cuda{cuda.split('.')[0]}" not in found[0]:
        advice = f"install the one for torch's CUDA {cuda}: pip install nvidia-dali-cuda{cuda.split('.')[0]}0"
        return Check(name="DALI", found=found[0], state="note", advice=advice)
    return Check(name="DALI", found=found[0])


def _nvimagecodec() -> Check:
    found = next(
        (f"{n} {_version(n)}" for n in ("nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12") if _version(n)), ""
    )
    return Check(name="nvImageCodec", found=found or "not installed; DALI brings it where it needs it")


def _nccl() -> Check:
    if not torch.cuda.is_available():
        return Check(name="ranks talk over", found="gloo (NCCL needs GPUs)")
    if not torch.distributed.is_nccl_available():
        advice = "install a torch that has it, or train with --device cpu"
        return Check(name="ranks talk over", found="no NCCL in this torch", state="bad", advice=advice)
    return Check(
        name="ranks talk over",
        found="NCCL "
        + ".".join(
            map(str, torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
        ),
    )


def _operator() -> Check:
    if fused.operator() is not None:
        return Check(name="compiled operator", found="there: CPU streams decode and finish in one pass")
    advice = "install a C compiler and libjpeg-turbo's headers (libjpeg-dev), then alexstream again"
    return Check(name="compiled operator", found="not built: DALI's decoder is used", state="note", advice=advice)


def _extras() -> Check:
    there = [extra for extra, (module, _) in EXTRAS.items() if find_spec(module)]
    away = [f"{extra} ({EXTRAS[extra][1]})" for extra in EXTRAS if extra not in there]
    advice = f"where wanted: pip install alexstream[...]: {', '.join(away)}" if away else ""
    return Check(name="extras", found=", ".join(there) or "none", advice=advice)


def _gpus() -> Iterator[Check]:
    count = _num_gpus()
    if count == 0:
        there = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
        if there:
            advice = "the driver and torch's build do not fit: compare nvidia-smi with torch.version.cuda"
            yield Check(name="GPUs", found=f"{there} there, none that torch can use", state="bad", advice=advice)
        else:
            yield Check(name="GPUs", found="none")
        return
    for index in range(count):
        facts = torch.cuda.get_device_properties(index)
        yield Check(name=f"GPU {index}", found=f"{facts.name}, {facts.total_memory >> 30} GiB")
    yield _jpeg_hardware()
    if count > 1:
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        peers = sum(torch.cuda.can_device_access_peer(a, b) for a, b in pairs)
        yield Check(
            name="peer access",
            found=f"{peers} of {len(pairs)} pairs of GPUs",
            state="good" if peers == len(pairs) else "note",
            advice="" if peers == len(pairs) else "the columns' exchanges go through the host's memory",
        )


def _jpeg_hardware() -> Check:
    """By compute capability: A100 (8.0) and data-centre GPUs since have the engine; consumer GPUs have none."""
    major, minor = torch.cuda.get_device_capability(0)
    there = (major, minor) in {(8, 0), (9, 0), (10, 0), (10, 3)}
    found = "there, by the kind of GPU" if there else "none: CUDA cores decode, which the network wants too"
    advice = "" if there else "raw shards (cli.py shard --encode raw) need no decoding"
    return Check(name="JPEG hardware decoder", found=found, state="good" if there else "note", advice=advice)


def _cores() -> Check:
    return Check(name="cores", found=f"{_num_cores()} for this process, of {os.cpu_count()}")


def _memory() -> Check:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    little = gib < LITTLE_GIB
    advice = "give --batch-size 32, and shard with --workers 1" if little else ""
    return Check(name="memory", found=f"{gib:.0f} GiB", state="note" if little else "good", advice=advice)


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = hard != resource.RLIM_INFINITY and hard < FEW_FILES
    found = f"{_limit(soft)}, may be raised to {_limit(hard)}; one is needed for each shard"
    advice = "raise the hard limit (ulimit -Hn) above the number of shards" if few else ""
    return Check(name="open files", found=found, state="note" if few else "good", advice=advice)


def _shared_memory() -> Check:
    try:
        facts = os.statvfs("/dev/shm")
    except OSError:
        return Check(name="/dev/shm", found="none; nothing here needs it")
    mib = facts.f_frsize * facts.f_bavail >> 20
    little = mib < LITTLE_SHM_MIB
    advice = "NCCL wants some: docker run --shm-size 1g" if little else ""
    return Check(name="/dev/shm", found=f"{mib:,} MiB free", state="note" if little else "good", advice=advice)


def _disk(folder: Path) -> Check:
    name = f"disk of {folder}"
    try:
        written, read = disk_speed(folder)
    except OSError as error:
        advice = "give a folder that can be written to: cli.py doctor --data FOLDER"
        return Check(name=name, found=f"cannot be measured: {error.strerror}", state="bad", advice=advice)
    free = os.statvfs(folder)
    found = f"writes {written:,.0f}, reads {read:,.0f} MiB/s; {free.f_frsize * free.f_bavail >> 30:,} GiB free"
    slow = min(written, read) < SLOW_MIB_S
    advice = "a stream from it may starve a GPU: give --order grouped, or another disk" if slow else ""
    return Check(name=name, found=found, state="note" if slow else "good", advice=advice)


def disk_speed(folder: Path, mib: int = DISK_MIB) -> tuple[float, float]:
    """MiB/s of writing a file to the disk itself, and of reading it again past the kernel's cache, where that can be.

    Raises OSError if ``folder`` takes no file.
    """
    block = os.urandom(2**20)
    with tempfile.TemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(mib):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = mib / (time.perf_counter() - start)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        with mmap.mmap(-1, 2**20) as buffer:
            for offset in range(mib):
                os.preadv(file.fileno(), [buffer], offset * 2**20)
        return written, mib / (time.perf_counter() - start)


def _used() -> Check:
    gpus = _num_gpus()
    if gpus >= 2:
        found = "train uses 2 GPUs, one column each; images are decoded on them"
    elif gpus == 1:
        found = "train --devices 1 uses the GPU for both columns; --devices 2 would use the CPU"
    else:
        found = f"train uses the CPU: 2 ranks, {max(1, _num_cores() // 2)} thread(s) each"
    return Check(name="what will be used", found=found)


def _limit(value: int) -> str:
    return "any number" if value == resource.RLIM_INFINITY else f"{value:,}"


def _num_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _version(package: str) -> str:
    with suppress(PackageNotFoundError):
        return version(package)
    return ""
