"""Class-per-folder sources, alone or as a collection of splits: ``train/<class>/…``, ``val/<class>/…``.

Only names are looked at here; whether a file is an image is decided by its content, in ``image``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sharding.errors import SourceError
from sharding.listing import Entry, Found
from sharding.sources import ilsvrc
from sharding.sources.devkit import Devkit
from sharding.sources.form import SPLIT_NAMES
from sharding.sources.place import Item, is_system, items, walk


def split_folders(root: Path, listed: Sequence[Item], beside: Sequence[str] = ()) -> dict[str, str]:
    """The splits a folder holds and the names they have there: ``{"train": "train", "val": "validation"}``.

    A folder is a collection of splits when it contains a ``train`` that has something other than loose files in it:
    a class called "train" does not make one. ``beside`` names what may stand beside them (the devkit). Raises
    SourceError if other folders do: as classes they would be wrong, and leaving them out would lose them.
    """
    folders = [item.name for item in listed if item.is_dir and not is_system(item.name)]
    if "train" not in folders or not _is_split(root / "train"):
        return {}
    named = {name: SPLIT_NAMES.get(name) for name in folders if name not in beside}
    found = [split for split in named.values() if split is not None]
    if None in named.values() or len(set(found)) < len(found):
        raise SourceError(
            f"{root}: holds train/ with class folders, and beside it {', '.join(sorted(set(named) - {'train'}))}; "
            f"expected only train, val and test, each once: move the others away, or shard {root / 'train'} alone"
        )
    return {split: name for name, split in named.items() if split is not None}


def _is_split(folder: Path) -> bool:
    return any(item.is_dir or item.name.lower().endswith((".tar", ".parquet")) for item in items(folder))


def class_folders(folder: Path, prefix: str, split: str, devkit: Devkit | None = None) -> Found:
    """The images of the class folders in ``folder``, whose path below the source is ``prefix`` ("" for itself)."""
    excluded: list[tuple[str, str]] = []
    notices: list[str] = []
    listed = items(folder)
    classes = [item.name for item in listed if item.is_dir and not is_system(item.name)]
    start = f"{prefix}/" if prefix else ""
    for item in listed:
        if item.name not in classes:
            reason = "system file" if is_system(item.name) else "not inside a class folder"
            excluded.append((start + item.name, reason))
    entries = _entries(folder, start, classes, excluded)
    return Found(
        entries=ilsvrc.watched(entries, split, notices),
        classes=_order(classes),
        excluded=excluded,
        ilsvrc2012_ids=devkit.ids if devkit else {},
        class_names=devkit.names if devkit else {},
        notices=notices,
    )


def _order(classes: Sequence[str]) -> tuple[str, ...] | None:
    """Sorted, numbers as numbers, so that a class whose folder is empty keeps its label."""
    numbers = all(name.isascii() and name.isdigit() for name in classes)
    return tuple(sorted(classes, key=lambda name: (int(name) if numbers else 0, name))) or None


def _entries(folder: Path, start: str, classes: Sequence[str], excluded: list[tuple[str, str]]) -> Iterator[Entry]:
    for wnid in classes:
        for name in walk(folder / wnid, wnid):
            path = start + name
            if is_system(name.rpartition("/")[2]):
                excluded.append((path, "system file"))
            else:
                yield Entry(wnid, name, path, path)
