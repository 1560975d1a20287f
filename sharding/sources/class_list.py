"""The list of classes that ``--classes FILE`` names, in label order."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from sharding import layout
from sharding.errors import SourceError
from sharding.fields import parsed
from sharding.sources import ilsvrc
from sharding.sources.place import as_place, read_all

_EXPECTED = "expected one class a line, a classes.json, or a finished data set"


def classes_from(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Classes in label order, of a text file, of a ``classes.json``, or of a DATASET v1 (its folder or manifest).

    A line of text is a wnid and what follows it (``n01440764 tench, Tinca tinca``), or any name up to a TAB. Raises
    SourceError if there is no class, an empty one, or one twice; DatasetError for a damaged data set.
    """
    place = as_place(path)
    if place.is_dir():
        return layout.load_manifest(place).classes
    if not place.is_file():
        raise SourceError(f"{place}: no such list of classes; {_EXPECTED}")
    if place.name == layout.MANIFEST:
        return layout.load_manifest(place.parent).classes
    try:
        text = read_all(place).decode("utf-8-sig")
        listed = _of_json(parsed(text)) if text.lstrip()[:1] in ("[", "{") else _of_text(text)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise SourceError(f"{place}: no list of classes ({error}); {_EXPECTED}") from error
    twice = [name for name, count in Counter(listed).items() if count > 1]
    if twice or not listed or not all(listed):
        wrong = f"names {twice[0]!r} twice" if twice else "holds an empty class" if listed else "is empty"
        raise SourceError(f"{place}: {wrong}; {_EXPECTED}, each class once")
    return tuple(listed)


def classes_beside(folder: Path) -> tuple[str, ...] | None:
    """The classes of a ``classes.json`` in a folder or above it, where other tools' shards lie; None without one."""
    for place in (folder, folder.parent):
        if (place / layout.CLASSES).is_file():
            return classes_from(place / layout.CLASSES)
    return None


def _of_text(text: str) -> list[str]:
    return [_of_line(line) for line in text.rstrip().splitlines()]


def _of_line(line: str) -> str:
    first = line.split(maxsplit=1)[0] if line.strip() else ""
    return first if ilsvrc.is_wnid(first) else line.partition("\t")[0].strip()


def _of_json(value: Any) -> list[str]:
    """Our list of ``index`` and ``wnid``, or a plain list of names."""
    if not isinstance(value, list):
        raise ValueError("the JSON is no list")
    if all(isinstance(item, str) for item in value):
        return [item.strip() for item in value]
    by_index = {int(item["index"]): str(item["wnid"]) for item in value}
    if sorted(by_index) != list(range(len(value))):
        raise ValueError("the indexes are not 0, 1, 2 … once each")
    return [by_index[index] for index in range(len(value))]
