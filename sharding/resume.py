"""The resume record of a finished shard: its outcome, pixel sums, and the state of its sources.

Written and read by ``convert``; deleted when the data set is finished.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alexstream.core.errors import BadImageError
from alexstream.sharding.dataset_v1.manifest import ShardRecord
from alexstream.sharding.listing import SourceImage
from alexstream.sharding.sources.reader import FileStamp, Reader
from alexstream.sharding.stats import PixelSums

RECORD_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    zipfile.BadZipFile,
)  # errors of parsing a damaged resume record
Row = dict[str, Any]
SourceStamp = tuple[
    FileStamp | None, str
]  # an image's source when it was read: stamp of the file, and sha256 of the image


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """The result of a shard job: the manifest's record, and the refused files.

    ``refused`` rows have path, wnid, reason, detail, bytes and sha256. A job whose every file was refused writes no
    shard and has no record.
    """

    record: ShardRecord | None
    refused: list[Row] = field(default_factory=list)
    written_by_class: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceChanges:
    """Differences between a shard's sources now and when they were read.

    ``paths``: images whose bytes differ, or that can be read and could not before. ``renumbered``: files with another
    inode number or status change time, but the same size, modification time and bytes.
    """

    paths: list[str] = field(default_factory=list)
    renumbered: list[str] = field(default_factory=list)


def compare_sources(
    images: Iterable[SourceImage], root: Path, outcome: ShardOutcome, seen: dict[str, SourceStamp]
) -> SourceChanges:
    """Compare a shard's images with the state in which they were read.

    Stamps are compared first; where one differs or is unknown, the bytes. Files in object stores are taken as
    unchanged, except refused ones.
    """
    found = SourceChanges()
    refused = {row["path"] for row in outcome.refused}
    renumbered: dict[str, None] = {}
    with Reader(root) as reader:
        marks: dict[str, FileStamp | None] = {}
        for image in images:
            if image.container not in marks:
                marks[image.container] = reader.current_stamp(image.container)
            (mark, sha256), now = seen.get(image.key, (None, "")), marks[image.container]
            in_store = not isinstance(reader.root, Path) and image.path not in refused
            if in_store or (mark is not None and mark == now):
                continue
            if _hash_image(reader, image) != sha256:
                found.paths.append(image.path)
            elif mark is not None and now is not None and mark.has_same_size_and_mtime(now):
                renumbered[image.container] = None
    found.renumbered.extend(renumbered)
    return found


def _hash_image(reader: Reader, image: SourceImage) -> str:
    try:
        data = reader.read(image.container, image.offset, image.size).data
    except BadImageError:
        data = b""
    return hashlib.sha256(data).hexdigest()


def encode_resume_record(outcome: ShardOutcome, sums: PixelSums, seen: dict[str, SourceStamp]) -> bytes:
    """Serialize outcome, sums and source states as one ``.npz``, so that a later run can reuse the shard."""
    buffer = io.BytesIO()
    texts = [np.frombuffer(json.dumps(value).encode(), np.uint8) for value in (asdict(outcome), seen)]
    sum_HWC, product_CC = sums.sum_HWC, sums.product_CC
    np.savez(buffer, outcome=texts[0], seen=texts[1], count=sums.num_images, sum_HWC=sum_HWC, product_CC=product_CC)
    return buffer.getvalue()


def decode_resume_record(data: bytes, size_px: int) -> tuple[ShardOutcome, PixelSums, dict[str, SourceStamp]]:
    """Parse what ``encode_resume_record`` returned. Raises one of BROKEN for anything else."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        raw, read = (json.loads(arrays[name].tobytes()) for name in ("outcome", "seen"))
        sums = PixelSums(size_px)
        sums.add_sums(int(arrays["count"]), arrays["sum_HWC"], arrays["product_CC"])
    raw["record"] = ShardRecord(**raw["record"]) if raw["record"] else None
    seen = {path: (FileStamp(*mark) if mark else None, str(sha256)) for path, (mark, sha256) in read.items()}
    return ShardOutcome(**raw), sums, seen
