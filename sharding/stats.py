"""Exact pixel sums of uint8 images, mergeable, and from them mean image, covariance and RGB-PCA; pure.

All sums are integers, so partial results merge in any order to the same bits. The eigen-solver is written out in IEEE
double arithmetic (+ − × ÷ √ only), so the eigen-pairs too are the same bits on every machine; a LAPACK build does not
guarantee that.

Shape legend: H, W = image height and width, C = 3 channels in R, G, B order.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from alexstream.core.errors import DatasetError
from alexstream.core.jit import njit
from alexstream.sharding.dataset_v1.statistics import DatasetStats, npy_bytes

Matrix = list[list[float]]
T = TypeVar("T")


RECENT_IMAGES = 1 << 24  # sums of so many values up to 255 fit in 32 bits


class PixelSums:
    """Integer sums over images: count, per-pixel sums (H, W, C) and RGB sums of products (C, C).

    int64 holds them far beyond ImageNet: 1.3 M images × 65,536 pixels × 255² is 5.5e15 of 9.2e18.
    """

    def __init__(self, size_px: int) -> None:
        """Start with no images, for images of ``size_px`` × ``size_px``."""
        self.num_images = 0
        self.product_CC = np.zeros((3, 3), np.int64)
        self._sum_HWC = np.zeros((size_px, size_px, 3), np.int64)
        self._recent_HWC = np.zeros((size_px, size_px, 3), np.uint32)  # uint32 halves the memory traffic of add()
        self._num_recent = 0

    @property
    def sum_HWC(self) -> NDArray[np.int64]:
        """Per-pixel sums, int64 (H, W, C)."""
        return self._sum_HWC + self._recent_HWC

    def add(self, image_HWC: NDArray[np.uint8]) -> None:
        """Add one uint8 RGB image of the right shape. Raises ValueError for another shape or dtype."""
        if image_HWC.shape != self._sum_HWC.shape or image_HWC.dtype != np.uint8:
            raise ValueError(f"received {image_HWC.dtype} {image_HWC.shape}, expected uint8 {self._sum_HWC.shape}")
        if self._num_recent == RECENT_IMAGES:
            self._sum_HWC += self._recent_HWC
            self._recent_HWC[:] = 0
            self._num_recent = 0
        self.num_images += 1
        self._num_recent += 1
        _add(np.ascontiguousarray(image_HWC).reshape(-1), self._recent_HWC.reshape(-1), self.product_CC)

    def merge(self, other: PixelSums) -> None:
        """Add the sums of another part of the data."""
        self.add_sums(other.num_images, other.sum_HWC, other.product_CC)

    def add_sums(self, num_images: int, sum_HWC: NDArray[np.int64], product_CC: NDArray[np.int64]) -> None:
        """Add the sums of another part of the data, given as arrays."""
        self.num_images += num_images
        self._sum_HWC += sum_HWC
        self.product_CC += product_CC

    def mean_image(self) -> NDArray[np.float64]:
        """Return the mean image, float64 (H, W, C) on 0..255: each entry the correctly rounded quotient."""
        return self.sum_HWC / self.num_images


@njit(cache=True)
def _add(values: NDArray[np.uint8], sums: NDArray[np.uint32], product_CC: NDArray[np.int64]) -> None:
    """Add flat R, G, B, R, G, B, … to their sums, and the six products of channels to the symmetric matrix.

    The products are summed in 32 bits over 16,384 pixels at a time: 16,384 × 255² is 1.07e9 of 4.29e9.
    """
    for i in range(values.size):
        sums[i] += values[i]
    for begin in range(0, values.size, 3 * 16384):
        part = values[begin : begin + 3 * 16384]
        rr = rg = rb = gg = gb = bb = np.uint32(0)
        for i in range(0, part.size, 3):
            r, g, b = np.uint32(part[i]), np.uint32(part[i + 1]), np.uint32(part[i + 2])
            rr += r * r
            rg += r * g
            rb += r * b
            gg += g * g
            gb += g * b
            bb += b * b
        for row, column, product in ((0, 0, rr), (0, 1, rg), (0, 2, rb), (1, 1, gg), (1, 2, gb), (2, 2, bb)):
            product_CC[row, column] += product
            if row != column:
                product_CC[column, row] += product


def summarize(sums: PixelSums, dataset_digest: str) -> DatasetStats:
    """Compute the statistics of a data set from its pixel sums. Raises DatasetError if there are no images."""
    if sums.num_images == 0:
        raise DatasetError("no image was written, so there are no statistics")
    height, width, _ = sums.sum_HWC.shape
    num_pixels = sums.num_images * height * width
    totals = [int(t) for t in sums.sum_HWC.sum(axis=(0, 1))]
    products = [[int(p) for p in row] for row in sums.product_CC]
    covariance = [
        [float(Fraction(num_pixels * products[i][j] - totals[i] * totals[j], num_pixels**2)) for j in range(3)]
        for i in range(3)
    ]
    eigenvalues, eigenvectors = rgb_pca(covariance)
    return DatasetStats(
        dataset_digest=dataset_digest,
        num_images=sums.num_images,
        num_pixels=num_pixels,
        rgb_sums=_to_triple(totals),
        rgb_products=_to_triple([_to_triple(row) for row in products]),
        mean_rgb_255=_to_triple([float(Fraction(t, num_pixels)) for t in totals]),
        covariance_255=_to_triple([_to_triple(row) for row in covariance]),
        eigenvalues_255=_to_triple(eigenvalues),
        eigenvalues_01=_to_triple([value / 255.0**2 for value in eigenvalues]),
        eigenvectors=_to_triple([_to_triple(row) for row in eigenvectors]),
        mean_image_sha256=hashlib.sha256(npy_bytes(sums.mean_image())).hexdigest(),
    )


def rgb_pca(covariance: Matrix) -> tuple[list[float], Matrix]:
    """Return eigenvalues (descending) and eigenvectors (columns) of a symmetric 3×3 matrix, by Jacobi rotations.

    Sign rule: in each eigenvector the entry of largest magnitude (the first of equals) is positive. The paper fixes
    neither order nor sign; lighting noise is symmetric, so nothing depends on it but reproducibility.
    """
    a = [list(map(float, row)) for row in covariance]
    v = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    for _ in range(60):  # converges quadratically: 6 sweeps are typical
        if a[0][1] == a[0][2] == a[1][2] == 0.0:
            break
        for p, q in ((0, 1), (0, 2), (1, 2)):
            _rotate(a, v, p, q)
    values = [a[i][i] for i in range(3)]
    order = sorted(range(3), key=lambda i: -values[i])
    columns = [_fix_sign([v[row][i] for row in range(3)]) for i in order]
    return [values[i] for i in order], [[column[row] for column in columns] for row in range(3)]


def _rotate(a: Matrix, v: Matrix, p: int, q: int) -> None:
    """Apply one Jacobi rotation that annihilates a[p][q] (Golub & Van Loan, Matrix Computations, 8.5)."""
    off = a[p][q]
    if abs(off) <= 1e-18 * math.sqrt(abs(a[p][p] * a[q][q])):
        a[p][q] = a[q][p] = 0.0
        return
    theta = (a[q][q] - a[p][p]) / (2.0 * off)
    t = math.copysign(1.0, theta) / (abs(theta) + math.sqrt(theta * theta + 1.0))
    c = 1.0 / math.sqrt(t * t + 1.0)
    s = t * c
    r = 3 - p - q
    a[p][p], a[q][q] = a[p][p] - t * off, a[q][q] + t * off
    a[p][q] = a[q][p] = 0.0
    arp, arq = a[r][p], a[r][q]
    a[r][p] = a[p][r] = c * arp - s * arq
    a[r][q] = a[q][r] = s * arp + c * arq
    for row in v:
        row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]


def _fix_sign(column: list[float]) -> list[float]:
    largest = max(range(3), key=lambda i: abs(column[i]))
    return [-x for x in column] if column[largest] < 0 else column


def _to_triple(values: list[T]) -> tuple[T, T, T]:
    first, second, third = values
    return first, second, third
