"""What a finished shard leaves beside it for a run that continues: its outcome, its sums, and its sources as they were.

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

from sharding.errors import BadImageError
from sharding.layout import ShardRecord
from sharding.listing import SourceImage
from sharding.sources.reading import Mark, Reader
from sharding.stats import PixelSums

BROKEN = (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)  # what reading a damaged part raises
Row = dict[str, Any]
Seen = tuple[Mark | None, str]  # what a source file was when it was read: its mark, and the sha256 of the image


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """What became of a shard job's files: the manifest's record, and the refused ones.

    ``refused`` rows have path, wnid, reason, detail, bytes and sha256. A shard whose every file was refused
    writes nothing and has no record.
    """

    record: ShardRecord | None
    refused: list[Row] = field(default_factory=list)
    written_by_class: dict[str, int] = field(default_factory=dict)


def changed(images: Iterable[SourceImage], root: Path, outcome: ShardOutcome, seen: dict[str, Seen]) -> list[str]:
    """Paths of images that are other bytes than those that were seen, or can be read where they could not be.

    Asked of the marks; where one differs, or is not known, of the bytes. What lies in an object store is taken as it
    was, but for refused files.
    """
    found = []
    refused = {row["path"] for row in outcome.refused}
    with Reader(root) as reader:
        marks: dict[str, Mark | None] = {}
        for image in images:
            if image.container not in marks:
                marks[image.container] = reader.mark_now(image.container)
            mark, sha256 = seen.get(image.key, (None, ""))
            in_store = not isinstance(reader.root, Path) and image.path not in refused
            if in_store or (mark is not None and mark == marks[image.container]):
                continue
            if _sha256_now(reader, image) != sha256:
                found.append(image.path)
    return found


def _sha256_now(reader: Reader, image: SourceImage) -> str:
    try:
        data = reader.read(image.container, image.offset, image.size)
    except BadImageError:
        data = b""
    return hashlib.sha256(data).hexdigest()


def part_bytes(outcome: ShardOutcome, sums: PixelSums, seen: dict[str, Seen]) -> bytes:
    """A shard's outcome, sums and sources as one ``.npz``: for a later run if this one does not reach its end."""
    buffer = io.BytesIO()
    texts = [np.frombuffer(json.dumps(value).encode(), np.uint8) for value in (asdict(outcome), seen)]
    sum_HWC, product_CC = sums.sum_HWC, sums.product_CC
    np.savez(buffer, outcome=texts[0], seen=texts[1], count=sums.num_images, sum_HWC=sum_HWC, product_CC=product_CC)
    return buffer.getvalue()


def read_part(data: bytes, size_px: int) -> tuple[ShardOutcome, PixelSums, dict[str, Seen]]:
    """What ``part_bytes`` was given. Raises one of BROKEN for anything else."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        raw, read = (json.loads(arrays[name].tobytes()) for name in ("outcome", "seen"))
        sums = PixelSums(size_px)
        sums.add_sums(int(arrays["count"]), arrays["sum_HWC"], arrays["product_CC"])
    raw["record"] = ShardRecord(**raw["record"]) if raw["record"] else None
    seen = {path: (Mark(*mark) if mark else None, str(sha256)) for path, (mark, sha256) in read.items()}
    return ShardOutcome(**raw), sums, seen
