"""Small sources for conversions with faults."""

import numpy as np
from PIL import Image


def draw(folder, count, side=40, classes=2, seed=0):
    """A source of small PNGs of noise, ``count`` in all, with an empty file among them."""
    random = np.random.default_rng(seed)
    for number in range(count):
        path = folder / f"class{number % classes}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8)).save(path)
    (folder / "class0" / "empty.png").touch()
    return folder
