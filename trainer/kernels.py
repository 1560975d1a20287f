"""Compiled passes for CPUs: what follows a convolution, and the update. One read and one write of memory each.

``forward`` is ReLU, local response normalisation (section 3.3) and max pooling (section 3.4), each optional, of images
in channels-last layout, row by row while they are in the cache; libraries take some twenty passes. The arithmetic is
float32, or float64 for float64 images; bfloat16 images come as their uint16 bits. Images are independent, so any
division of the work among threads gives the same bits.

Shape legend: N = images, H, W = rows and columns, C = channels, P, Q = pooled rows and columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from sharding.compiled import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


def constants(alpha: float, k: float, dtype: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """What ``forward`` and ``backward`` compute with, in the type that they compute in."""
    return np.array([0.0, 1.0, alpha, k, -2.0 * 0.75 * alpha], dtype)


def _load(bits: Any) -> Any:
    """A stored value as a number."""


def _store(number: Any, like: Any) -> Any:
    """A number as it is stored: bfloat16 rounds to nearest, ties to even."""


@overload(_load, inline="always")
def _load_by_type(bits: Any) -> Any:
    if bits == types.uint16:

        def widened(bits: Any) -> Any:
            return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)

        return widened

    def same(bits: Any) -> Any:
        return bits

    return same


@overload(_store, inline="always")
def _store_by_type(number: Any, like: Any) -> Any:
    if like == types.uint16:

        def rounded(number: Any, like: Any) -> Any:
            bits = np.float32(number).view(np.uint32)
            return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

        return rounded

    def same(number: Any, like: Any) -> Any:
        return number

    return same


@njit(inline="always", **_OPTIONS)
def _scales(x_C: Any, relu: bool, maps: int, constant: Any, a_C: Any, squares: Any, scale_C: Any) -> None:
    """Activations of a group of channels at one place, and k + α Σ a² over the ``maps`` channels around each."""
    zero, _one, alpha, k = constant[0], constant[1], constant[2], constant[3]
    held = len(x_C)
    for c in range(held):
        value = _load(x_C[c])
        value = max(value, zero) if relu else value
        a_C[c] = value
        squares[maps // 2 + c] = value * value
        scale_C[c] = zero
    for i in range(maps):
        for c in range(held):
            scale_C[c] += squares[c + i]
    for c in range(held):
        scale_C[c] = k + alpha * scale_C[c]


@njit(inline="always", **_OPTIONS)
def _row(x_WC: Any, form: Any, constant: Any, y_WC: Any, scratch: Any) -> None:
    """A row after ReLU and normalisation."""
    groups, relu, maps = form[0], form[1] != 0, form[2]
    a_C, squares, scale_C = scratch
    width, channels = x_WC.shape
    held = channels // groups
    zero, one = constant[0], constant[1]
    for w in range(width):
        if maps == 0:
            for c in range(channels):
                value = _load(x_WC[w, c])
                y_WC[w, c] = max(value, zero) if relu else value
            continue
        for first in range(0, channels, held):
            _scales(x_WC[w, first : first + held], relu, maps, constant, a_C, squares, scale_C)
            y_C = y_WC[w, first : first + held]
            for c in range(held):
                root = one / np.sqrt(scale_C[c])
                y_C[c] = a_C[c] * (root * np.sqrt(root))


@njit(**_OPTIONS)
def forward(x_NHWC: Any, form: Any, constant: Any, y_NPQC: Any, chosen_NPQC: Any) -> None:
    """Fill ``y_NPQC``, and ``chosen_NPQC`` with the place of each maximum in its window (uint8, row by row).

    ``form``: groups of channels, within which they are normalised; whether ReLU comes first; over how many maps they
    are normalised, 0 for not; side and stride of the pooling's windows, 1 and 1 for none. ``constant``:
    ``constants(…)``.
    """
    maps, size, stride = form[2], form[3], form[4]
    count, _, width, channels = x_NHWC.shape
    rows = np.empty((size, width, channels), constant.dtype)
    a_C, scale_C = np.empty(channels, constant.dtype), np.empty(channels, constant.dtype)
    scratch = (a_C, np.zeros(channels + maps, constant.dtype), scale_C)
    best, which = np.empty(channels, constant.dtype), np.empty(channels, np.uint8)
    for n in range(count):
        done = 0
        for p in range(y_NPQC.shape[1]):
            for h in range(max(done, p * stride), p * stride + size):
                _row(x_NHWC[n, h], form, constant, rows[h % size], scratch)
            done = p * stride + size
            for q in range(y_NPQC.shape[2]):
                best[:] = rows[p * stride % size, q * stride]
                which[:] = 0
                for place in range(1, size * size):
                    row = rows[(p * stride + place // size) % size, q * stride + place % size]
                    for c in range(channels):
                        more = (row[c] > best[c]) | (row[c] != row[c])
                        best[c] = row[c] if more else best[c]
                        which[c] = np.uint8(place) if more else which[c]
                y_C = y_NPQC[n, p, q]
                for c in range(channels):
                    y_C[c] = _store(best[c], y_C[c])
                chosen_NPQC[n, p, q] = which


@njit(inline="always", **_OPTIONS)
def _unpooled_row(h: int, form: Any, zero: Any, g_PQC: Any, chosen_PQC: Any, gy_WC: Any) -> None:
    """The gradient of row ``h`` before the pooling: each maximum's, where it came from."""
    size, stride = form[3], form[4]
    gy_WC[:] = zero
    for p in range(max(0, (h - size + stride) // stride), min(h // stride + 1, g_PQC.shape[0])):
        for q in range(g_PQC.shape[1]):
            g_C, chosen_C = g_PQC[p, q], chosen_PQC[p, q]
            for j in range(size):
                place = np.uint8((h - p * stride) * size + j)
                gy_C = gy_WC[q * stride + j]
                for c in range(len(gy_C)):
                    value = _load(g_C[c])
                    gy_C[c] += value if chosen_C[c] == place else zero


@njit(inline="always", **_OPTIONS)
def _unnormalised(x_C: Any, form: Any, constant: Any, gy_C: Any, scratch: Any) -> None:
    """Turn the gradient of normalised activations of a group into that of the activations, in place."""
    zero, one, factor = constant[0], constant[1], constant[4]
    relu, maps = form[1] != 0, form[2]
    a_C, squares, scale_C, cross, total_C = scratch
    _scales(x_C, relu, maps, constant, a_C, squares, scale_C)
    # Short loops over few arrays: those the compiler can prove to be independent, and vectorises.
    for c in range(len(x_C)):
        root = one / np.sqrt(scale_C[c])
        gy_C[c] *= root * np.sqrt(root)
    for c in range(len(x_C)):
        cross[maps // 2 + c] = gy_C[c] * a_C[c] / scale_C[c]
    total_C[:] = zero
    for i in range(maps):
        for c in range(len(x_C)):
            total_C[c] += cross[c + i]
    for c in range(len(x_C)):
        gy_C[c] += factor * a_C[c] * total_C[c]


@njit(**_OPTIONS)
def backward(x_NHWC: Any, form: Any, constant: Any, g_NPQC: Any, chosen_NPQC: Any, dx_NHWC: Any) -> None:
    """Fill ``dx_NHWC`` with the gradient of the images, given that of ``forward``'s result."""
    count, height, width, channels = x_NHWC.shape
    groups, relu, maps, zero = form[0], form[1] != 0, form[2], constant[0]
    held = channels // groups
    gy_WC = np.empty((width, channels), constant.dtype)
    a_C, scale_C = np.empty(held, constant.dtype), np.empty(held, constant.dtype)
    total_C = np.empty(held, constant.dtype)
    squares, cross = np.zeros(held + maps, constant.dtype), np.zeros(held + maps, constant.dtype)
    scratch = (a_C, squares, scale_C, cross, total_C)
    for n in range(count):
        for h in range(height):
            _unpooled_row(h, form, zero, g_NPQC[n], chosen_NPQC[n], gy_WC)
            for w in range(width):
                if maps > 0:
                    for first in range(0, channels, held):
                        part = slice(first, first + held)
                        _unnormalised(x_NHWC[n, h, w, part], form, constant, gy_WC[w, part], scratch)
                x_C, gy_C, dx_C = x_NHWC[n, h, w], gy_WC[w], dx_NHWC[n, h, w]
                for c in range(channels):
                    value = gy_C[c]
                    if relu:
                        value = value if _load(x_C[c]) > zero else zero
                    dx_C[c] = _store(value, dx_C[c])


@njit(**_OPTIONS)
def update(w: Any, v: Any, gradient: Any, factors: Any) -> None:
    """v ← ``factors[0]`` v − ``factors[1]`` w − ``factors[2]`` gradient, w ← w + v; all one-dimensional."""
    momentum, decay, rate = factors[0], factors[1], factors[2]
    for i in range(len(w)):
        v[i] = momentum * v[i] - decay * w[i] - rate * _load(gradient[i])
        w[i] += v[i]


@njit(**_OPTIONS)
def update_rounded(w: Any, v: Any, gradient: Any, stored: Any, factors: Any) -> None:
    """As ``update``, and ``stored`` is w in bfloat16."""
    momentum, decay, rate = factors[0], factors[1], factors[2]
    for i in range(len(w)):
        v[i] = momentum * v[i] - decay * w[i] - rate * _load(gradient[i])
        w[i] += v[i]
        stored[i] = _store(w[i], stored[i])
