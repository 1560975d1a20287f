"""Load the list of classes of ``--classes FILE``, in label order."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexstream.core.errors import SourceError
from alexstream.core.schema import parse_json
from alexstream.core.text import quote_value
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.sources.files import as_path, read_small_file
from alexstream.sharding.sources.imagenet import ilsvrc

_EXPECTED = "expected one class a line, a classes.json, a JSON map of index and name, or a finished data set"


def load_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Load classes in label order from a text file, a ``classes.json``, or a DATASET v1 folder or manifest.

    A line of text is a wnid and its description (``n01440764 tench, Tinca tinca``), or any name up to a TAB. Raises
    SourceError if there is no class, an empty one, or one twice; DatasetError for a damaged data set.
    """
    place = as_path(path)
    if place.is_dir():
        return load_manifest(place).classes
    if not place.is_file():
        raise SourceError(f"{place}: no such list of classes; {_EXPECTED}")
    if place.name == layout.MANIFEST:
        return load_manifest(place.parent).classes
    try:
        text = read_small_file(place).decode("utf-8-sig")
        listed = _parse_json_list(text) if text.lstrip()[:1] in ("[", "{") else _parse_text(text)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise SourceError(f"{place}: no list of classes ({error}); {_EXPECTED}") from error
    twice = [name for name, count in Counter(listed).items() if count > 1]
    if twice or not listed or not all(listed):
        wrong = f"names {quote_value(twice[0])} twice" if twice else "holds an empty class" if listed else "is empty"
        raise SourceError(f"{place}: {wrong}; {_EXPECTED}, each class once")
    return tuple(listed)


def find_classes_beside(folder: Path) -> tuple[str, ...] | None:
    """Load the ``classes.json`` in a folder or its parent, where other tools put it; None without one."""
    for place in (folder, folder.parent):
        if (place / layout.CLASSES).is_file():
            return load_classes(place / layout.CLASSES)
    return None


def _parse_text(text: str) -> list[str]:
    return [_parse_line(line) for line in text.rstrip().splitlines()]


def _parse_line(line: str) -> str:
    first = line.split(maxsplit=1)[0] if line.strip() else ""
    return first if ilsvrc.is_wnid(first) else line.partition("\t")[0].strip()


def _parse_json_list(text: str) -> list[str]:
    """Our list of ``index`` and ``wnid``, a plain list of names, or a map of index to name or of name to index."""
    value = parse_json(text)
    if isinstance(value, dict):
        if len(json.loads(text, object_pairs_hook=list)) > len(value):
            raise ValueError("it has a key twice")
        return _in_order(_by_index(value))
    if not isinstance(value, list):
        raise ValueError("the JSON is no list and no map")
    if all(isinstance(item, str) for item in value):
        return [item.strip() for item in value]
    return _in_order([(int(item["index"]), str(item["wnid"])) for item in value])


def _by_index(names: dict[str, Any]) -> list[tuple[int, str]]:
    """Pairs of index and name, of ``{"0": "cat"}`` as Hugging Face or of ``{"cat": 0}`` as torchvision writes them.

    Raises ValueError for any other map, and for one of numbers as text, which may be read both ways.
    """
    keys_are_numbers = all(map(_is_index, names))
    if all(type(value) is int for value in names.values()):
        return [(index, name.strip()) for name, index in names.items()]
    if not all(isinstance(value, str) for value in names.values()) or not keys_are_numbers:
        raise ValueError('a map must be like {"0": "cat"} or {"cat": 0}')
    if all(map(_is_index, names.values())) and any(names.get(value) != key for key, value in names.items()):
        raise ValueError('it maps numbers to numbers as text; write {"NAME": INDEX}, the index without quotes')
    return [(int(key), value.strip()) for key, value in names.items()]


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 8


def _in_order(pairs: Sequence[tuple[int, str]]) -> list[str]:
    """Names by index. Raises ValueError unless the indexes are 0, 1, 2 … once each."""
    by_index = dict(pairs)
    if len(by_index) < len(pairs) or sorted(by_index) != list(range(len(pairs))):
        raise ValueError("the indexes are not 0, 1, 2 … once each")
    return [by_index[index] for index in range(len(pairs))]
