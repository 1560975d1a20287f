"""One process of one tool: obeys lines of JSON on standard input, answers each with a line of JSON.

``python worker.py TOOL IMAGES FOLDER PART``, then ``{"passes": 2}`` converts every image twice, and
``{"pixels": "out.npz", "count": 50}`` saves what the first images became. An answer of ``{"error": …}`` ends it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools import TOOLS, Tool


def passes(tool: Tool, images: list[Path], folder: Path, count: int) -> dict[str, Any]:
    """Convert all images ``count`` times. The output is removed at once, before the disk is busy with it for others."""
    cpu, start = sum(os.times()[:4]), time.perf_counter()
    own = tool.block(images * count, folder)
    seconds = own or time.perf_counter() - start
    cpu = sum(os.times()[:4]) - cpu
    for file in folder.iterdir():
        file.unlink()
    return {"images": len(images) * count, "seconds": seconds, "cpu": cpu}


def save_pixels(tool: Tool, images: list[Path], out: str) -> dict[str, Any]:
    """Save pixels before encoding (of those images that became squares), and all JPEGs, one after the other."""
    import numpy as np

    data = [path.read_bytes() for path in images]
    squares = {i: tool.resample(d) for i, d in enumerate(data)}
    stored = [tool.store(d) for d in data]
    kept = [i for i, pixels in squares.items() if pixels.shape == (256, 256, 3)]
    np.savez(
        out,
        kept=np.array(kept),
        pixels=np.stack([squares[i] for i in kept]),
        jpegs=np.frombuffer(b"".join(stored), np.uint8),
        sizes=np.array([len(s) for s in stored]),
    )
    return {"kept": len(kept)}


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    name, root, folder, part = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    images = sorted(path for path in root.rglob("*") if path.is_file())
    shuffled = random.Random(part).sample(images, len(images))

    def answer(value: dict[str, Any]) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        tool = TOOLS[name].make(images)
        answer({"versions": {package: version(package) for package in TOOLS[name].packages}})
        for line in sys.stdin:
            order = json.loads(line)
            if "pixels" in order:
                answer(save_pixels(tool, images[: order["count"]], order["pixels"]))
            else:
                answer(passes(tool, shuffled, folder, order["passes"]))
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
