"""CONTRACT 1: DATASET v1 on disk — file names, manifest, statistics, catalog; written by sharding, read by all.

A DATASET v1 folder holds one split. ``docs/formats.md`` is the normative description; this module is the
only code that knows the names and fields. Everything read here is checked against its digest.

Shape legend: H, W = stored height and width (256), C = 3 colour channels in R, G, B order.
"""

from __future__ import annotations

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.errors import DatasetError
from sharding.storage import publish

SCHEMA = "alexstream-dataset/1"
READERS = 4  # threads that read catalogs
SPLITS = ("train", "val", "test")
MANIFEST, STATS, MEAN, CLASSES = "manifest.json", "stats.json", "mean.npy", "classes.json"
QUARANTINE, PLAN, CARD, TIMM_INFO = "quarantine.jsonl", "plan.json", "README.md", "_info.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeRecipe:
    """How a source image becomes stored pixels. Part of the manifest; two recipes never mix in one folder.

    ``encoding``: ``jpeg`` stores the scaled square as JPEG, ``raw`` as uint8 R, G, B bytes, ``keep`` the original.
    """

    encoding: str = "jpeg"
    size_px: int = 256
    resize_filter: str = "lanczos"
    quality: int = 95
    chroma: str = "4:2:0"

    def __post_init__(self) -> None:
        """Refuse values outside the ranges that the JPEG encoder and the 224-pixel crop allow."""
        if not 224 <= self.size_px <= 4096:
            raise ValueError(f"size_px: received {self.size_px}, expected 224..4096")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality: received {self.quality}, expected 1..100")
        choices = {
            "resize_filter": ("lanczos", "bicubic", "bilinear", "box"),
            "chroma": ("4:4:4", "4:2:2", "4:2:0"),
            "encoding": ("jpeg", "raw", "keep"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: received {getattr(self, name)!r}, expected one of {', '.join(allowed)}")

    def describe(self) -> str:
        """For people: ``256x256 JPEG, quality 95, 4:2:0, lanczos``."""
        square = f"{self.size_px}x{self.size_px}"
        return {
            "jpeg": f"{square} JPEG, quality {self.quality}, {self.chroma}, {self.resize_filter}",
            "raw": f"{square} raw RGB, {self.resize_filter}",
            "keep": f"original bytes (statistics of {square} squares, {self.resize_filter})",
        }[self.encoding]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """One finished shard as the manifest lists it: tar, DALI index and catalog share the stem ``name``."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    index_sha256: str
    catalog_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The audit identity of one class or of the whole split: found = written + quarantined + excluded."""

    found: int
    written: int
    quarantined: int
    excluded: int

    def __post_init__(self) -> None:
        """Refuse counts that do not close: a file would be lost or invented."""
        if self.found != self.written + self.quarantined + self.excluded:
            raise DatasetError(
                f"counts do not close: found {self.found} != written {self.written} "
                f"+ quarantined {self.quarantined} + excluded {self.excluded}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a DATASET v1 folder holds: recipe, classes (index = label), shards, audit counts, digest.

    ``source_form`` says what the source was recognised as, ``notices`` what was remarkable about it.
    """

    split: str
    seed: int
    encode: EncodeRecipe
    plan_digest: str
    source: str
    source_form: str
    classes: tuple[str, ...]
    shards: tuple[ShardRecord, ...]
    quarantine_sha256: str
    counts: Counts
    counts_by_class: dict[str, Counts] = field(default_factory=dict)
    ilsvrc2012_ids: dict[str, int] = field(default_factory=dict)
    class_names: dict[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    tool: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Sha256 over schema, split, classes and every shard's name, size and sha256: the data's identity."""
        shards = [[s.name, s.num_samples, s.sha256] for s in self.shards]
        return json_digest([SCHEMA, self.split, list(self.classes), shards])

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetStats:
    """Exact statistics of the stored pixels, each number with its pixel scale (0..255 or 0..1).

    ``rgb_sums`` and ``rgb_products`` are the integer totals over all pixels (Σ c and Σ c·c'), from which the
    rest follows; eigenvectors are columns, eigenvalues descending, signs fixed by ``sharding.stats.rgb_pca``.
    """

    dataset_digest: str
    num_images: int
    num_pixels: int
    rgb_sums: tuple[int, int, int]
    rgb_products: tuple[tuple[int, int, int], ...]
    mean_rgb_255: tuple[float, float, float]
    covariance_255: tuple[tuple[float, float, float], ...]
    eigenvalues_255: tuple[float, float, float]
    eigenvalues_01: tuple[float, float, float]
    eigenvectors: tuple[tuple[float, float, float], ...]
    mean_image_sha256: str

    @property
    def eigenvectors_CC(self) -> NDArray[np.float64]:
        """Eigenvectors as the columns of a float64 array (3, 3), rows in R, G, B order."""
        return np.array(self.eigenvectors, np.float64)


CATALOG_COLUMNS = (
    "key", "extension", "shard", "offset", "size", "label", "wnid", "source", "source_sha256", "stored_sha256",
    "source_width", "source_height", "source_format", "notes",
)  # fmt: skip


def shard_name(split: str, index: int) -> str:
    """``train-000042``: the common stem of a shard's tar, index and catalog."""
    return f"{split}-{index:06d}"


def json_bytes(value: Any) -> bytes:
    """Serialise to the one JSON text that equal values always give (sorted keys, two spaces, newline)."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode("ascii")


def json_digest(value: Any) -> str:
    """Sha256 of ``json_bytes``."""
    return hashlib.sha256(json_bytes(value)).hexdigest()


def npy_bytes(array: NDArray[Any]) -> bytes:
    """The ``.npy`` file of an array, as bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, which declares the folder complete."""
    _save_checked(folder / MANIFEST, {**asdict(manifest), "digest": manifest.digest})


def load_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json``.

    Raises DatasetError if it is missing, of another schema, malformed, or contradicts its own digest.
    """
    path = folder / MANIFEST
    raw = _load_checked(path, missing=f"{folder} is no finished data set ({MANIFEST} is missing); make one with: "
                     f"cli.py shard --src IMAGES --out {folder}")  # fmt: skip
    try:
        digest = raw.pop("digest")
        raw["encode"] = EncodeRecipe(**raw["encode"])
        raw["classes"] = tuple(raw["classes"])
        raw["notices"] = tuple(raw["notices"])
        raw["shards"] = tuple(ShardRecord(**shard) for shard in raw["shards"])
        raw["counts"] = Counts(**raw["counts"])
        raw["counts_by_class"] = {name: Counts(**c) for name, c in raw["counts_by_class"].items()}
        manifest = Manifest(**raw)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: malformed manifest ({error}); shard the source again") from error
    if digest != manifest.digest:
        raise DatasetError(
            f"{path}: records digest {digest[:12]}… but its shard list gives {manifest.digest[:12]}…; "
            "the manifest was edited or mixed up: shard the source again"
        )
    return manifest


def save_stats(folder: Path, stats: DatasetStats, mean_image_HWC: NDArray[np.float64]) -> None:
    """Write ``mean.npy`` and ``stats.json`` (last, since it holds the hash of the first)."""
    publish(folder / MEAN, npy_bytes(mean_image_HWC))
    _save_checked(folder / STATS, asdict(stats))


def load_stats(folder: Path, manifest: Manifest) -> DatasetStats:
    """Read ``stats.json`` and check that it belongs to ``manifest``.

    Raises DatasetError if it is missing, malformed, or bound to another data set's digest.
    """
    path = folder / STATS
    remedy = f"shard the source again, or restore the {STATS} that belongs to this folder"
    raw = _load_checked(path, missing=f"{folder} has no {STATS}; {remedy}")
    try:
        stats = DatasetStats(**{k: _tupled(v) for k, v in raw.items()})
    except TypeError as error:
        raise DatasetError(f"{path}: malformed statistics ({error}); {remedy}") from error
    if stats.dataset_digest != manifest.digest:
        raise DatasetError(
            f"{path}: statistics are of data set {str(stats.dataset_digest)[:12]}…, "
            f"but {folder / MANIFEST} is data set {manifest.digest[:12]}…; {remedy}"
        )
    return stats


def load_mean_image(folder: Path, stats: DatasetStats) -> NDArray[np.float64]:
    """Read the mean image, float64 (256, 256, 3), R, G, B on 0..255.

    Raises DatasetError if it is missing or is not the one that ``stats`` was written with.
    """
    path = folder / MEAN
    if not path.is_file():
        raise DatasetError(f"{folder} has no {MEAN}; shard the source again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != stats.mean_image_sha256:
        raise DatasetError(f"{path}: sha256 differs from the one in {STATS}; the file was changed or mixed up")
    array: NDArray[np.float64] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def load_catalog(folder: Path, manifest: Manifest, columns: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read the named catalog columns of all shards, in shard order, as arrays of length ``num_samples``.

    Row number = sample id. Raises DatasetError as ``load_catalog_shard`` does, and for a catalog that has more or
    fewer rows than the manifest says.
    """
    with ThreadPoolExecutor(READERS) as pool:  # hashing and Parquet leave the interpreter to the others
        parts = list(pool.map(lambda shard: load_catalog_shard(folder, shard, columns), manifest.shards))
    for shard, part in zip(manifest.shards, parts, strict=True):
        rows = len(part[columns[0]])
        if rows != shard.num_samples:
            raise DatasetError(
                f"{folder / shard.name}.parquet has {rows} rows, but the manifest says {shard.num_samples} samples; "
                "restore both, or shard the source again"
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def load_catalog_shard(folder: Path, shard: ShardRecord, columns: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read the named catalog columns of one shard: integers as int64 arrays, text as object arrays.

    Raises DatasetError if the file is missing or is not the one that the manifest lists.
    """
    import pyarrow.parquet as pq

    path = folder / f"{shard.name}.parquet"
    if not path.is_file():
        raise DatasetError(f"{path} is missing; restore it or shard the source again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != shard.catalog_sha256:
        raise DatasetError(f"{path}: sha256 differs from the manifest's; restore it or shard the source again")
    with pq.ParquetFile(io.BytesIO(data)) as file:
        table = file.read(list(columns))
    return {name: _array(table.column(name).combine_chunks()) for name in columns}


def load_catalog_rows(
    folder: Path, shard: ShardRecord, columns: tuple[str, ...], rows: list[int]
) -> list[dict[str, Any]]:
    """A few rows of one shard's catalog, by their numbers; the file was checked by ``load_catalog`` before."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / f"{shard.name}.parquet") as file:
        table = file.read(list(columns), use_threads=False)
    return [table.slice(row, 1).to_pylist()[0] for row in rows]


def is_dataset(folder: Path) -> bool:
    """Whether ``folder`` holds a finished DATASET v1."""
    return (folder / MANIFEST).is_file()


def find_split(folder: Path, split: str) -> Path | None:
    """Where a split lives: ``folder`` itself when it holds that split, else ``folder/split``, else None."""
    if is_dataset(folder) and load_manifest(folder).split == split:
        return folder
    return folder / split if is_dataset(folder / split) else None


def split_folders_of(folder: Path) -> list[Path]:
    """The split folders in ``folder``: itself, or those of its children that hold a manifest, training first.

    Raises DatasetError if there is none.
    """
    if is_dataset(folder):
        return [folder]
    order = {"train": "0", "val": "1"}
    children = [path for path in folder.iterdir() if is_dataset(path)] if folder.is_dir() else []
    if not children:
        load_manifest(folder)  # raises, and says how to make one
    return sorted(children, key=lambda path: order.get(path.name, path.name))


def _save_checked(path: Path, fields: dict[str, Any]) -> None:
    """Write a JSON object with its schema and the checksum of everything else in it."""
    content = {"schema": SCHEMA, **fields}
    publish(path, json_bytes({**content, "checksum": json_digest(content)}))


def _load_checked(path: Path, *, missing: str) -> dict[str, Any]:
    """The fields that ``_save_checked`` wrote. Raises DatasetError for a missing, foreign or changed file."""
    if not path.is_file():
        raise DatasetError(missing)
    try:
        raw = json.loads(path.read_bytes())
    except ValueError as error:
        raise DatasetError(f"{path}: not valid JSON ({error}); shard the source again") from error
    if not isinstance(raw, dict):
        raise DatasetError(f"{path}: expected a JSON object; shard the source again")
    if raw.get("schema") != SCHEMA:
        raise DatasetError(f"{path}: schema {raw.get('schema')!r}, expected {SCHEMA!r}; shard the source again")
    checksum = raw.pop("checksum", None)
    if checksum != json_digest(raw):
        raise DatasetError(
            f"{path}: was changed after it was written (its checksum is {str(checksum)[:12]}…, its content gives "
            f"{json_digest(raw)[:12]}…); restore it, or shard the source again"
        )
    del raw["schema"]
    return raw


def _array(column: Any) -> NDArray[Any]:
    """A catalog column; pyarrow's own ``to_numpy`` and ``take`` load pandas where it is installed, a second long."""
    if str(column.type) == "int64" and not column.null_count:
        return np.from_dlpack(column)
    return np.array(column.to_pylist(), object)


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value
