"""Find the rows of a table, or of a list, that name a given image: with or without folders and extension."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.core.schema import parse_json
from alexstream.sharding.sources.files import is_image_name
from alexstream.sharding.sources.labels.label_table import decode_text, parse_json_rows, parse_table
from alexstream.sharding.sources.split_words import split_of_word


class NameIndex:
    """Rows by the file names in them."""

    def __init__(self, above: Sequence[str] = ()) -> None:
        """``above`` are the folders that lead to the source, which may be written, too."""
        self._rows: dict[str, list[tuple[tuple[str, ...], int]]] = {}
        self._above = tuple(above)
        self._folders: dict[tuple[str, ...], tuple[str, ...]] = {}  # equal ones are one object

    def __len__(self) -> int:
        """Return the number of different file names."""
        return len(self._rows)

    def add(self, name: str, row: int) -> None:
        """Add a name, which may have folders and an extension, as found in a row."""
        *folders, file = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")] or [""]
        if file:
            written = tuple(folders)
            self._rows.setdefault(_stem(file), []).append((self._folders.setdefault(written, written), row))

    def find(self, path: str) -> list[int]:
        """Return the rows that may name the image at ``path``; folders written in a row must be on its path."""
        *folders, file = path.split("/")
        rows = self._rows.get(_stem(file))
        return [row for written, row in rows if _fits(written, folders, self._above)] if rows else []

    def find_elsewhere(self, path: str) -> list[int]:
        """Return the rows that name the file of ``path``, in whatever folders."""
        return [row for _, row in self._rows.get(_stem(path.rpartition("/")[2]), ())]


def _stem(file: str) -> str:
    return file.rpartition(".")[0] if is_image_name(file) else file


def _fits(written: Sequence[str], folders: Sequence[str], above: Sequence[str]) -> bool:
    """Return whether written folders are those of an image, as far as both are known; a table may be of elsewhere.

    Folders above the source may be others, but not those of another split.
    """
    if set(written) <= set(folders):
        return True
    whole = [*above, *folders]
    common = 0
    while common < min(len(written), len(whole)) and written[-1 - common] == whole[-1 - common]:
        common += 1
    if common == len(written):
        return True
    theirs = {split for part in written[: len(written) - common] if (split := split_of_word(part))}
    ours = {split for part in [*above[-1:], *folders] if (split := split_of_word(part))}
    return common >= max(1, len(folders)) and (not theirs or not ours or bool(theirs & ours))


def parse_names(name: str, data: bytes) -> list[list[str]]:
    """Return the rows of a list of images: of a table, of JSON, or of lines with one name; [] for anything else.

    ``name`` is that of the file, whose extension tells what it is.
    """
    try:
        text = decode_text(data, Path(name))
        if name.lower().endswith(".json"):
            value = parse_json(text)
            if names := _flatten(value):
                return [[one] for one in names]
            if rows := _find_records(value):
                return rows
        if all(len(line.split()) == 1 for line in text.splitlines()[:20] if line.strip()) and "," not in text[:1000]:
            return [[line.strip()] for line in text.splitlines() if line.strip()]
        return parse_table(data, Path(name)).cells
    except (SourceError, ValueError):
        return []


def _flatten(value: object) -> list[str]:
    """Return the names in a list, or in a map of class to list; [] for any other JSON."""
    lists = [names for names in (value.values() if isinstance(value, dict) else [value]) if isinstance(names, list)]
    names = [name for held in lists for name in held]
    return names if all(isinstance(name, str) for name in names) else []


def _find_records(value: object) -> list[list[str]]:
    """Return the rows of the first list of objects in a JSON object, as ``images`` of COCO; [] without one."""
    held = list(value.values()) if isinstance(value, dict) else []
    for one in held:
        if isinstance(one, list) and one and all(isinstance(record, dict) for record in one):
            return [cells for _, cells in parse_json_rows(json.dumps(one), "json")]
    return []
