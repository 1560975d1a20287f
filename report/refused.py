"""Files that were refused, as a table with thumbnails where the file is still there and shows anything.

The bytes are those of files that something is wrong with: they are read only if they are small regular files within
the source, and decoded by Pillow's parsers of common formats, at most so many pixels. Whatever fails costs one
thumbnail.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from report.blocks import Block, Note, Picture, Table, count_of
from report.pictures import photograph
from report.text import short
from sharding.errors import BadImageError
from sharding.formats import FORMATS, MAX_PIXELS, PARSER_ERRORS
from sharding.listing import WHOLE_FILE
from sharding.sources.reading import Reader

MOST = 60  # rows
MOST_BYTES = 32 << 20
SIDE_PX = 72
GONE = "the file is not there"


def refused_table(rows: Sequence[Mapping[str, Any]], roots: Mapping[str, Sequence[Path]]) -> list[Block]:
    """The first ``MOST`` rows of quarantine lists, refused files before excluded ones; ``roots``: split → folders."""
    ordered = sorted(rows, key=lambda row: row["outcome"] != "quarantined")[:MOST]
    shown = [[_name(row), str(row["split"]), str(row["reason"]), *_look(row, roots)] for row in ordered]
    caption = count_of(len(rows), "file") + (f", of which {MOST} are shown" if len(rows) > MOST else "")
    table = Table(
        caption=caption,
        head=["file", "split", "reason", "what it shows"],
        rows=shown,
        words=frozenset({1, 2, 3}),
        folded="Which files",
    )
    if any(row[-1] != GONE for row in shown):
        return [table]
    return [table, Note(text="The source is not beside the data set, so these files are not shown; --src names it.")]


def _name(row: Mapping[str, Any]) -> str:
    return short(str(row["path"]), 120)


def _look(row: Mapping[str, Any], roots: Mapping[str, Sequence[Path]]) -> list[str | Picture]:
    for root in roots[row["split"]]:
        content = _content(root, str(row["path"]))
        if content is not None:
            return [_thumbnail(content) or f"nothing that can be drawn ({len(content):,} bytes)"]
    return [GONE]


def _content(root: Path, path: str) -> bytes | None:
    """The bytes of a small regular file within ``root``, or None."""
    if not isinstance(root, Path):
        return None
    try:
        whole = (root / path).resolve()
        if not whole.is_relative_to(root.resolve()) or not whole.is_file() or whole.stat().st_size > MOST_BYTES:
            return None
        return Reader(root).read(path, WHOLE_FILE, 0)
    except (OSError, ValueError, BadImageError):
        return None


def _thumbnail(content: bytes) -> Picture | None:
    """What Pillow sees in a file, or None."""
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
    return photograph(pixels, "what is left of the file", side=SIDE_PX)
