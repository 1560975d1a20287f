"""Convert one shard job: planned source images to tar, index, catalog, pixel sums and refused files.

Runs in a worker process, independently of every other shard. Called by ``pack``.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from alexstream.core.errors import BadImageError, OutputError
from alexstream.core.storage import open_pending, publish_file
from alexstream.sharding.dataset_v1.catalog import encode_catalog
from alexstream.sharding.dataset_v1.layout import ShardPaths, shard_paths
from alexstream.sharding.dataset_v1.manifest import ShardRecord
from alexstream.sharding.dataset_v1.recipe import EncodeRecipe
from alexstream.sharding.dataset_v1.tar import TarWriter, encode_index
from alexstream.sharding.images.decode import PreparedImage, prepare_image
from alexstream.sharding.listing import SourceImage, iter_images
from alexstream.sharding.resume import (
    RECORD_ERRORS,
    Row,
    ShardOutcome,
    SourceChanges,
    SourceStamp,
    compare_sources,
    decode_resume_record,
    encode_resume_record,
)
from alexstream.sharding.sources.reader import FileStamp, Reader
from alexstream.sharding.sources.types import WHOLE_FILE
from alexstream.sharding.stats import PixelSums

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()  # the sha256 recorded for a file that could not be read


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """The input of a worker for one shard; ``rows`` are rows of a listing, in the order of the tar."""

    name: str
    rows: pa.Table
    classes: tuple[str, ...]
    source_root: Path
    folder: Path
    encode: EncodeRecipe
    label_digits: int
    archives: Mapping[str, FileStamp] = field(default_factory=dict)  # stamps of the containers when they were listed

    @property
    def paths(self) -> ShardPaths:
        """The files that the job makes."""
        return shard_paths(self.folder, self.name)

    def images(self) -> Iterator[SourceImage]:
        """Yield the source images, in the order of the tar."""
        return iter_images(self.rows, self.classes)


@dataclass(slots=True, kw_only=True)
class _ShardBuilder:
    """The state of a shard while it is made."""

    job: ShardJob
    reader: Reader
    progress: Callable[[int], None]
    sums: PixelSums
    refused: list[Row] = field(default_factory=list)
    seen: dict[str, SourceStamp] = field(default_factory=dict)

    def samples(self) -> Iterator[tuple[Row, bytes]]:
        """Yield catalog row (without its offset) and content of every good image, in the order of the tar."""
        if pc.all(pc.equal(self.job.rows.column("offset"), WHOLE_FILE)).as_py():
            return (made for image in self.job.images() if (made := self._prepare_sample(image)))
        return self._read_in_order()

    def _read_in_order(self) -> Iterator[tuple[Row, bytes]]:
        """Read containers from front to back, then restore the order of the tar through a spool file."""
        images = list(self.job.images())
        front_to_back = sorted(range(len(images)), key=lambda i: images[i].sort_key)
        made: dict[int, tuple[Row, int, int]] = {}
        with tempfile.TemporaryFile(dir=self.job.folder if isinstance(self.job.folder, Path) else None) as spool:
            for i in front_to_back:
                one = self._prepare_sample(images[i])
                if one:
                    made[i] = (one[0], spool.tell(), len(one[1]))
                    spool.write(one[1])
            for i in sorted(made):
                row, start, size = made[i]
                spool.seek(start)
                yield row, spool.read(size)

    def _prepare_sample(self, image: SourceImage) -> tuple[Row, bytes] | None:
        """Read and prepare one source image; record the reason and return None if it is refused."""
        data, stamp, sha256 = b"", None, _EMPTY_SHA256
        try:
            data, stamp = self.reader.read(image.container, image.offset, image.size)
            sha256 = hashlib.sha256(data).hexdigest()
            prepared = prepare_image(data, self.job.encode)
        except BadImageError as error:
            self.refused.append(_make_refusal_row(image, len(data), sha256, error))
            stamp = stamp or self.reader.container_stamp(image.container)
            return None
        finally:  # refused files too are compared with their source before the data set is finished
            self.seen[image.key] = stamp, sha256
            self.progress(1)
        self.sums.add(prepared.pixels_HWC)
        return _make_catalog_row(image, sha256, prepared), prepared.content


def convert_shard(job: ShardJob, progress: Callable[[int], None]) -> tuple[ShardOutcome, PixelSums]:
    """Make and publish one shard, or reuse it from an earlier run; return its outcome and pixel sums.

    ``progress`` is called with the number of source files done since its last call. Raises OutputError if the output
    folder cannot be written.
    """
    kept = _load_reusable(job)
    if kept is not None:
        progress(job.rows.num_rows)
        return kept
    rows: list[Row] = []
    record = None
    with Reader(job.source_root, job.archives) as reader, open_pending(job.paths.tar) as write:
        tar = TarWriter(write.file, job.label_digits)
        making = _ShardBuilder(job=job, reader=reader, progress=progress, sums=PixelSums(job.encode.size_px))
        for row, content in making.samples():
            member = tar.add(row["key"], row["extension"], content, row["label"])
            rows.append({**row, "offset": member.offset})
        if rows:
            tar.finish()
            record = _publish_index_and_catalog(job, tar, rows)
            write.commit()
    written_by_class = dict(Counter(str(row["wnid"]) for row in rows))
    outcome = ShardOutcome(record=record, refused=making.refused, written_by_class=written_by_class)
    publish_file(job.paths.resume, encode_resume_record(outcome, making.sums, making.seen))
    return outcome, making.sums


def _publish_index_and_catalog(job: ShardJob, tar: TarWriter, rows: list[Row]) -> ShardRecord:
    """Write index and catalog, before the tar is committed: where the tar exists, all three do."""
    index, catalog = encode_index(tar.samples), encode_catalog(rows, job.name)
    publish_file(job.paths.index, index)
    publish_file(job.paths.catalog, catalog)
    return ShardRecord(
        name=job.name,
        num_samples=len(rows),
        num_bytes=tar.num_bytes,
        sha256=tar.sha256,
        index_sha256=hashlib.sha256(index).hexdigest(),
        catalog_sha256=hashlib.sha256(catalog).hexdigest(),
    )


def _load_reusable(job: ShardJob) -> tuple[ShardOutcome, PixelSums] | None:
    """Return the result of an earlier run if its shard and its sources are unchanged; else None."""
    path = job.paths.resume
    if not path.is_file():
        return None
    try:
        outcome, sums, seen = decode_resume_record(path.read_bytes(), job.encode.size_px)
    except Exception:  # an unreadable resume record costs only a new conversion of this shard
        return None
    if compare_sources(job.images(), job.source_root, outcome, seen).paths:
        return None
    record = outcome.record
    if record is not None:
        paths = job.paths
        hashes = {paths.tar: record.sha256, paths.index: record.index_sha256, paths.catalog: record.catalog_sha256}
        if any(_hash_file(path) != sha256 for path, sha256 in hashes.items()):
            return None
    return outcome, sums


def _hash_file(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # an unreadable file is written again
        return None


def find_source_changes(job: ShardJob) -> SourceChanges:
    """Return the changes to a finished shard's sources since they were read.

    Raises OutputError if its resume record cannot be read.
    """
    path = job.paths.resume
    try:
        outcome, _, seen = decode_resume_record(path.read_bytes(), job.encode.size_px)
    except (*RECORD_ERRORS, OSError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "it is damaged"
        raise OutputError(f"cannot read {path}: {why}; run the same command again, which makes it anew") from error
    return compare_sources(job.images(), job.source_root, outcome, seen)


def _make_catalog_row(image: SourceImage, sha256: str, prepared: PreparedImage) -> Row:
    return {
        "key": image.key,
        "extension": prepared.extension,
        "size": len(prepared.content),
        "label": image.label,
        "wnid": image.wnid,
        "source": image.path,
        "source_sha256": sha256,
        "stored_sha256": hashlib.sha256(prepared.content).hexdigest(),
        "source_width": prepared.source_width,
        "source_height": prepared.source_height,
        "source_format": prepared.source_format,
        "notes": "; ".join(prepared.notes),
    }


def _make_refusal_row(image: SourceImage, size: int, sha256: str, error: BadImageError) -> Row:
    return {
        "path": image.path,
        "wnid": image.wnid,
        "reason": error.reason,
        "detail": str(error),
        "bytes": size,
        "sha256": sha256,
    }
