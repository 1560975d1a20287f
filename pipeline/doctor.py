"""Check what this machine has, what training will use of it, and what to install. Called by ``cli.py doctor``.

A check's state is ``good``, ``note`` (it works, but could be better) or ``bad`` (something will not work).
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

from alexstream.core.jit import IS_PERSISTENT
from alexstream.core.limits import count_cores, default_num_threads, memory_limit_bytes
from alexstream.core.program import program_name
from alexstream.core.text import count_of
from alexstream.pipeline.decode import fused

CheckState = Literal["good", "note", "bad"]
SUPPORTED_PYTHONS = ((3, 11), (3, 13))
DISK_MIB = 256  # written and read to measure a disk
MIN_DISK_MIB_S = 200.0
MIN_OPEN_FILES, MIN_SHM_MIB, MIN_MEMORY_GIB = 1024, 64, 4
EXTRAS = {
    "report": ("matplotlib", "charts, pictures and report"),
    "s3": ("s3fs", "shards in an object store"),
    "ray": ("ray", "shard --executor ray"),
}
EXTRAS |= {"tensorboard": ("tensorboard", "train --tensorboard")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Hold one result: what was ``found``, in words, and ``advice`` on what to do, empty if nothing needs doing."""

    name: str
    found: str
    state: CheckState = "good"
    advice: str = ""

    def to_text(self) -> str:
        """Format the check as a line for a terminal, with the advice, if any, on a second line."""
        sign = {"good": "✓", "note": "!", "bad": "✗"}[self.state]
        return f"{sign} {self.name:22} {self.found}" + (f"\n  {'':22} → {self.advice}" if self.advice else "")


def run_checks(folder: Path) -> Iterator[Check]:
    """Yield all checks, one after the other. Measuring the disk of ``folder``, where shards are, takes seconds."""
    for check in (
        _check_python,
        _check_torch,
        _check_dali,
        _check_nvimagecodec,
        _check_collectives,
        _check_operator,
        _check_compiled_code,
        _check_extras,
    ):
        yield check()
    yield from _check_gpus()
    for check in (_check_cores, _check_memory, _check_open_files, _check_shared_memory):
        yield check()
    yield _check_disk(folder)
    yield _check_devices()


def _check_python() -> Check:
    found = f"{platform.python_version()}, {sys.executable}"
    if not SUPPORTED_PYTHONS[0] <= sys.version_info[:2] <= SUPPORTED_PYTHONS[1]:
        return Check(name="Python", found=found, state="bad", advice="install Python 3.11, 3.12 or 3.13")
    return Check(name="Python", found=found)


def _check_torch() -> Check:
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU"
    if torch.version.cuda is None and _has_nvidia_driver():
        advice = "an NVIDIA driver is present: install the build of torch for its CUDA version"
        return Check(name="torch", found=f"{torch.__version__}, {cuda}", state="note", advice=advice)
    return Check(name="torch", found=f"{torch.__version__}, {cuda}")


def _check_dali() -> Check:
    found = [
        f"{name} {_find_version(name)}"
        for name in ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
        if _find_version(name)
    ]
    if not found:
        return Check(name="DALI", found="not installed", state="bad", advice="pip install nvidia-dali-cuda130")
    if len(found) > 1:
        return Check(name="DALI", found=" and ".join(found), state="bad", advice="pip uninstall one of them")
    cuda = torch.version.cuda or ""
    if cuda and f"cuda{cuda.split('.')[0]}" not in found[0]:
        advice = f"install the one for torch's CUDA {cuda}: pip install nvidia-dali-cuda{cuda.split('.')[0]}0"
        return Check(name="DALI", found=found[0], state="note", advice=advice)
    return Check(name="DALI", found=found[0])


def _check_nvimagecodec() -> Check:
    found = next(
        (f"{n} {_find_version(n)}" for n in ("nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12") if _find_version(n)),
        "",
    )
    return Check(name="nvImageCodec", found=found or "not installed; DALI brings it where it needs it")


def _check_collectives() -> Check:
    if not torch.cuda.is_available():
        return Check(name="collectives", found="gloo (NCCL needs GPUs)")
    if not torch.distributed.is_nccl_available():
        advice = "install a build of torch that has NCCL, or train with --device cpu"
        return Check(name="collectives", found="no NCCL in this torch", state="bad", advice=advice)
    return Check(
        name="collectives",
        found="NCCL "
        + ".".join(
            map(str, torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
        ),
    )


def _check_operator() -> Check:
    operator = fused.find_operator()
    if operator.address is not None:
        return Check(name="compiled operator", found="built: CPU streams decode and normalize in one pass")
    advice = "install a C compiler and libjpeg-turbo's headers (libjpeg-dev), then alexstream again"
    if operator.absence != fused.NOT_BUILT:
        advice = "install alexstream again (in a checkout: make setup) to rebuild it"
    return Check(
        name="compiled operator", found=f"{operator.absence}: DALI's decoder is used", state="note", advice=advice
    )


def _check_compiled_code() -> Check:
    if IS_PERSISTENT:
        return Check(name="compiled code", found="cached from one command to the next")
    found = "compiled again by every command, which takes a minute: no cache folder can be written to"
    return Check(name="compiled code", found=found, state="note", advice="set NUMBA_CACHE_DIR to a writable folder")


def _check_extras() -> Check:
    there = [extra for extra, (module, _) in EXTRAS.items() if find_spec(module)]
    away = [f"{extra} ({EXTRAS[extra][1]})" for extra in EXTRAS if extra not in there]
    advice = f"optional, by pip install 'alexstream[NAME]': {', '.join(away)}" if away else ""
    return Check(name="extras", found=", ".join(there) or "none", advice=advice)


def _check_gpus() -> Iterator[Check]:
    count = _count_gpus()
    if count == 0:
        there = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
        if there:
            advice = "the driver does not match torch's CUDA: compare nvidia-smi with torch.version.cuda"
            yield Check(name="GPUs", found=f"{there} present, none that torch can use", state="bad", advice=advice)
        else:
            yield Check(name="GPUs", found="none")
        return
    for index in range(count):
        facts = torch.cuda.get_device_properties(index)
        yield Check(name=f"GPU {index}", found=f"{facts.name}, {facts.total_memory >> 30} GiB")
    yield _check_jpeg_hardware()
    if count > 1:
        pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
        peers = sum(torch.cuda.can_device_access_peer(a, b) for a, b in pairs)
        yield Check(
            name="peer access",
            found=f"{peers} of {len(pairs)} pairs of GPUs",
            state="good" if peers == len(pairs) else "note",
            advice="" if peers == len(pairs) else "the columns exchange activations through host memory",
        )


def _check_jpeg_hardware() -> Check:
    """Look up the JPEG engine by compute capability: data-center GPUs have it since A100 (8.0), consumer GPUs not."""
    major, minor = torch.cuda.get_device_capability(0)
    there = (major, minor) in {(8, 0), (9, 0), (10, 0), (10, 3)}
    found = "present on this kind of GPU" if there else "none: decoding takes CUDA cores from the network"
    advice = "" if there else f"raw shards ({program_name()} shard --encode raw) need no decoding"
    return Check(name="JPEG hardware decoder", found=found, state="good" if there else "note", advice=advice)


def _check_cores() -> Check:
    found = f"{count_cores()} for this process, of {os.cpu_count()}"
    if threads := os.environ.get("OMP_NUM_THREADS"):
        found += f"; OMP_NUM_THREADS is {threads}"
    return Check(name="cores", found=found)


def _check_memory() -> Check:
    there, usable = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), memory_limit_bytes()
    found = f"{usable / 2**30:.0f} GiB" if usable == there else _format_limited_memory(usable, there)
    little = usable < MIN_MEMORY_GIB * 2**30
    advice = "give --batch-size 32, and shard with --workers 1" if little else ""
    return Check(name="memory", found=found, state="note" if little else "good", advice=advice)


def _format_limited_memory(usable: int, there: int) -> str:
    return f"{usable / 2**30:.1f} GiB for this process (limit of its control group), of {there / 2**30:.0f} GiB"


def _check_open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = hard != resource.RLIM_INFINITY and hard < MIN_OPEN_FILES
    found = f"{_format_limit(soft)}, may be raised to {_format_limit(hard)}; one is needed for each shard"
    advice = "raise the hard limit (ulimit -Hn) above the number of shards" if few else ""
    return Check(name="open files", found=found, state="note" if few else "good", advice=advice)


def _check_shared_memory() -> Check:
    try:
        facts = os.statvfs("/dev/shm")
    except OSError:
        return Check(name="/dev/shm", found="none; not needed here")
    mib = facts.f_frsize * facts.f_bavail >> 20
    little = mib < MIN_SHM_MIB
    advice = "NCCL needs more: docker run --shm-size 1g" if little else ""
    return Check(name="/dev/shm", found=f"{mib:,} MiB free", state="note" if little else "good", advice=advice)


def _check_disk(folder: Path) -> Check:
    name = f"disk of {folder}"
    try:
        written, read = measure_disk(folder)
    except OSError as error:
        if folder.is_dir() and os.access(folder, os.R_OK | os.X_OK):
            found = f"readable; its speed cannot be measured, for no file can be written ({error.strerror})"
            return Check(name=name, found=found, state="note", advice="nothing to do, if shards are only read from it")
        advice = f"give a folder that can be read: {program_name()} doctor --data FOLDER"
        return Check(name=name, found=f"cannot be read: {error.strerror}", state="bad", advice=advice)
    free = os.statvfs(folder)
    found = f"writes {written:,.0f}, reads {read:,.0f} MiB/s; {free.f_frsize * free.f_bavail >> 30:,} GiB free"
    slow = min(written, read) < MIN_DISK_MIB_S
    advice = "may be too slow to feed a GPU: give --order grouped, or another disk" if slow else ""
    return Check(name=name, found=found, state="note" if slow else "good", advice=advice)


def measure_disk(folder: Path, mib: int = DISK_MIB) -> tuple[float, float]:
    """Measure a disk with a file of ``mib`` MiB; return MiB/s of writing (with fsync) and of reading it again.

    The kernel is asked to drop the file from its cache in between, which some file systems ignore. Raises OSError if no
    file can be made in ``folder``.
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


def _check_devices() -> Check:
    gpus = _count_gpus()
    if gpus >= 2:
        found = "train uses 2 GPUs, one column each; images are decoded on them"
    elif gpus == 1:
        found = "train --devices 1 uses the GPU for both columns; --devices 2 would use the CPU"
    else:
        found = f"train uses the CPU: 2 ranks, {count_of(default_num_threads(2), 'thread')} each"
    return Check(name="what will be used", found=found)


def _format_limit(value: int) -> str:
    return "any number" if value == resource.RLIM_INFINITY else f"{value:,}"


def _count_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _has_nvidia_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _find_version(package: str) -> str:
    with suppress(PackageNotFoundError):
        return version(package)
    return ""
