"""Settings of glibc's allocator, so that memory freed in one training step is reused in the next."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of mallopt (malloc.h); KEPT returns no freed memory to the kernel, USUAL are glibc's own settings.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
KEEP_FREED = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}
GLIBC_USUAL = {MMAP_MAX: 1 << 16, MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in this process, and return it to the kernel at the end. Does nothing without glibc.

    glibc returns blocks above 32 MiB to the kernel as soon as they are freed. Large activations are freed in each
    step, and allocating them again costs a page fault every 4 KiB.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    for parameter, value in KEEP_FREED.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in GLIBC_USUAL.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
