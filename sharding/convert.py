"""One shard job: planned source images in; tar, index, catalog, pixel sums and refused files out.

Runs in a worker process; independent of every other shard. Called by ``pack``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sharding.errors import BadImageError
from sharding.image import PreparedImage, prepare
from sharding.layout import CATALOG_COLUMNS, EncodeRecipe, ShardRecord, publish
from sharding.source import SourceImage
from sharding.stats import PixelSums
from sharding.tar import TarShard, index_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """Everything a worker needs to make one shard."""

    name: str
    images: tuple[SourceImage, ...]
    source_root: Path
    folder: Path
    encode: EncodeRecipe
    label_digits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """What became of a shard job's files: the manifest's record, and the refused ones.

    ``refused`` rows have path, wnid, reason, detail, bytes and sha256. A shard whose every file was refused
    writes nothing and has no record.
    """

    record: ShardRecord | None
    refused: list[dict[str, Any]] = field(default_factory=list)
    written_by_class: dict[str, int] = field(default_factory=dict)


def convert_shard(job: ShardJob, progress: Callable[[int], None]) -> tuple[ShardOutcome, PixelSums]:
    """Make and publish one shard, or find it made by an earlier run; return what became of its files, and its sums.

    ``progress`` is told the number of source files done since its last call. Raises OutputError if the output
    folder refuses to take a file.
    """
    kept = _kept(job)
    if kept is not None:
        progress(len(job.images))
        return kept
    tar, sums, rows = TarShard(job.label_digits), PixelSums(job.encode.size_px), list[dict[str, Any]]()
    refused: list[dict[str, Any]] = []
    for image in job.images:
        data = b""
        try:
            data = _read(job.source_root / image.path)
            prepared = prepare(data, job.encode)
        except BadImageError as error:
            refused.append(_refusal(image, data, error))
        else:
            member = tar.add(image.key, prepared.content, image.label)
            sums.add(prepared.pixels_HWC)
            rows.append(_catalog_row(image, data, prepared, job.name, member.offset))
        progress(1)
    record = _publish(job, tar, rows) if rows else None
    written_by_class = dict(Counter(str(row["wnid"]) for row in rows))
    outcome = ShardOutcome(record=record, refused=refused, written_by_class=written_by_class)
    publish(job.folder / f"{job.name}.part", _part_bytes(outcome, sums))
    return outcome, sums


def _kept(job: ShardJob) -> tuple[ShardOutcome, PixelSums] | None:
    """The shard as an earlier run left it, if its part was published and its files are still what they were."""
    path = job.folder / f"{job.name}.part"
    if not path.is_file():
        return None
    try:
        outcome, sums = _read_part(path.read_bytes(), job.encode.size_px)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
        return None
    if any(_mended(job, row) for row in outcome.refused):
        return None
    record = outcome.record
    if record is not None:
        hashes = {"tar": record.sha256, "idx": record.index_sha256, "parquet": record.catalog_sha256}
        for extension, expected in hashes.items():
            file = job.folder / f"{job.name}.{extension}"
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != expected:
                return None
    return outcome, sums


def _mended(job: ShardJob, row: dict[str, Any]) -> bool:
    """Whether a refused file is another than it was then: it gets a new chance."""
    try:
        data = _read(job.source_root / row["path"])
    except BadImageError:
        data = b""
    return hashlib.sha256(data).hexdigest() != str(row["sha256"])


def _part_bytes(outcome: ShardOutcome, sums: PixelSums) -> bytes:
    """A shard's outcome and sums as one ``.npz``: what a later run needs if this one does not reach its end."""
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(asdict(outcome)).encode(), np.uint8)
    np.savez(buffer, outcome=text, count=sums.num_images, sum_HWC=sums.sum_HWC, product_CC=sums.product_CC)
    return buffer.getvalue()


def _read_part(data: bytes, size_px: int) -> tuple[ShardOutcome, PixelSums]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        raw = json.loads(arrays["outcome"].tobytes())
        sums = PixelSums(size_px)
        sums.num_images = int(arrays["count"])
        sums.sum_HWC += arrays["sum_HWC"]
        sums.product_CC += arrays["product_CC"]
    raw["record"] = ShardRecord(**raw["record"]) if raw["record"] else None
    return ShardOutcome(**raw), sums


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise BadImageError("unreadable", "not a regular file, or a link that leads nowhere")
        return path.read_bytes()
    except OSError as error:
        raise BadImageError("unreadable", f"{os.strerror(error.errno or 0)}") from error


def _publish(job: ShardJob, tar: TarShard, rows: list[dict[str, Any]]) -> ShardRecord:
    """Write index and catalog before the tar: whoever finds the tar finds all three."""
    contents = tar.finish()
    index, catalog = index_bytes(tar.samples), _parquet_bytes(rows)
    publish(job.folder / f"{job.name}.idx", index)
    publish(job.folder / f"{job.name}.parquet", catalog)
    publish(job.folder / f"{job.name}.tar", contents)
    return ShardRecord(
        name=job.name,
        num_samples=len(rows),
        num_bytes=len(contents),
        sha256=hashlib.sha256(contents).hexdigest(),
        md5=hashlib.md5(contents, usedforsecurity=False).hexdigest(),
        index_sha256=hashlib.sha256(index).hexdigest(),
        catalog_sha256=hashlib.sha256(catalog).hexdigest(),
    )


def _catalog_row(image: SourceImage, data: bytes, prepared: PreparedImage, shard: str, offset: int) -> dict[str, Any]:
    return {
        "key": image.key,
        "shard": shard,
        "offset": offset,
        "size": len(prepared.content),
        "label": image.label,
        "wnid": image.wnid,
        "source": image.path,
        "source_sha256": hashlib.sha256(data).hexdigest(),
        "stored_sha256": hashlib.sha256(prepared.content).hexdigest(),
        "source_width": prepared.source_width,
        "source_height": prepared.source_height,
        "source_format": prepared.source_format,
        "notes": "; ".join(prepared.notes),
    }


def _refusal(image: SourceImage, data: bytes, error: BadImageError) -> dict[str, Any]:
    return {
        "path": image.path,
        "wnid": image.wnid,
        "reason": error.reason,
        "detail": str(error),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    integers = {"offset", "size", "label", "source_width", "source_height"}
    schema = pa.schema([(c, pa.int64() if c in integers else pa.string()) for c in CATALOG_COLUMNS])
    buffer = io.BytesIO()
    readable = [{name: _readable(value) for name, value in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(readable, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def _readable(value: Any) -> Any:
    """File names that are no UTF-8 get backslash escapes: Parquet text must be UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
