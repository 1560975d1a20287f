"""The C library's memory: what a step frees stays with the process for the next step."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # glibc's numbers of these parameters, malloc.h
NEVER = -1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees; whether the C library can be told so (glibc can).

    glibc gives blocks above 32 MiB back to the kernel when they are freed, as large activations are in each step, and
    taking them again costs a page fault every 4 KiB. It also means that the process never shrinks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, NEVER))
