"""One shard job: planned source images in; tar, index, catalog, pixel sums and refused files out.

Runs in a worker process; independent of every other shard. Called by ``pack``.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    """Make and publish one shard; return what became of its files, and its pixel sums.

    ``progress`` is told the number of source files done since its last call.

    Raises OutputError if the output folder refuses to take a file.
    """
    tar, sums, rows = TarShard(), PixelSums(job.encode.size_px), list[dict[str, Any]]()
    refused: list[dict[str, Any]] = []
    written_by_class: dict[str, int] = {}
    for image in job.images:
        data = b""
        try:
            data = _read(job.source_root / image.path)
            prepared = prepare(data, job.encode)
        except BadImageError as error:
            refused.append(_refusal(image, data, error))
        else:
            member = tar.add(image.key, prepared.jpeg, image.label)
            sums.add(prepared.pixels_HWC)
            rows.append(_catalog_row(image, data, prepared, job.name, member.offset))
            written_by_class[image.wnid] = written_by_class.get(image.wnid, 0) + 1
        progress(1)
    record = _publish(job, tar, rows) if rows else None
    return ShardOutcome(record=record, refused=refused, written_by_class=written_by_class), sums


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
        "size": len(prepared.jpeg),
        "label": image.label,
        "wnid": image.wnid,
        "source": image.path,
        "source_sha256": hashlib.sha256(data).hexdigest(),
        "stored_sha256": hashlib.sha256(prepared.jpeg).hexdigest(),
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
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()
