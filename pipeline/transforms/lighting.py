"""Scale the RGB-PCA noise ("lighting") of the paper, by one of the named formulas.

Paper, section 4.1: to each pixel add ``[p1, p2, p3] [α1 λ1, α2 λ2, α3 λ3]ᵀ`` with α ~ N(0, 0.1), where p and λ
are eigenvectors and eigenvalues of the 3×3 covariance of RGB pixel values, and α is drawn once per image. The paper
does not say on which scale pixels are, so that is a named choice here:

``paper``
    λ of pixels on 0..1, the offset scaled back to 0..255: offset = 255 · 0.1 · P diag(λ₀₁) z.
``original``
    as the 2012 program did: 0.1 · P diag(√λ₂₅₅) z, then the whole image is divided by 1.1.
``none``
    no offset.

z ~ N(0, I₃) once per image and epoch; offsets are added on the 0..255 scale.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from alexstream.sharding.dataset_v1.statistics import DatasetStats

Lighting = Literal["paper", "original", "none"]
LIGHTINGS: tuple[str, ...] = get_args(Lighting)
ALPHA_SD = 0.1


def offset_matrix(stats: DatasetStats, lighting: Lighting) -> NDArray[np.float64]:
    """Return the matrix M, float64 (3, 3), with offset = M z on 0..255. Raises ValueError for an unknown name."""
    vectors = stats.eigenvectors_CC
    if lighting == "paper":
        return np.multiply(255.0 * ALPHA_SD * vectors, stats.eigenvalues_01)
    if lighting == "original":
        return np.multiply(ALPHA_SD * vectors, np.sqrt(np.maximum(stats.eigenvalues_255, 0.0)))
    if lighting == "none":
        return np.zeros((3, 3))
    raise ValueError(f"lighting: received {lighting!r}, expected one of {', '.join(LIGHTINGS)}")


def lighting_divisor(lighting: Lighting) -> float:
    """Return the divisor of the image after the offset was added: 1.1 as in the 2012 program, else 1."""
    return 1.0 + ALPHA_SD if lighting == "original" else 1.0
