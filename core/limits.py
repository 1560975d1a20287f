"""Resources that this process may use: cores by affinity and quota, memory by limit, as in a container.

Quotas and limits are those of Linux control groups (versions 1 and 2), as set by Docker, Kubernetes, Slurm and systemd.
A group's limit applies to all groups below it, so the smallest on the path to the root is in force. Also recognizes the
system's limits on address space, processes and threads in the various errors that they cause.
"""

from __future__ import annotations

import errno
import math
import os
import re
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

PROC = Path("/proc")
_CGROUP_ROOT = Path("/sys/fs/cgroup")  # the usual mount point of control groups, where /proc lists none
_MOUNT_ESCAPE = re.compile(r"\\([0-7]{3})")  # mountinfo's escapes for spaces, tabs and backslashes
_ENOUGH_ADDRESSES = 8 << 30  # bytes of address space
_OOM_SCORE_STEP = 500  # OOM score to add: the process counts as larger by this many thousandths of all memory
# Messages of Python, Arrow and C++ libraries when pthread_create fails.
_THREAD_ERRORS = ("can't start new thread", "Failed to launch worker thread", os.strerror(errno.EAGAIN))


def count_cores(proc: Path = PROC) -> int:
    """Return the number of CPU cores that this process may use: its affinity, at most its quota rounded up.

    ``proc``: the proc file system to read. At least 1.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = (quota for folder in _iter_cgroups("cpu", proc) if (quota := _read_cpu_quota(folder)) is not None)
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas)]))


def default_num_threads(processes: int = 1) -> int:
    """Return the number of compute threads for each of ``processes``: OMP_NUM_THREADS, or a share of the cores.

    torchrun sets OMP_NUM_THREADS to 1 where it is unset, so under torchrun a value of 1 is ignored.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    is_torchruns = wanted == "1" and "TORCHELASTIC_RUN_ID" in os.environ
    if wanted.isascii() and wanted.isdigit() and int(wanted) and not is_torchruns:
        return int(wanted)
    return max(1, count_cores() // processes)


def memory_limit_bytes(proc: Path = PROC) -> int:
    """Return the memory that this process may use, bytes: the machine's, at most its control group's limit.

    ``proc``: the proc file system to read.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names = ("memory.max", "memory.limit_in_bytes")  # versions 2 and 1
    limits = (_read_number(folder / name) for folder in _iter_cgroups("memory", proc) for name in names)
    return min([there, *(limit for limit in limits if limit)])


def count_oom_kills(proc: Path = PROC) -> int:
    """Return how many processes of this control group the kernel has killed for lack of memory.

    ``proc``: the proc file system to read. 0 where the kernel does not report it.
    """
    groups = (
        folder / name for folder in _iter_cgroups("memory", proc) for name in ("memory.events", "memory.oom_control")
    )
    for path in (*groups, proc / "vmstat"):
        for line in _read_lines(path):
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdigit():
                return int(count)
    return 0


def explain_oom_kill(kills_before: int, proc: Path = PROC) -> str:
    """Return a sentence if the kernel has killed a process for memory since ``kills_before``, else "".

    ``kills_before``: an earlier result of ``count_oom_kills``. ``proc``: the proc file system to read.
    """
    if count_oom_kills(proc) <= kills_before:
        return ""
    return f"memory was short: {memory_limit_bytes(proc) / 2**30:.1f} GiB may be used here"


def raise_oom_score(proc: Path = PROC) -> None:
    """Raise this process's OOM score, so that the kernel kills it before its parent, which can report that."""
    path = proc / "self/oom_score_adj"
    with suppress(OSError, ValueError):  # no Linux, no /proc
        path.write_text(str(min(1000, int(path.read_text()) + _OOM_SCORE_STEP)))


def describe_address_limit() -> str | None:
    """Return one line if this process may use less address space than torch, DALI and Arrow may reserve; else None."""
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft == resource.RLIM_INFINITY or soft >= _ENOUGH_ADDRESSES:
        return None
    return (
        f"the address space of this process is limited to {soft / 2**30:.1f} GiB (ulimit -v), of which libraries and "
        "threads reserve far more than they use; lift the limit (ulimit -v unlimited), and run the same command again"
    )


def explain_process_limit(error: BaseException | None) -> str | None:
    """Return one line if ``error`` was caused by a limit on address space, threads or processes; else None."""
    addresses = describe_address_limit()
    while error is not None:
        is_short = isinstance(error, MemoryError | ImportError) or getattr(error, "errno", None) == errno.ENOMEM
        if addresses and is_short:
            return addresses
        if isinstance(error, OSError) and error.errno is not None:
            is_refused = error.errno == errno.EAGAIN and error.filename is None
        else:
            is_refused = any(word in str(error) for word in _THREAD_ERRORS)
        if is_refused and addresses:
            return addresses
        if is_refused:
            allowed = resource.getrlimit(resource.RLIMIT_NPROC)[0]
            user = "no limit" if allowed == resource.RLIM_INFINITY else str(allowed)
            return (
                "the system starts no more threads or processes for this user: its limit (ulimit -u) is "
                f"{user}, and a container may have one of its own (pids); raise it, or end other processes, and run "
                "the same command again"
            )
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _read_cpu_quota(folder: Path) -> float | None:
    """Return the cores that a control group may keep busy, possibly a fraction; None if unlimited."""
    fields = _read_text(folder / "cpu.max").split() or [
        _read_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")
    ]
    if not all(field.isdigit() for field in fields) or not int(fields[1]):
        return None  # "max" or -1 for no quota, or no such file
    return int(fields[0]) / int(fields[1])


def _iter_cgroups(controller: str, proc: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those above it, as far as they are visible."""
    mounts = list(_iter_cgroup_mounts(proc))
    for line in _read_lines(proc / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for kinds, root, point in mounts:
            if (controller in kinds) if controllers else not kinds:
                yield from _iter_group_folders(point, root, path)
    if not mounts:
        yield from (_CGROUP_ROOT, _CGROUP_ROOT / controller)


def _iter_cgroup_mounts(proc: Path) -> Iterator[tuple[list[str], str, Path]]:
    """Yield the mounts of control groups: controllers (none: version 2), the group at its root, the folder."""
    for line in _read_lines(proc / "self/mountinfo"):
        place, _, kind = line.partition(" - ")
        fields, (name, _, options) = place.split(), (*kind.split(" ", 2), "", "", "")[:3]
        if name in ("cgroup", "cgroup2"):
            point = _MOUNT_ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields[4])
            yield (options.split(",") if name == "cgroup" else []), fields[3], Path(point)


def _iter_group_folders(point: Path, root: str, path: str) -> Iterator[Path]:
    """Yield the folders from the group ``path`` up to the one mounted at ``point``, which is the group ``root``."""
    group = PurePosixPath(path)
    if ".." not in group.parts and group.is_relative_to(root):
        inner = group.relative_to(root)
        yield from (point / above for above in (inner, *inner.parents) if above.parts)
    yield point


def _read_lines(path: Path) -> list[str]:
    return _read_text(path).splitlines()


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "surrogateescape").strip()
    except OSError:  # versions have different files, and a sandbox may hide them all
        return ""


def _read_number(path: Path) -> int | None:
    text = _read_text(path)
    return int(text) if text.isdigit() else None
