"""The bound: ``bound.c``, compiled here and called for one batch after the other, on stored bytes held in memory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from stream_store import BATCH, CROP, MARGIN, THREADS, Stored, Stream

SOURCE = Path(__file__).resolve().parent / "bound.c"
COMPILE = ("-O3", "-march=native", "-shared", "-fPIC")
BUFFERS = 4


def stream(stored: Stored) -> Stream:
    """Random samples in reused buffers. Raises RuntimeError if it does not compile."""
    library, compiler = compiled(stored.folder / f"bound-{stored.encoding}.so")
    library.codec_name.restype = ctypes.c_char_p
    versions = {"codec": library.codec_name().decode(), "compiler": compiler}
    return Stream(_batches(library, stored), stored.bytes_per_image(), versions)


def compiled(target: Path) -> tuple[ctypes.CDLL, str]:
    """The library, and the name of the compiler that made it. Raises RuntimeError with the reason if there is none."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError("there is no C compiler (cc)")
    command = [compiler, *COMPILE, str(SOURCE), "-o", str(target), "-ljpeg", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or ["the compiler failed"]
        raise RuntimeError(f"{errors[0].strip()}; it needs libjpeg-turbo's headers (Debian: libjpeg62-turbo-dev)")
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()
    return ctypes.CDLL(str(target)), f"{said[0] if said else compiler} {' '.join(COMPILE[:2])}"


def _batches(library: ctypes.CDLL, stored: Stored) -> Iterator[np.ndarray]:
    in_memory = [np.fromfile(tar, np.uint8) for tar in stored.tars]
    begins = np.array([content.ctypes.data for content in in_memory])
    addresses, sizes = begins[stored.shard_N] + stored.offset_N, stored.size_N
    mean, rng = np.ascontiguousarray(stored.mean_HWC), np.random.default_rng(0)
    buffers = [np.zeros((BATCH, 3, CROP, CROP), np.float32) for _ in range(BUFFERS)]
    raw, number = int(stored.encoding == "raw"), 0
    while True:
        samples = rng.integers(0, len(stored), BATCH)
        y, x, flip = (rng.integers(0, stop, BATCH).astype(np.int32) for stop in (MARGIN + 1, MARGIN + 1, 2))
        rgb, out = stored.lighting(rng, BATCH), buffers[number % BUFFERS]
        arrays = (addresses[samples], sizes[samples], y, x, flip, rgb, mean, out)
        failed = library.batch(*map(_pointer, arrays), BATCH, THREADS, raw)
        if failed:
            raise RuntimeError(f"{failed} images did not decode")
        number += 1
        yield out


def _pointer(array: np.ndarray) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)
