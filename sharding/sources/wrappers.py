"""Step over folders that hold nothing but one folder, to what is recognized by the names beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alexstream.sharding.sources.files import FolderItem, is_image_name, is_system, list_items
from alexstream.sharding.sources.folder import TABLE_EXTENSIONS, loose_file_reason
from alexstream.sharding.sources.split_words import split_of_word
from alexstream.sharding.sources.types import DetectedSource, Entry, Excluded, map_listing, with_left_out

_MAX_WRAPPERS = 4  # folders around each other that are stepped over


def step_over_folders(root: Path, listed: Sequence[FolderItem]) -> tuple[tuple[str, ...], Sequence[FolderItem]]:
    """Return the path of the first folder that holds more than one folder and texts, and its contents.

    ``listed`` are the contents of ``root``, whose path is (). Folders named for a split are not stepped over.
    """
    path = tuple[str, ...]()
    while len(path) < _MAX_WRAPPERS:
        folders = [item for item in listed if item.is_dir and not is_system(item.name)]
        if len(folders) != 1 or any(map(_may_concern_images, listed)):
            break
        if folders[0].is_link or split_of_word(folders[0].name):
            break
        path = (*path, folders[0].name)
        listed = list_items(root.joinpath(*path))
    return path, listed


def _may_concern_images(item: FolderItem) -> bool:
    """Return whether a file may be an image or hold some, or be a table of images in the folder beside it."""
    name = item.name.lower()
    is_table = name.endswith(TABLE_EXTENSIONS) and not name.startswith(("readme", "license"))
    return not item.is_dir and (is_table or is_image_name(name) or name.endswith((".tar", ".parquet")))


def move_below(found: DetectedSource, root: Path, path: Sequence[str]) -> DetectedSource:
    """Return what was detected in the folder ``path`` as part of the source ``root``: all paths relative to that."""
    if not path:
        return found
    folder = "/".join(path)

    def move_entry(entry: Entry) -> Entry:
        return entry._replace(path=f"{folder}/{entry.path}", container=f"{folder}/{entry.container}")

    def move_row(inside: str, reason: str) -> Excluded:
        return [(f"{folder}/{inside}", reason)]

    splits = {name: map_listing(make, move_entry, move_row) for name, make in found.splits.items()}
    moved = replace(found, description=f"{found.description}, in {folder}/", splits=splits)
    if compared := found.compared:
        ways = tuple((*path, *way) for way in compared.ways or ((),))
        moved = replace(moved, compared=replace(compared, ways=ways))
    return with_left_out(moved, _list_above(root, path), [])


def _list_above(root: Path, path: Sequence[str]) -> Excluded:
    """List with reasons the files beside the folders that are stepped over."""
    left: Excluded = []
    for depth in range(len(path)):
        above = "".join(f"{part}/" for part in path[:depth])
        items = list_items(root / above if above else root)
        left += [(f"{above}{i.name}", loose_file_reason(i)) for i in items if not i.is_dir or is_system(i.name)]
    return left
