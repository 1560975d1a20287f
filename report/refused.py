"""List refused files in a table, with thumbnails of those that still exist and can be decoded.

These files are known to be faulty, and may be hostile: they are read only if they are small regular files within the
source, and decoded only by Pillow's parsers of common formats, up to a number of pixels. A failure costs no more than
one thumbnail.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexstream.core.errors import BadImageError
from alexstream.core.parameters import to_display
from alexstream.core.text import count_of, shorten
from alexstream.report.blocks import Block, Note, Picture, Table
from alexstream.report.pictures import encode_photo
from alexstream.sharding.images.formats import FORMATS, MAX_PIXELS, PARSER_ERRORS
from alexstream.sharding.sources.reader import Reader
from alexstream.sharding.sources.types import WHOLE_FILE

MAX_REFUSED_ROWS = 60  # rows
MAX_FILE_BYTES = 32 << 20  # of a file that is read for its thumbnail
SIDE_PX = 72
NOT_FOUND = "file not found"


def first_refused(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the first ``MAX_REFUSED_ROWS`` rows of quarantine lists, refused files before excluded ones."""
    kept: dict[bool, list[Mapping[str, Any]]] = {True: [], False: []}
    for row in rows:
        of_kind = kept[row["outcome"] == "quarantined"]
        if len(of_kind) < MAX_REFUSED_ROWS:
            of_kind.append(row)
    return [*kept[True], *kept[False]][:MAX_REFUSED_ROWS]


def build_refused_table(
    ordered: Sequence[Mapping[str, Any]], num_files: int, roots: Mapping[str, Sequence[Path]]
) -> list[Block]:
    """Build a table of what ``first_refused`` returned of ``num_files`` files.

    ``roots``: split → folders where its source may be. A note follows if none of the files was found.
    """
    shown = [[_format_path(row), str(row["split"]), str(row["reason"]), *_show_content(row, roots)] for row in ordered]
    caption = count_of(num_files, "file") + (
        f", of which {MAX_REFUSED_ROWS} are shown" if num_files > MAX_REFUSED_ROWS else ""
    )
    table = Table(
        caption=caption,
        head=["file", "split", "reason", "content"],
        rows=shown,
        words=frozenset({1, 2, 3}),
        folded="Which files",
    )
    if any(row[-1] != NOT_FOUND for row in shown):
        return [table]
    return [
        table,
        Note(
            text=to_display(
                "The source is not beside the data set, so these files are not shown; give it with `source`."
            )
        ),
    ]


def _format_path(row: Mapping[str, Any]) -> str:
    return shorten(str(row["path"]), 120)


def _show_content(row: Mapping[str, Any], roots: Mapping[str, Sequence[Path]]) -> list[str | Picture]:
    for root in roots[row["split"]]:
        content = _read_source_file(root, str(row["path"]))
        if content is not None:
            return [_decode_thumbnail(content) or f"cannot be decoded ({len(content):,} bytes)"]
    return [NOT_FOUND]


def _read_source_file(root: Path, path: str) -> bytes | None:
    """Read a small regular file within ``root``; return None if it is none, or cannot be read."""
    if not isinstance(root, Path):
        return None
    try:
        whole = (root / path).resolve()
        if not whole.is_relative_to(root.resolve()) or not whole.is_file() or whole.stat().st_size > MAX_FILE_BYTES:
            return None
        return Reader(root).read(path, WHOLE_FILE, 0).data
    except (OSError, ValueError, BadImageError):
        return None


def _decode_thumbnail(content: bytes) -> Picture | None:
    """Decode a file with Pillow to a thumbnail; return None if that fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=("JPEG", *FORMATS))
            if image.width * image.height > MAX_PIXELS:
                return None
            image.draft("RGB", (SIDE_PX, SIDE_PX))
            pixels = np.asarray(image.convert("RGB"))
    except (*PARSER_ERRORS, Image.DecompressionBombError):
        return None
    return encode_photo(pixels, "decoded part of the file", side=SIDE_PX)
