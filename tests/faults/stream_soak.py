"""A loader that streams on and on, opened and closed again and again, and says what it holds.

``python tests/faults/stream_soak.py DATA PAUSE_S``: a line of JSON every two seconds until it is ended: seconds,
batches so far, MiB of memory that no file backs, open files, threads. Before it looks, it collects garbage and gives
free memory back: DALI's pipelines hold each other until the collector comes, and the C library keeps what is free for
later.
"""

import ctypes
import gc
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from alexstream.pipeline.stream import ShardedData

EVERY_S = 2.0


def held():
    """What this process holds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    memory = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))
    return {"mib": memory, "files": len(os.listdir("/proc/self/fd")), "threads": len(os.listdir("/proc/self/task"))}


def main():
    """Stream until ended."""
    torch.set_num_threads(1)
    begun, due, batches, opened = time.monotonic(), 0.0, 0, 0
    while True:
        opened += 1
        data = ShardedData(
            train=sys.argv[1], batch_size=16, num_threads=1, decoder=("auto", "dali", "threads")[opened % 3]
        )
        loader = data.loader()
        for epoch in range(4):
            # Every other pass is given up in its middle, as a loop that breaks does.
            for _ in islice(loader, 3 if epoch % 2 else None):
                batches += 1
                time.sleep(float(sys.argv[2]))  # the rest of the soak wants the cores too
                if time.monotonic() - begun > due:
                    due = time.monotonic() - begun + EVERY_S
                    row = {"s": time.monotonic() - begun, "batches": batches, "opened": opened, **held()}
                    sys.stdout.write(json.dumps(row) + "\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
