"""Draw the embedded sample set: photo-like JPEGs of eight classes that a network can learn in minutes.

Deterministic; needs no data and no network. A few files are broken or misnamed on purpose, to show the quarantine at
work. Used by ``cli.py sample``, the demo and the tests.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexstream.core.errors import OutputError
from alexstream.core.progress import progress_bar

Plane = NDArray[np.float64]
# x and y run over about -1..1, scale is the number of periods; values near 0 (ground) and 1 (figure)
Pattern = Callable[[Plane, Plane, float], Plane]


def _wave(phase: Plane) -> Plane:
    wave: Plane = 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * phase))
    return wave


def _inside(distance: Plane) -> Plane:
    inside: Plane = 0.5 - 0.5 * np.tanh(20 * distance)
    return inside


PATTERNS: dict[str, Pattern] = {
    "bands": lambda x, y, s: _wave(y * s / 2),
    "bullseye": lambda x, y, s: _wave(np.hypot(x, y) * s / 2),
    "checkerboard": lambda x, y, s: np.abs(_wave(x * s / 3) - _wave(y * s / 3)),
    "cross": lambda x, y, s: _inside(np.minimum(np.abs(x), np.abs(y)) - 0.8 / s),
    "disc": lambda x, y, s: _inside(np.hypot(x, y) - 1.6 / s),
    "dots": lambda x, y, s: _inside(np.hypot((x * s / 2) % 1 - 0.5, (y * s / 2) % 1 - 0.5) - 0.25),
    "spiral": lambda x, y, s: _wave(np.hypot(x, y) * s / 3 + np.arctan2(y, x) / (2 * np.pi)),
    "stripes": lambda x, y, s: _wave((x + y) * s / 3),
}


def write_sample_set(folder: Path, *, train_per_class: int = 100, val_per_class: int = 20, quiet: bool = False) -> int:
    """Write ``folder/train/CLASS/*.jpg`` and ``folder/val/CLASS/*.jpg``; return the number of files.

    The same arguments give the same pictures. Raises OutputError if ``folder`` exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"`folder` {folder} exists and is not empty; give another folder")
    splits = (("train", train_per_class), ("val", val_per_class))
    total = len(PATTERNS) * (train_per_class + val_per_class)
    with progress_bar(total, "images", "sample", quiet=quiet) as bar:
        for number, (split, per_class) in enumerate(splits):
            for label, name in enumerate(PATTERNS):
                for i in range(per_class):
                    random = np.random.RandomState([2012, number, label, i])  # a stream frozen by NumPy's policy
                    _write_file(folder / split / name / f"{name}_{i:04d}.jpg", draw_picture(name, random))
                    bar.update()
    return total + _write_hazards(folder / "train")


def draw_picture(name: str, random: np.random.RandomState) -> bytes:
    """Draw a picture of a class as JPEG: random size, place, angle, scale, colors, light, noise and quality."""
    height, width = random.randint(240, 480), random.randint(240, 560)
    side = min(height, width) / 2
    cy, cx = random.uniform(-0.25, 0.25, 2)
    y, x = np.mgrid[:height, :width]
    y, x = (y - height / 2) / side - cy, (x - width / 2) / side - cx
    angle = random.uniform(-0.3, 0.3)
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    figure = PATTERNS[name](x, y, random.uniform(3, 5))
    hue = (list(PATTERNS).index(name) + random.normal(0, 0.35)) / len(PATTERNS)
    front = np.array(colorsys.hsv_to_rgb(hue % 1, random.uniform(0.5, 0.95), random.uniform(0.6, 1)))
    back = np.array(colorsys.hsv_to_rgb(random.uniform(), random.uniform(0, 0.3), random.uniform(0.1, 0.7)))
    image = back + figure[..., None] * (front - back)
    light = 1 + random.uniform(-0.3, 0.3) * x + random.uniform(-0.3, 0.3) * y
    image = image * light[..., None] + random.normal(0, 0.03, (height, width, 1))
    return _encode_jpeg(Image.fromarray((255 * image.clip(0, 1)).round().astype(np.uint8)), int(random.randint(60, 96)))


def _write_hazards(train: Path) -> int:
    """Write seven files as real folders hold them: three not images, three unusual images, one system file."""
    first = {name: (train / name / f"{name}_0000.jpg").read_bytes() for name in PATTERNS}
    picture = Image.open(io.BytesIO(first["spiral"]), formats=("JPEG",))
    png = io.BytesIO()
    picture.save(png, "PNG")
    files = {
        "bands/empty.jpg": b"",
        "bullseye/truncated.jpg": first["bullseye"][: len(first["bullseye"]) // 2],
        "cross/error_page.jpg": b"<html><body>404 Not Found</body></html>\n",
        "spiral/png_named.JPEG": png.getvalue(),
        "disc/gray.jpg": _encode_jpeg(Image.open(io.BytesIO(first["disc"]), formats=("JPEG",)).convert("L"), 85),
        "dots/cmyk.jpg": _encode_jpeg(Image.open(io.BytesIO(first["dots"]), formats=("JPEG",)).convert("CMYK"), 85),
        "stripes/.DS_Store": b"\0\0\0\1Bud1",
    }
    for name, data in files.items():
        _write_file(train / name, data)
    return len(files)


def _encode_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _write_file(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
