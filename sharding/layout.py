"""CONTRACT 1: DATASET v1 on disk — file names, manifest, statistics, catalog; written by sharding, read by all.

A DATASET v1 folder holds one split. ``docs/formats.md`` is the normative description; this module is the
only code that knows the names and fields. Everything read here is checked against its digest.

Shape legend: H, W = stored height and width (256), C = 3 colour channels in R, G, B order.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharding.errors import DatasetError
from sharding.fields import decoded, parsed
from sharding.storage import publish

SCHEMA = "alexstream-dataset/1"
READERS = 4  # threads that read catalogs
SPLITS = ("train", "val", "test")
MANIFEST, STATS, MEAN, CLASSES = "manifest.json", "stats.json", "mean.npy", "classes.json"
QUARANTINE, PLAN, CARD, TIMM_INFO = "quarantine.jsonl", "plan.json", "README.md", "_info.json"
SAMPLE_BYTES = 2048  # the least that a sample takes in a tar: two members, of a header and a block of content each
_SHARD_NAME = re.compile(r"[a-z]+-[0-9]{6,}")


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
        if min(self.found, self.written, self.quarantined, self.excluded) < 0:
            raise DatasetError(f"counts below zero: {self}")


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


Integers = tuple[int, int, int]  # by R, G, B
Floats = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetStats:
    """Exact statistics of the stored pixels, each number with its pixel scale (0..255 or 0..1).

    ``rgb_sums`` and ``rgb_products`` are the integer totals over all pixels (Σ c and Σ c·c'), from which the
    rest follows; eigenvectors are columns, eigenvalues descending, signs fixed by ``sharding.stats.rgb_pca``.
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


CATALOG_COLUMNS = (
    "key", "extension", "shard", "offset", "size", "label", "wnid", "source", "source_sha256", "stored_sha256",
    "source_width", "source_height", "source_format", "notes",
)  # fmt: skip
CATALOG_INTEGERS = frozenset({"offset", "size", "label", "source_width", "source_height"})


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
    digest = str(raw.pop("digest", None))
    try:
        manifest = decoded(Manifest, raw)
        _check_consistent(manifest)
    except (ValueError, DatasetError) as error:
        raise DatasetError(f"{path}: malformed manifest ({error}); shard the source again") from error
    if digest != manifest.digest:
        raise DatasetError(
            f"{path}: records digest {digest[:12]}… but its shard list gives {manifest.digest[:12]}…; "
            "the manifest was edited or mixed up: shard the source again"
        )
    return manifest


def _check_consistent(manifest: Manifest) -> None:
    """Raises ValueError for what contradicts itself, shards that lead out of the folder, and samples without room."""
    names = [shard.name for shard in manifest.shards]
    right = all(_SHARD_NAME.fullmatch(name) and name.rpartition("-")[0] == manifest.split for name in names)
    if not names or not right or len(set(names)) < len(names):
        raise ValueError(f"shards: not some of the split {manifest.split!r}, each once")
    if any(not 0 <= shard.num_samples * SAMPLE_BYTES <= shard.num_bytes for shard in manifest.shards):
        raise ValueError("shards: more samples than their bytes can hold")
    if not manifest.classes or len(set(manifest.classes)) < len(manifest.classes):
        raise ValueError("classes: none, or one twice")
    if set(manifest.counts_by_class) != set(manifest.classes):
        raise ValueError("counts_by_class: not of the classes")


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
        stats = decoded(DatasetStats, raw)
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
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != stats.mean_image_sha256:
        raise DatasetError(f"{path}: sha256 differs from the one in {STATS}; the file was changed or mixed up")
    size_px = math.isqrt(stats.num_pixels // max(1, stats.num_images))
    try:
        return _mean_of(data, (size_px, size_px, 3))
    except ValueError as error:
        raise DatasetError(f"{path}: is no mean image of this data set ({error}); shard the source again") from error


def _mean_of(data: bytes, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """The array of a ``.npy`` file that begins as ``save_stats`` writes it: its header is compared, not parsed.

    NumPy would take memory for whatever the header claims, and its parser fails in more ways than it says.
    """
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "<f8", "fortran_order": False, "shape": shape})
    header = start.getvalue()
    if not data.startswith(header) or len(data) != len(header) + 8 * math.prod(shape):
        raise ValueError(f"expected float64 {shape}")
    array = np.frombuffer(data, "<f8", offset=len(header)).reshape(shape).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a pixel is no number")
    return array


def load_catalog(folder: Path, manifest: Manifest, columns: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read the named catalog columns of all shards, in shard order, as arrays of length ``num_samples``.

    Row number = sample id. Raises DatasetError as ``load_catalog_shard`` does.
    """
    with ThreadPoolExecutor(READERS) as pool:  # hashing and Parquet leave the interpreter to the others
        parts = list(pool.map(lambda shard: load_catalog_shard(folder, shard, columns), manifest.shards))
    return {name: np.concatenate([part[name] for part in parts]) for name in columns}


def load_catalog_shard(folder: Path, shard: ShardRecord, columns: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Read the named catalog columns of one shard: integers as int64 arrays, text as object arrays.

    Raises DatasetError if the file is missing or is not the one that the manifest lists, has more or fewer rows than
    that says, or holds something else in these columns.
    """
    path = folder / f"{shard.name}.parquet"
    if not path.is_file():
        raise DatasetError(f"{path} is missing; restore it or shard the source again")
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != shard.catalog_sha256:
        raise DatasetError(f"{path}: sha256 differs from the manifest's; restore it or shard the source again")
    table = _catalog_table(path, data, shard, columns)
    arrays = {name: _array(table.column(name).combine_chunks()) for name in columns}
    _check_places(path, shard, arrays)
    return arrays


def _check_places(path: Path, shard: ShardRecord, arrays: dict[str, NDArray[Any]]) -> None:
    """Samples lie within the shard, each behind a header of its own: readers take memory for what is claimed here."""
    offset, size = arrays.get("offset"), arrays.get("size")
    if offset is None or size is None:
        return
    if (offset < 512).any() or (size < 0).any() or (size > shard.num_bytes - offset).any():  # a sum may overflow
        raise DatasetError(f"{path}: points outside {shard.name}.tar; restore both, or shard the source again")


def load_catalog_rows(
    folder: Path, shard: ShardRecord, columns: tuple[str, ...], rows: list[int]
) -> list[dict[str, Any]]:
    """A few rows of one shard's catalog, by their numbers; the file was checked by ``load_catalog`` before."""
    path = folder / f"{shard.name}.parquet"
    table = _catalog_table(path, path.read_bytes(), shard, columns)
    return [table.slice(row, 1).to_pylist()[0] for row in rows]


def _catalog_table(path: Path, data: bytes, shard: ShardRecord, columns: tuple[str, ...]) -> Any:
    """The named columns, of the types that ``shard`` writes and without nulls."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [(name, "int64" if name in CATALOG_INTEGERS else "string") for name in columns]
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            if (rows := file.metadata.num_rows) != shard.num_samples:
                raise DatasetError(
                    f"{path} has {rows} rows, but the manifest says {shard.num_samples} samples; restore both, or "
                    "shard the source again"
                )
            kinds = {one.name: str(one.type) for one in file.schema_arrow}
            found = [(name, kinds.get(name, "missing")) for name in columns]
            if found != wanted:
                raise ValueError(f"columns {found}, expected {wanted}")
            table = file.read(list(columns))
        if table.num_rows != shard.num_samples or any(column.null_count for column in table.columns):
            raise ValueError("values are missing")
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DatasetError(f"{path}: no catalog that can be read ({error}); shard the source again") from error
    return table


def is_dataset(folder: Path) -> bool:
    """Whether ``folder`` holds a finished DATASET v1."""
    return (folder / MANIFEST).is_file()


def find_split(folder: Path, split: str) -> Path | None:
    """Where a split lives: ``folder`` itself when it holds that split, else ``folder/split``, else None."""
    if is_dataset(folder) and load_manifest(folder).split == split:
        return folder
    return folder / split if is_dataset(folder / split) else None


def split_folders_of(folder: Path, *, damaged: bool = False) -> list[Path]:
    """The split folders in ``folder``: itself, or those of its children that hold a manifest, training first.

    ``damaged``: those too that hold files of a data set without its manifest. Raises DatasetError if there is none.
    """
    if is_dataset(folder):
        return [folder]
    order = {"train": "0", "val": "1"}
    listed = list(folder.iterdir()) if folder.is_dir() else []
    children = [path for path in listed if is_dataset(path) or (damaged and _was_dataset(path))]
    if not children:
        load_manifest(folder)  # raises, and says how to make one
    return sorted(children, key=lambda path: order.get(path.name, path.name))


def _was_dataset(folder: Path) -> bool:
    """Whether there are files that only a data set or an unfinished conversion has."""
    return any((folder / name).is_file() for name in (STATS, MEAN, TIMM_INFO, PLAN))


def _save_checked(path: Path, fields: dict[str, Any]) -> None:
    """Write a JSON object with its schema and the checksum of everything else in it."""
    content = {"schema": SCHEMA, **fields}
    publish(path, json_bytes({**content, "checksum": json_digest(content)}))


def _load_checked(path: Path, *, missing: str) -> dict[str, Any]:
    """The fields that ``_save_checked`` wrote. Raises DatasetError for a missing, foreign or changed file."""
    if not path.is_file():
        raise DatasetError(missing)
    data = _read(path)
    try:
        raw = parsed(data)
        if not isinstance(raw, dict):
            raise ValueError("no object")
        checksum = raw.pop("checksum", None)
        content, again = json_digest(raw), json_bytes({**raw, "checksum": checksum})
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not valid JSON ({error}); shard the source again") from error
    schema = raw.pop("schema", None)
    if schema != SCHEMA:
        raise DatasetError(f"{path}: schema {str(schema)[:40]!r}, expected {SCHEMA!r}; shard the source again")
    if checksum != content:
        raise DatasetError(
            f"{path}: was changed after it was written (its checksum is {str(checksum)[:12]}…, its content gives "
            f"{content[:12]}…); restore it, or shard the source again"
        )
    if data != again:  # other bytes for the same values: spaces, 1E5 for 1e5
        raise DatasetError(f"{path}: was changed after it was written (in its spaces or spelling); restore it, or "
                           "shard the source again")  # fmt: skip
    return raw


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise DatasetError(f"cannot read {path}: {reason}; mend that and run the same command again") from error


def _array(column: Any) -> NDArray[Any]:
    """A catalog column; pyarrow's own ``to_numpy`` and ``take`` load pandas where it is installed, a second long."""
    if str(column.type) == "int64":
        return np.from_dlpack(column)
    return np.array(column.to_pylist(), object)
