"""Exact statistics of the stored pixels in ``stats.json``, and the mean image beside them in ``mean.npy``."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexstream.core.errors import DatasetError, DatasetVersionError
from alexstream.core.schema import FieldsError, from_json
from alexstream.core.storage import publish_file
from alexstream.core.versions import other_version_message
from alexstream.sharding.dataset_v1.document import SHARD_AGAIN, load_document, read_limited, save_document
from alexstream.sharding.dataset_v1.layout import MANIFEST, MEAN, STATS
from alexstream.sharding.dataset_v1.manifest import Manifest

_MAX_MEAN_BYTES = 3 * 8 * 4096**2 + 128  # of a mean image of the largest size
_MAX_BYTES = 64 << 10  # of statistics, which have 2 kB
Integers = tuple[int, int, int]  # in R, G, B order
Floats = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetStats:
    """Exact statistics of the stored pixels, each number with its pixel scale (0..255 or 0..1).

    Args:
        dataset_digest: The data set that they are of.
        num_images: Images that were counted.
        num_pixels: Pixels that were counted.
        rgb_sums: Σ c over all pixels, as integers, from which with ``rgb_products`` the rest follows.
        rgb_products: Σ c·c' over all pixels, as integers.
        mean_rgb_255: Mean colour.
        covariance_255: Covariance of the colours.
        eigenvalues_255: Its eigenvalues, descending.
        eigenvalues_01: The same for pixels on 0..1.
        eigenvectors: As columns; signs fixed by ``sharding.stats.rgb_pca``.
        mean_image_sha256: Of ``mean.npy``.
    """

    dataset_digest: str
    num_images: int
    num_pixels: int
    rgb_sums: Integers
    rgb_products: tuple[Integers, Integers, Integers]
    mean_rgb_255: Floats
    covariance_255: tuple[Floats, Floats, Floats]
    eigenvalues_255: Floats
    eigenvalues_01: Floats
    eigenvectors: tuple[Floats, Floats, Floats]
    mean_image_sha256: str

    @property
    def eigenvectors_CC(self) -> NDArray[np.float64]:
        """Eigenvectors as the columns of a float64 array (3, 3), rows in R, G, B order."""
        return np.array(self.eigenvectors, np.float64)


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return an array as the bytes of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def save_stats(folder: Path, stats: DatasetStats, mean_image_HWC: NDArray[np.float64]) -> None:
    """Write ``mean.npy`` and ``stats.json`` (last, since it holds the hash of the first)."""
    publish_file(folder / MEAN, npy_bytes(mean_image_HWC))
    save_document(folder / STATS, asdict(stats))


def load_stats(folder: Path, manifest: Manifest) -> DatasetStats:
    """Read ``stats.json`` and check that it belongs to ``manifest``.

    Raises DatasetError if it is missing, malformed, or bound to another data set's digest.
    """
    path = folder / STATS
    remedy = f"shard the source again, or restore the {STATS} that belongs to this folder"
    raw = load_document(path, most=_MAX_BYTES, missing=f"{folder} has no {STATS}; {remedy}")
    try:
        stats = from_json(DatasetStats, raw)
    except FieldsError as error:
        raise DatasetVersionError(other_version_message(path, error, SHARD_AGAIN)) from error
    except ValueError as error:
        raise DatasetError(f"{path}: malformed statistics ({error}); {remedy}") from error
    if stats.dataset_digest != manifest.digest:
        raise DatasetError(
            f"{path}: statistics are of data set {stats.dataset_digest[:12]}…, "
            f"but {folder / MANIFEST} is data set {manifest.digest[:12]}…; {remedy}"
        )
    num_pixels = stats.num_images * manifest.encode.size_px**2
    if (stats.num_images, stats.num_pixels) != (manifest.num_samples, num_pixels):
        raise DatasetError(f"{path}: counts other images or pixels than {folder / MANIFEST} has; {remedy}")
    return stats


def load_mean_image(folder: Path, stats: DatasetStats) -> NDArray[np.float64]:
    """Read the mean image, float64 (256, 256, 3), R, G, B on 0..255.

    Raises DatasetError if it is missing or is not the one that ``stats`` was written with.
    """
    path = folder / MEAN
    if not path.is_file():
        raise DatasetError(f"{folder} has no {MEAN}; shard the source again")
    data = read_limited(path, _MAX_MEAN_BYTES)
    if hashlib.sha256(data).hexdigest() != stats.mean_image_sha256:
        raise DatasetError(f"{path}: sha256 differs from the one in {STATS}; the file was changed or mixed up")
    size_px = math.isqrt(stats.num_pixels // max(1, stats.num_images))
    try:
        return _parse_mean_image(data, (size_px, size_px, 3))
    except ValueError as error:
        raise DatasetError(f"{path}: is not a mean image of this data set ({error}); shard the source again") from error


def _parse_mean_image(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the array in a ``.npy`` file that ``save_stats`` wrote; its header is compared, not parsed.

    NumPy would allocate whatever the header claims, and its parser raises undocumented errors. Raises ValueError.
    """
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "<f8", "fortran_order": False, "shape": shape})
    header = start.getvalue()
    if not data.startswith(header) or len(data) != len(header) + 8 * math.prod(shape):
        raise ValueError(f"expected float64 {shape}")
    array = np.frombuffer(data, "<f8", offset=len(header)).reshape(shape).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a pixel is not a finite number")
    return array
