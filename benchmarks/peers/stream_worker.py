"""One contender of ``stream.py``: obeys lines of JSON on standard input, answers each with a line of JSON.

``python stream_worker.py NAME FOLDER`` starts the stream and checks its first batch; then ``{"images": 8000}`` takes
as many, and ``{"seconds": 4, "drop": 8}`` takes eight batches and measures those of the next four seconds. Between
orders nothing is taken, so whoever prepares batches ahead soon rests. An answer of ``{"error": …}`` ends it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from process_tree import cpu_seconds, machine_seconds, memory_mib, tree
from stream_contenders import CONTENDERS, Entry
from stream_store import BATCH, CROP, Stored

LARGEST_MEAN, DEVIATION_WITHIN = 20.0, 0.35


def check(batch: Any, entry: Entry, stored: Stored) -> dict[str, Any]:
    """Shape, type and rough statistics of a batch. Raises RuntimeError if it is not what all are to make."""
    array = np.asarray(batch)
    shape, dtype = ((BATCH, 3, CROP, CROP), "float32") if entry.finished else ((BATCH, CROP, CROP, 3), "uint8")
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise RuntimeError(f"makes {array.dtype} {array.shape}, expected {dtype} {shape}, contiguous")
    mean, deviation = float(array.mean(dtype=np.float64)), float(array.std(dtype=np.float64))
    off = abs(mean) > LARGEST_MEAN or abs(deviation / stored.deviation - 1) > DEVIATION_WITHIN
    if entry.finished and off:
        raise RuntimeError(f"mean {mean:.1f}, deviation {deviation:.1f}, expected about 0 and {stored.deviation:.1f}")
    return {"mean": mean, "deviation": deviation}


def take(batches: Iterator[Any], images: int) -> int:
    """Take at least so many images, and return how many it were."""
    taken = 0
    while taken < images:
        taken += len(next(batches))
    return taken


def measure(batches: Iterator[Any], seconds: float, drop: int) -> dict[str, float]:
    """What ``seconds`` of taking batches gave, and what the machine did meanwhile."""
    take(batches, drop * BATCH)
    cpu, (busy, steal), start, images, elapsed = cpu_seconds(), machine_seconds(), time.perf_counter(), 0, 0.0
    while elapsed < seconds:
        images += len(next(batches))
        elapsed = time.perf_counter() - start
    own, (busy_after, steal_after) = cpu_seconds() - cpu, machine_seconds()
    return {
        "rate": images / elapsed,
        "cores": own / elapsed,
        "others": (busy_after - busy - own) / elapsed,
        "steal": (steal_after - steal) / elapsed,
        "mib": memory_mib(),
    }


def serve(name: str, folder: Path, answer: Any) -> None:
    """Start the stream, then do as told until standard input ends."""
    entry = CONTENDERS[name]
    stored = Stored.load(folder, entry.encoding)
    stream = importlib.import_module(entry.module).stream(stored, **entry.options)
    batches = iter(stream.batches)
    facts = check(next(batches), entry, stored)
    versions = {**{package: version(package) for package in entry.packages}, **stream.versions}
    answer({"versions": versions, "bytes": stream.bytes_per_image, **facts})
    for line in sys.stdin:
        order = json.loads(line)
        taken = take(batches, order["images"]) if "images" in order else 0
        answer({"images": taken} if taken else measure(batches, **order))


def main() -> None:
    """Serve, and end with all processes that the stream has started."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        serve(sys.argv[1], Path(sys.argv[2]), answer)
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
    finally:
        for child in tree(os.getpid())[1:]:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGTERM)  # which Python's own cleaner survives
        os._exit(0)  # loaders that run in threads are not asked to end


if __name__ == "__main__":
    main()
