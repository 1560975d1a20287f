"""Fused CPU kernels (numba): the operations after a convolution, and the weight update, in one pass over memory each.

``forward`` computes ReLU, local response normalization (section 3.3) and max pooling (section 3.4), each optional, on
channels-last images, row by row while the rows are in the cache; torch's operations take some twenty passes.
Arithmetic is float32, or float64 for float64 images; bfloat16 images are passed as their uint16 bits. Images are
independent, so the result is the same bits for any number of threads.

Shape legend: N = images, H, W = rows and columns, C = channels, P, Q = pooled rows and columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from alexstream.core.jit import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}


def make_constants(alpha: float, k: float, dtype: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return the constants of ``forward`` and ``backward``, in the type in which these compute."""
    return np.array([0.0, 1.0, alpha, k, -2.0 * 0.75 * alpha], dtype)


def _load(bits: Any) -> Any:
    """Convert a stored value to the number it stands for: uint16 is bfloat16 bits."""


def _store(number: Any, like: Any) -> Any:
    """Convert a number to the stored type of ``like``: to bfloat16 bits, rounding to nearest, ties to even."""


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
def _normalization_scales(x_C: Any, relu: bool, maps: int, constant: Any, a_C: Any, squares: Any, scale_C: Any) -> None:
    """Compute a channel group's activations at one pixel, and k + α Σ a² over the ``maps`` channels around each."""
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
def _forward_row(x_WC: Any, form: Any, constant: Any, y_WC: Any, scratch: Any) -> None:
    """Compute a row of activations after ReLU and normalization."""
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
            _normalization_scales(x_WC[w, first : first + held], relu, maps, constant, a_C, squares, scale_C)
            y_C = y_WC[w, first : first + held]
            for c in range(held):
                root = one / np.sqrt(scale_C[c])
                y_C[c] = a_C[c] * (root * np.sqrt(root))


@njit(**_OPTIONS)
def forward(x_NHWC: Any, form: Any, constant: Any, y_NPQC: Any, chosen_NPQC: Any) -> None:
    """Fill ``y_NPQC``, and ``chosen_NPQC`` with the index of each maximum in its window (uint8, row by row).

    ``form``: the number of channel groups, within which channels are normalized; 1 if ReLU comes first, else 0; the
    number of maps to normalize over, 0 for no normalization; size and stride of the pooling window, 1 and 1 for no
    pooling. ``constant``: the result of ``make_constants``.
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
                _forward_row(x_NHWC[n, h], form, constant, rows[h % size], scratch)
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
def _unpool_row(h: int, form: Any, zero: Any, g_PQC: Any, chosen_PQC: Any, gy_WC: Any) -> None:
    """Compute the gradient of row ``h`` before pooling: each output's gradient goes to the maximum of its window."""
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
def _backward_normalization(x_C: Any, form: Any, constant: Any, gy_C: Any, scratch: Any) -> None:
    """Turn the gradient of a group's normalized activations into that of its activations, in place."""
    zero, one, factor = constant[0], constant[1], constant[4]
    relu, maps = form[1] != 0, form[2]
    a_C, squares, scale_C, cross, total_C = scratch
    _normalization_scales(x_C, relu, maps, constant, a_C, squares, scale_C)
    # Short loops over few arrays, which the compiler can prove to be independent, and vectorizes.
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
    """Fill ``dx_NHWC`` with the gradient of the images, given ``g_NPQC``, the gradient of ``forward``'s result."""
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
            _unpool_row(h, form, zero, g_NPQC[n], chosen_NPQC[n], gy_WC)
            for w in range(width):
                if maps > 0:
                    for first in range(0, channels, held):
                        part = slice(first, first + held)
                        _backward_normalization(x_NHWC[n, h, w, part], form, constant, gy_WC[w, part], scratch)
                x_C, gy_C, dx_C = x_NHWC[n, h, w], gy_WC[w], dx_NHWC[n, h, w]
                for c in range(channels):
                    value = gy_C[c]
                    if relu:
                        value = value if _load(x_C[c]) > zero else zero
                    dx_C[c] = _store(value, dx_C[c])


@njit(**_OPTIONS)
def update_weights(w: Any, v: Any, gradient: Any, factors: Any) -> None:
    """v ← ``factors[0]`` v − ``factors[1]`` w − ``factors[2]`` gradient, w ← w + v; all one-dimensional."""
    momentum, decay, rate = factors[0], factors[1], factors[2]
    for i in range(len(w)):
        v[i] = momentum * v[i] - decay * w[i] - rate * _load(gradient[i])
        w[i] += v[i]


@njit(**_OPTIONS)
def update_weights_bf16(w: Any, v: Any, gradient: Any, stored: Any, factors: Any) -> None:
    """Update w and v as ``update_weights`` does, and set ``stored`` to w rounded to bfloat16."""
    momentum, decay, rate = factors[0], factors[1], factors[2]
    for i in range(len(w)):
        v[i] = momentum * v[i] - decay * w[i] - rate * _load(gradient[i])
        w[i] += v[i]
        stored[i] = _store(w[i], stored[i])
