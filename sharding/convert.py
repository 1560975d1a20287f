"""One shard job: planned source images in; tar, index, catalog, pixel sums and refused files out.

Runs in a worker process; independent of every other shard. Called by ``pack``.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sharding.errors import BadImageError, OutputError
from sharding.image import PreparedImage, prepare
from sharding.layout import CATALOG_COLUMNS, CATALOG_INTEGERS, EncodeRecipe, ShardRecord
from sharding.listing import WHOLE_FILE, SourceImage, images
from sharding.part import BROKEN, Row, Seen, ShardOutcome, changed, part_bytes, read_part
from sharding.sources.reading import Mark, Reader
from sharding.stats import PixelSums
from sharding.storage import pending, publish
from sharding.tar import TarWriter, index_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """Everything a worker needs to make one shard; ``rows`` are rows of a listing, in the order of the tar."""

    name: str
    rows: pa.Table
    classes: tuple[str, ...]
    source_root: Path
    folder: Path
    encode: EncodeRecipe
    label_digits: int
    archives: Mapping[str, Mark] = field(default_factory=dict)  # of the source, as they were listed

    def images(self) -> Iterator[SourceImage]:
        """The source images, in the order of the tar."""
        return images(self.rows, self.classes)


@dataclass(slots=True, kw_only=True)
class _Making:
    """A shard in the making."""

    job: ShardJob
    reader: Reader
    progress: Callable[[int], None]
    sums: PixelSums
    refused: list[Row] = field(default_factory=list)
    seen: dict[str, Seen] = field(default_factory=dict)

    def samples(self) -> Iterator[tuple[Row, bytes]]:
        """Catalog row (without its offset) and content of every good image, in the order of the tar."""
        if pc.all(pc.equal(self.job.rows.column("offset"), WHOLE_FILE)).as_py():
            return (made for image in self.job.images() if (made := self._make(image)))
        return self._read_in_order()

    def _read_in_order(self) -> Iterator[tuple[Row, bytes]]:
        """Archives are read from front to back, a Parquet row group once; the spool brings the samples into order."""
        images = list(self.job.images())
        front_to_back = sorted(range(len(images)), key=lambda i: images[i].place)
        made: dict[int, tuple[Row, int, int]] = {}
        with tempfile.TemporaryFile(dir=self.job.folder if isinstance(self.job.folder, Path) else None) as spool:
            for i in front_to_back:
                one = self._make(images[i])
                if one:
                    made[i] = (one[0], spool.tell(), len(one[1]))
                    spool.write(one[1])
            for i in sorted(made):
                row, start, size = made[i]
                spool.seek(start)
                yield row, spool.read(size)

    def _make(self, image: SourceImage) -> tuple[Row, bytes] | None:
        """Read and prepare one source image, or note why it is refused."""
        data = b""
        try:
            data = self.reader.read(image.container, image.offset, image.size)
            prepared = prepare(data, self.job.encode)
        except BadImageError as error:
            self.refused.append(_refusal(image, data, error))
            return None
        finally:
            self.seen[image.key] = self.reader.mark, hashlib.sha256(data).hexdigest()
            self.progress(1)
        self.sums.add(prepared.pixels_HWC)
        return _catalog_row(image, data, prepared), prepared.content


def convert_shard(job: ShardJob, progress: Callable[[int], None]) -> tuple[ShardOutcome, PixelSums]:
    """Make and publish one shard, or find it made by an earlier run; return what became of its files, and its sums.

    ``progress`` is told the number of source files done since its last call. Raises OutputError if the output
    folder refuses to take a file.
    """
    kept = _kept(job)
    if kept is not None:
        progress(job.rows.num_rows)
        return kept
    rows: list[Row] = []
    record = None
    with Reader(job.source_root, job.archives) as reader, pending(job.folder / f"{job.name}.tar") as write:
        tar = TarWriter(write.file, job.label_digits)
        making = _Making(job=job, reader=reader, progress=progress, sums=PixelSums(job.encode.size_px))
        for row, content in making.samples():
            member = tar.add(row["key"], row["extension"], content, row["label"])
            rows.append({**row, "offset": member.offset})
        if rows:
            tar.finish()
            record = _publish_beside(job, tar, rows)
            write.commit()
    written_by_class = dict(Counter(str(row["wnid"]) for row in rows))
    outcome = ShardOutcome(record=record, refused=making.refused, written_by_class=written_by_class)
    publish(job.folder / f"{job.name}.part", part_bytes(outcome, making.sums, making.seen))
    return outcome, making.sums


def _publish_beside(job: ShardJob, tar: TarWriter, rows: list[Row]) -> ShardRecord:
    """Write index and catalog, which come before the tar: whoever finds the tar finds all three."""
    index, catalog = index_bytes(tar.samples), _parquet_bytes(rows, job.name)
    publish(job.folder / f"{job.name}.idx", index)
    publish(job.folder / f"{job.name}.parquet", catalog)
    return ShardRecord(
        name=job.name,
        num_samples=len(rows),
        num_bytes=tar.num_bytes,
        sha256=tar.sha256,
        index_sha256=hashlib.sha256(index).hexdigest(),
        catalog_sha256=hashlib.sha256(catalog).hexdigest(),
    )


def _kept(job: ShardJob) -> tuple[ShardOutcome, PixelSums] | None:
    """The shard as an earlier run left it, if its part was published and its files are still what they were."""
    path = job.folder / f"{job.name}.part"
    if not path.is_file():
        return None
    try:
        outcome, sums, seen = read_part(path.read_bytes(), job.encode.size_px)
    except Exception:  # whatever is wrong with it, the shard is made anew
        return None
    if changed(job.images(), job.source_root, outcome, seen):
        return None
    record = outcome.record
    if record is not None:
        hashes = {"tar": record.sha256, "idx": record.index_sha256, "parquet": record.catalog_sha256}
        if any(_sha256_of(job.folder / f"{job.name}.{extension}") != sha for extension, sha in hashes.items()):
            return None
    return outcome, sums


def _sha256_of(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # whatever it was, it is written again
        return None


def changed_since(job: ShardJob) -> list[str]:
    """Paths of a finished shard's images that are other bytes now, before the parts are deleted: [] if all is well."""
    path = job.folder / f"{job.name}.part"
    try:
        outcome, _, seen = read_part(path.read_bytes(), job.encode.size_px)
    except (*BROKEN, OSError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is damaged"
        raise OutputError(f"cannot read {path}: {why}; run the same command again, which makes it anew") from error
    return changed(job.images(), job.source_root, outcome, seen)


def _catalog_row(image: SourceImage, data: bytes, prepared: PreparedImage) -> Row:
    return {
        "key": image.key,
        "extension": prepared.extension,
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


def _refusal(image: SourceImage, data: bytes, error: BadImageError) -> Row:
    return {
        "path": image.path,
        "wnid": image.wnid,
        "reason": error.reason,
        "detail": str(error),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _parquet_bytes(rows: list[Row], shard: str) -> bytes:
    import pyarrow.parquet as pq

    schema = pa.schema([(c, pa.int64() if c in CATALOG_INTEGERS else pa.string()) for c in CATALOG_COLUMNS])
    buffer = io.BytesIO()
    shown = [{"shard": shard, **{name: readable(value) for name, value in row.items()}} for row in rows]
    pq.write_table(pa.Table.from_pylist(shown, schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def readable(value: Any) -> Any:
    """File names that are no UTF-8 get backslash escapes: Parquet text must be UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
