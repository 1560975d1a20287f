"""Read which images a text says are in which split: lists of names, tables with splits, JSON, CUB's flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.schema import parse_json
from alexstream.sharding.sources.files import is_image_name
from alexstream.sharding.sources.labels.image_table import ImageTable
from alexstream.sharding.sources.labels.label_table import decode_text
from alexstream.sharding.sources.labels.split_columns import is_split_column_name
from alexstream.sharding.sources.labels.text_files import TextFile, is_named_for_splits
from alexstream.sharding.sources.split_words import split_of_file, split_of_word

CUB_FLAGS, _CUB_IMAGES = "train_test_split.txt", "images.txt"
UNCLEAR = ""  # the split of images that a text is about without telling which split they are in


class SplitClaims(NamedTuple):
    """The names of images by split; UNCLEAR has those of which ``problem`` says why their split is not told."""

    named: dict[str, list[str]]
    problem: str = ""


def read_claims(file: TextFile, files: Sequence[TextFile]) -> SplitClaims | None:
    """Read what a text says about splits; None if it cannot be read and may be a list of splits by its name.

    ``files`` are all texts: CUB's flags need the list of images beside them.
    """
    try:
        if file.name == CUB_FLAGS and (named := _read_cub(file, files)):
            return SplitClaims(named)
        if file.name.lower().endswith(".json") and (named := _read_json(file)):
            return SplitClaims(named)
        rows = file.rows
    except (SourceError, ValueError):
        rows = []
    if not rows:
        return None if is_named_for_splits(file.name) and not _is_empty(file) else SplitClaims({})
    table = ImageTable(file)
    named = _read_wide_table(table) or _read_split_column(table)
    if named:
        return SplitClaims(named)
    names = list(_pick_names(table))
    if problem := (table.split_problem if not file.told else "") or _find_partition(table):
        return SplitClaims({UNCLEAR: names}, problem)
    return SplitClaims({file.told: names} if file.told else {})


def _is_empty(file: TextFile) -> bool:
    try:
        return not file.load().strip()
    except SourceError:
        return False


def _read_cub(flags: TextFile, files: Sequence[TextFile]) -> dict[str, list[str]]:
    """Return the images by split of CUB's lists ``id is_training`` and ``id path``."""
    images = flags.where[: -len(CUB_FLAGS)] + _CUB_IMAGES
    path_of = {row[0]: row[-1] for f in files if f.where == images for row in f.rows if len(row) > 1}
    named: dict[str, list[str]] = {"train": [], "test": []}
    for row in flags.rows:
        if len(row) == 2 and row[0] in path_of and row[1] in ("0", "1"):
            named["train" if row[1] == "1" else "test"].append(path_of[row[0]])
    return named if any(named.values()) else {}


def _read_json(file: TextFile) -> dict[str, list[str]]:
    """Return the images by split of ``{"train": […], "test": […]}``, and of ``{"a.jpg": "train", …}``."""
    value = parse_json(decode_text(file.load(), Path(file.where)))
    held = value.items() if isinstance(value, dict) else []
    named: dict[str, list[str]] = {}
    for key, names in held:
        if isinstance(names, str) and (split := split_of_word(names)):
            named.setdefault(split, []).append(key)  # a map of file to split
        elif isinstance(names, list | dict) and (split := split_of_file(key)):
            named.setdefault(split, []).extend(_iter_json_names(names))
    return named


def _iter_json_names(value: object) -> Iterator[str]:
    """Yield the names in a list of names or of records, in a map of class to such a list, or of file to class."""
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list | dict)]
        yield from (name for inner in lists for name in _iter_json_names(inner)) if lists else value
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                yield item
            elif isinstance(item, list | dict):
                cells = [cell for cell in (item.values() if isinstance(item, dict) else item) if isinstance(cell, str)]
                yield from [cell for cell in cells if _is_name(cell)] or cells[:1]


def _read_wide_table(table: ImageTable) -> dict[str, list[str]]:
    """Return the images by split of a table with a column of names for each split."""
    if not table.cells:
        return {}
    told = {c: split_of_file(name) for c, name in enumerate(table.header) if not is_split_column_name(name)}
    columns = {c: split for c, split in told.items() if split}
    if len(set(columns.values())) < 2:
        return {}
    named: dict[str, list[str]] = {}
    for c, split in columns.items():
        named.setdefault(split, []).extend(row[c] for row in table.cells[1:] if row[c])
    return named


def _read_split_column(table: ImageTable) -> dict[str, list[str]]:
    """Return the images by split of a table with a column of splits; {} for any other."""
    named: dict[str, list[str]] = {}
    if table.cells and any(table.splits):
        for row, split in zip(table.cells, table.splits, strict=True):
            if split:
                named.setdefault(split, []).extend(row[c] for c in table.files)
    return named


def _pick_names(table: ImageTable) -> Iterable[str]:
    """Yield the cells that may be names of images: by their form, their column, or as the only ones of their rows."""
    if not table.cells:
        return (row[0] for row in table.file.rows if len(row) == 1)
    columns = set(table.files)
    return (cell for row in table.cells for c, cell in enumerate(row) if c in columns or _is_name(cell))


def _is_name(cell: str) -> bool:
    return "/" in cell or "\\" in cell or is_image_name(cell)


def _find_partition(table: ImageTable) -> str:
    """Return what is unclear about a table that is named for a partition and has numbers for it; "" for others."""
    name = table.file.name.lower()
    if not table.cells or not ("partition" in name or (table.file.told is None and is_named_for_splits(name))):
        return ""
    for c in range(len(table.header)):
        values = {row[c] for row in table.cells[bool(any(table.header)) :]}
        if 1 < len(values) <= 3 and values <= {"0", "1", "2"}:
            return f"has {', '.join(sorted(values))} in column {c + 1}, which may stand for splits"
    return ""
