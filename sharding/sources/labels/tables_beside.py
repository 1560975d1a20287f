"""Find label tables with the usual names beside flat images: of Kaggle, ImageNet, Tiny ImageNet and Hugging Face.

A table of any other name is not searched for; ``--labels FILE`` names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import (
    FolderItem,
    has_file,
    is_image_name,
    is_system,
    list_items,
    read_small_file,
)
from alexstream.sharding.sources.imagenet.devkit import find_devkit
from alexstream.sharding.sources.imagenet.flat_val import has_flat_val_images
from alexstream.sharding.sources.labels.label_table import is_class_column
from alexstream.sharding.sources.labels.labeled import detect_with_tables, split_of_table
from alexstream.sharding.sources.readings import is_image_folder_name
from alexstream.sharding.sources.split_words import split_of_word
from alexstream.sharding.sources.types import DetectedSource

_TABLE_NAMES = frozenset(
    f"{name}.{extension}"
    for extension in ("csv", "tsv", "jsonl", "txt")
    for name in ("labels", "train", "val", "trainlabels", "vallabels", "metadata", "valannotations")
) | {"locvalsolution.csv", "loctrainsolution.csv"}

_TEST_TABLE_NAMES = frozenset({"test.csv", "test.tsv", "testlabels.csv", "test.txt", "testlabels.txt"})


def detect_tables_beside(
    root: Path, listed: Sequence[FolderItem], classes: Sequence[str] | None = None, split: str = ""
) -> DetectedSource | None:
    """Detect flat images with a table of labels beside them; None without flat images or a known table.

    ``classes`` and ``split`` are those of ``labelled``. Raises SourceError where several tables may be meant, or where
    images and table do not match.
    """
    splits = [root / item.name for item in listed if item.is_dir and split_of_word(item.name)]
    flat = [folder for folder in (root, *splits) if _has_flat_images(folder)]
    tables = [folder / name for folder in dict.fromkeys((root, *flat)) for name in _find_tables(folder)]
    if not flat or not tables:
        _refuse_inner_folder(root, listed)
        return None
    if any(map(has_flat_val_images, flat)) and find_devkit(root, listed):
        return None
    told = [split_of_table(root, table) for table in tables]
    if len(tables) > 1 and (None in told or len(set(told)) < len(told)):
        names = ", ".join(table.relative_to(root).as_posix() for table in tables)
        raise SourceError(f"{root}: the labels of its images may stand in {names}; choose one with `labels` FILE")
    return detect_with_tables(root, tables, None, classes, split)


def _refuse_inner_folder(root: Path, listed: Sequence[FolderItem]) -> None:
    """Raise SourceError if the flat images and their table are in a single inner folder."""
    folders = [item.name for item in listed if item.is_dir and not is_system(item.name)]
    if len(folders) != 1 or has_file(root, is_image_name):
        return
    inner = root / folders[0]
    within = list_items(inner)
    splits = [inner / item.name for item in within if item.is_dir and split_of_word(item.name)]
    flat = [folder for folder in (inner, *splits) if _has_flat_images(folder)]
    table = next((folder / name for folder in dict.fromkeys((inner, *flat)) for name in _find_tables(folder)), None)
    if flat and table:
        raise SourceError(
            f"{root}: the images lie flat in {inner}, beside a table ({table.relative_to(root).as_posix()}); give "
            f"`source` {inner}"
        )


def _has_flat_images(folder: Path) -> bool:
    """Return whether a folder holds images and no class folders: directly, or in one folder ``images`` or ``train``."""
    inside = [item.name for item in list_items(folder) if item.is_dir and not is_system(item.name)]
    if has_file(folder, is_image_name):
        return not any(has_file(folder / name, is_image_name) for name in inside)
    of_images = [name for name in inside if is_image_folder_name(name) or split_of_word(name)]
    return len(of_images) == 1 and has_file(folder / of_images[0], is_image_name)


def _find_tables(folder: Path) -> list[str]:
    names = [item.name for item in list_items(folder) if not item.is_dir]
    known = [
        name
        for name in names
        if _normalize_name(name) in _TABLE_NAMES and (name[-4:] != ".txt" or _has_two_columns(folder / name))
    ]
    return known + [
        name for name in names if _normalize_name(name) in _TEST_TABLE_NAMES and _has_class_column(folder / name)
    ]


def _has_class_column(path: Path) -> bool:
    """Return whether a table of test images has a column of classes: most have none, or 0 in all rows."""
    if path.name.lower().endswith(".txt"):
        rows = [line.split() for line in read_small_file(path).splitlines() if line.strip()]
        return _has_two_columns(path) and len({row[-1] for row in rows}) > 1
    header = read_small_file(path)[:4096].decode("utf-8", "replace").partition("\n")[0]
    return any(
        is_class_column(cell) for cell in header.strip("\ufeff\r").replace("\t", ",").replace(";", ",").split(",")
    )


def _normalize_name(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _has_two_columns(path: Path) -> bool:
    """Return whether the first line of a text has two words: a list of names alone is no table of labels."""
    return len(read_small_file(path)[:4096].partition(b"\n")[0].split()) > 1
