"""How near pixels are to other pixels: PSNR, SSIM, and the references that resampled squares are held against."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.uint8]
SIZE = 256
IDENTICAL_DB = 99.0  # stands for no difference at all


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio over all channels in dB, at most ``IDENTICAL_DB``."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return min(IDENTICAL_DB, 10 * np.log10(255**2 / error)) if error else IDENTICAL_DB


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity of the luma (Wang et al. 2004: Gaussian window of 1.5 px, K = 0.01, 0.03)."""
    x, y = (pixels @ np.array([0.299, 0.587, 0.114]) for pixels in (a, b))

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return gaussian_filter(values, 1.5, truncate=3.5)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return float(np.mean(top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def references(data: bytes) -> list[Pixels]:
    """Full decode and Pillow's Lanczos for each of the three windows that tools call the central square.

    They differ by less than a pixel: the exact one, the one of whole source pixels, and scale first, crop then. The
    nearest counts, so that a shift which nobody can see does not pass for a loss.
    """
    image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")).convert("RGB")
    side = min(image.size)
    exact = [(length - side) / 2 for length in image.size]
    windows = [exact, [float(int(begin)) for begin in exact]]
    boxes = [(left, top, left + side, top + side) for left, top in windows]
    found = [np.asarray(image.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=box)) for box in boxes]
    width, height = (max(SIZE, round(length * SIZE / side)) for length in image.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    whole = image.resize((width, height), Image.Resampling.LANCZOS)
    return [*found, np.asarray(whole.crop((left, top, left + SIZE, top + SIZE)))]


def decoded(jpeg: bytes) -> Pixels:
    """The pixels of a JPEG."""
    return np.asarray(Image.open(io.BytesIO(jpeg), formats=("JPEG",)).convert("RGB"))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, 5th percentile and smallest."""
    if not values:
        return "–"
    three = (statistics.median(values), float(np.percentile(values, 5)), min(values))
    return " / ".join(f"{value:.{digits}f}" for value in three)
