"""Scale the central square of an image of any size to ``size_px`` × ``size_px``, by separable antialiasing; pure.

Both passes work in float32, one product and one sum at a time, in a fixed order and without fused operations; the tap
weights are computed with + − × ÷ alone. So every machine gives the same bits. The value between the passes is not
rounded (Pillow rounds it to 8 bits); the end result is rounded half up once.

Shape legend: H, W = source height and width, C = 3 channels, K = taps of one output pixel, S = output side.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexstream.core.jit import njit

Float32 = NDArray[np.float32]
Uint8 = NDArray[np.uint8]

# name → (number of the kernel below, its support in source pixels at scale 1)
FILTERS = {"box": (0, 0.5), "bilinear": (1, 1.0), "bicubic": (2, 2.0), "lanczos": (3, 3.0)}
BLOCK_ROWS = 64  # output rows per block: float32 rows of an ImageNet photograph then fit in the L2 cache


def resize_square(image_HWC: Uint8, size_px: int, resize_filter: str) -> Uint8:
    """Scale the central square of a uint8 RGB image (H, W, 3) to uint8 (size_px, size_px, 3).

    The square has the length of the shorter side and may begin at half a pixel, so that both ends are cropped equally.
    Cropping before scaling gives the same result as cropping afterwards, and costs less.
    """
    height, width, _ = image_HWC.shape
    side = min(height, width)
    return resize_box(image_HWC, ((height - side) / 2, (width - side) / 2, side, side), size_px, resize_filter)


def resize_box(image_HWC: Uint8, box: tuple[float, float, float, float], size_px: int, resize_filter: str) -> Uint8:
    """Scale a box (top, left, height, width; may be fractional) of a uint8 RGB image (H, W, 3) to a square.

    Returns uint8 (size_px, size_px, 3). The filter reaches beyond the box where the image does.
    """
    height, width, _ = image_HWC.shape
    top, left, tall, wide = box
    ys, y_weights = _compute_taps(resize_filter, height, top, tall, size_px)
    xs, x_weights = _compute_taps(resize_filter, width, left, wide, size_px)
    first, last = int(xs[0]), int(xs[-1]) + x_weights.shape[1]
    rows = np.ascontiguousarray(image_HWC).reshape(height, width * 3)[:, 3 * first : 3 * last]
    out = np.empty((size_px, size_px, 3), np.uint8)
    _resample(rows, ys, y_weights, xs - first, x_weights, out)
    return out


def add_fourth_byte(image_HWC: Uint8) -> Uint8:
    """Copy RGB pixels (H, W, 3) to (H, W, 4), with a fourth, meaningless byte, as Pillow stores them.

    H · W must be divisible by 4, and the machine little-endian.
    """
    height, width, _ = image_HWC.shape
    out = np.empty((height, width, 4), np.uint8)
    _copy_words(np.ascontiguousarray(image_HWC).reshape(-1).view("<u4"), out.reshape(-1).view("<u4"))
    return out


@njit(cache=True, nogil=True)
def _copy_words(words: Any, out: Any) -> None:
    """Copy four pixels per step: three words with four pixels to four words of one, least significant byte first."""
    eight, sixteen, most = np.uint32(8), np.uint32(16), np.uint32(24)
    for i in range(out.size // 4):
        a, b, c = words[3 * i], words[3 * i + 1], words[3 * i + 2]
        out[4 * i] = a
        out[4 * i + 1] = (a >> most) | (b << eight)
        out[4 * i + 2] = (b >> sixteen) | (c << sixteen)
        out[4 * i + 3] = c >> eight


@lru_cache(maxsize=1024)
def _compute_taps(
    resize_filter: str, length: int, begin: float, side: float, size_px: int
) -> tuple[NDArray[np.int64], Float32]:
    """Return for each output pixel its first source pixel, int64 (S,), and the weights from there on (S, K)."""
    number, support = FILTERS[resize_filter]
    scale = side / size_px
    reach = support * max(scale, 1.0)
    centers = begin + (np.arange(size_px) + 0.5) * scale
    firsts = np.maximum(centers - reach + 0.5, 0).astype(np.int64)
    counts = np.minimum(centers + reach + 0.5, length).astype(np.int64) - firsts
    weights = np.zeros((size_px, int(counts.max())), np.float32)
    # At the end of the image, weights are shifted so that all taps stay within it.
    starts = np.minimum(firsts, length - weights.shape[1])
    _fill_weights(number, 1.0 / max(scale, 1.0), firsts - centers + 0.5, counts, firsts - starts, weights)
    return starts, weights


@njit(cache=True)
def _fill_weights(number: int, shrink: float, distances: Any, counts: Any, moves: Any, weights: Float32) -> None:
    row = np.empty(weights.shape[1], np.float64)
    for i in range(counts.size):
        total = 0.0
        for k in range(counts[i]):
            row[k] = _evaluate_kernel(number, abs(distances[i] + k) * shrink)
            total += row[k]
        for k in range(counts[i]):
            weights[i, moves[i] + k] = np.float32(row[k] / total)


@njit(cache=True)
def _evaluate_kernel(number: int, x: float) -> float:
    """Return the box, triangle, Keys (a = −0.5) or Lanczos (a = 3) kernel at the distance ``x`` ≥ 0."""
    if number == 0:
        return 1.0 if x <= 0.5 else 0.0
    if number == 1:
        return max(1.0 - x, 0.0)
    if number == 2:
        if x < 1.0:
            return (1.5 * x - 2.5) * x * x + 1.0
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0
    if x == 0.0:
        return 1.0
    return 3.0 * _sin_pi(x) * _sin_pi(x / 3.0) / (math.pi * math.pi * x * x) if x < 3.0 else 0.0


@njit(cache=True)
def _sin_pi(x: float) -> float:
    """Return sin(πx) to the last bits of a double by Taylor's series: math libraries differ between machines."""
    whole = int(x + 0.5)
    angle = (x - whole) * math.pi
    square = angle * angle
    term = total = angle
    for n in range(2, 24, 2):
        term *= -square / (n * (n + 1))
        total += term
    return -total if whole % 2 else total


@njit(cache=True, nogil=True)
def _resample(rows: Uint8, ys: Any, y_weights: Float32, xs: Any, x_weights: Float32, out: Uint8) -> None:
    """Resample in blocks of output rows: vertically, transpose, then horizontally over contiguous lines."""
    size, length = out.shape[0], rows.shape[1]
    tall = np.empty((BLOCK_ROWS, length), np.float32)
    block = np.empty((length, BLOCK_ROWS), np.float32)
    line = np.empty((3, BLOCK_ROWS), np.float32)
    for y in range(0, size, BLOCK_ROWS):
        count = min(BLOCK_ROWS, size - y)
        for r in range(count):
            _resample_vertically(rows, ys[y + r], y_weights[y + r], tall[r])
        for j in range(length):
            for r in range(count):
                block[j, r] = tall[r, j]
        for x in range(size):
            for c in range(3):
                _resample_horizontally(block, 3 * xs[x] + c, x_weights[x], line[c])
            _store_pixels(line, out[y : y + count, x])


@njit(cache=True)
def _resample_vertically(rows: Uint8, first: int, weights: Float32, out: Float32) -> None:
    """Compute one row of weighted sums plus 0.5, which makes the later truncation a rounding; two taps a sweep."""
    odd = weights.size % 2
    if odd:
        row, weight = rows[first], weights[0]
        for j in range(out.size):
            out[j] = np.float32(0.5) + weight * np.float32(row[j])
    else:
        out[:] = np.float32(0.5)
    for k in range(odd, weights.size, 2):
        row, weight, row2, weight2 = rows[first + k], weights[k], rows[first + k + 1], weights[k + 1]
        for j in range(out.size):
            out[j] += weight * np.float32(row[j]) + weight2 * np.float32(row2[j])


@njit(cache=True)
def _resample_horizontally(block: Float32, first: int, weights: Float32, out: Float32) -> None:
    """Sum every third line of the block with weights: one channel of one output column, ROWS rows at once."""
    odd = weights.size % 2
    if odd:
        line, weight = block[first], weights[0]
        for r in range(BLOCK_ROWS):
            out[r] = weight * line[r]
    else:
        out[:] = np.float32(0.0)
    for k in range(odd, weights.size, 2):
        line, weight, line2, weight2 = block[first + 3 * k], weights[k], block[first + 3 * k + 3], weights[k + 1]
        for r in range(BLOCK_ROWS):
            out[r] += weight * line[r] + weight2 * line2[r]


@njit(cache=True)
def _store_pixels(line: Float32, out: Uint8) -> None:
    low, high = np.float32(0.0), np.float32(255.0)
    for r in range(out.shape[0]):
        out[r, 0] = np.uint8(min(max(line[0, r], low), high))
        out[r, 1] = np.uint8(min(max(line[1, r], low), high))
        out[r, 2] = np.uint8(min(max(line[2, r], low), high))
