"""Detect Kaggle's ``imagenet-object-localization-challenge``: ``ILSVRC/Data/CLS-LOC`` and two tables beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.core.text import quote_value
from alexstream.sharding.sources.files import (
    TEST_IMAGES,
    files_below,
    is_system,
    list_items,
    read_small_file,
    test_notice,
)
from alexstream.sharding.sources.folder import list_class_folders
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.devkit import ValLabels
from alexstream.sharding.sources.imagenet.flat_val import has_flat_val_images, list_flat_folder
from alexstream.sharding.sources.types import DetectedSource, ListingLog, SourceSplit, SplitLister

_MAPPING, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_INNER_FOLDERS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")


def detect_kaggle(root: Path) -> DetectedSource | None:
    """Detect Kaggle's layout in ``root``: the folder that holds ILSVRC, ILSVRC itself, or Data/CLS-LOC; else None.

    Raises SourceError if validation images are there and their table is not.
    """
    inner = next((path for path in _INNER_FOLDERS if (root / path / "train").is_dir()), None)
    data = root / inner if inner else root
    tables = _find_table_folder(root, data)
    if inner is None and (tables is None or not (root / "train").is_dir()):
        return None
    prefix = f"{inner}/" if inner else ""
    names = load_class_names(tables) if tables else {}
    splits: dict[str, SplitLister] = {"train": partial(_list_train, root, data, prefix, names)}
    if (data / "val").is_dir() and has_flat_val_images(data / "val"):
        truth = load_kaggle_labels(tables) if tables else None
        if truth is None:
            raise SourceError(
                f"{data / 'val'}: images without labels, and {_SOLUTION} is not beside ILSVRC/; fetch it from Kaggle "
                f"(imagenet-object-localization-challenge) and put it into {root}"
            )
        splits["val"] = partial(list_flat_folder, data / "val", f"{prefix}val", truth)
    elif (data / "val").is_dir():
        splits["val"] = partial(list_class_folders, data / "val", f"{prefix}val", "val", None, 1)
    says = f"imagenet: Kaggle's layout ({prefix}{{{','.join(splits)}}}, labels of val from {_SOLUTION})"
    return DetectedSource(kind="kaggle", description=says, splits=splits)


def load_kaggle_labels(folder: Path) -> ValLabels | None:
    """Load the labels of the validation images from the tables in ``folder``; None without the tables."""
    if not (folder / _SOLUTION).is_file():
        return None
    return ValLabels(where=_SOLUTION, by_stem=_load_solution(folder / _SOLUTION), names=load_class_names(folder))


def _find_table_folder(root: Path, data: Path) -> Path | None:
    """Return the folder of the tables: the source, or one above CLS-LOC, where Kaggle puts them; else None."""
    above = list(data.absolute().parents)[:3] if data.name == "CLS-LOC" else []
    around = dict.fromkeys([root, data, *above])
    return next((path for path in around if any((path / name).is_file() for name in (_MAPPING, _SOLUTION))), None)


def load_class_names(tables: Path) -> dict[str, str]:
    """Load class names by wnid, one ``n01440764 tench, Tinca tinca`` a line; empty without the table."""
    if not (tables / _MAPPING).is_file():
        return {}
    lines = read_small_file(tables / _MAPPING).decode("utf-8", "replace").splitlines()
    pairs = (line.strip().partition(" ") for line in lines if line.strip())
    return {wnid: name.strip() for wnid, _, name in pairs if ilsvrc.is_wnid(wnid)}


def _iter_rows(path: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(read_small_file(path).decode("utf-8", "replace")))
    except csv.Error as error:
        raise SourceError(f"{path}: not a CSV table ({error}); fetch it again") from error


def _load_solution(path: Path) -> dict[str, str]:
    """Load image name → wnid; a row is ``ILSVRC2012_val_00048981,n03995372 85 1 499 272 …``, of one class only."""
    labels: dict[str, str] = {}
    for number, row in enumerate(_iter_rows(path), 1):
        if not row or row[0] == "ImageId":
            continue
        classes = {word for word in " ".join(row[1:]).split() if ilsvrc.is_wnid(word)}
        if len(classes) != 1 or row[0] in labels:
            raise SourceError(
                f"{path}: line {number} ({quote_value(row[0])}) names {len(classes)} classes or a name that came "
                "before; expected one class and its boxes: fetch the table again"
            )
        labels[row[0]] = classes.pop()
    if not labels:
        raise SourceError(f"{path}: holds no labels; fetch the table again")
    return labels


def _list_train(root: Path, data: Path, prefix: str, names: dict[str, str], log: ListingLog) -> SourceSplit:
    found = list_class_folders(data / "train", f"{prefix}train", "train", None, 1, log)
    _list_others(root, prefix.rstrip("/"), log)
    return replace(found, class_names=names)


def _list_others(root: Path, inner: str, log: ListingLog) -> None:
    """Record everything beside train and val with a reason, and notices about it.

    Test images one by one; other folders as one entry each: annotations alone are 600,000 files.
    """
    steps = [part for part in inner.split("/") if part]
    for depth in range(len(steps) + 1):
        folder, last = "/".join(steps[:depth]), depth == len(steps)
        taken = {"train", "val"} if last else {steps[depth]}
        for item in list_items(root / folder if folder else root):
            path = f"{folder}/{item.name}".lstrip("/")
            if item.name in taken and item.is_dir:
                continue
            if item.is_dir and last and item.name == "test":
                inside = files_below(root / path, path, TEST_IMAGES)
                log.extend(inside, [test_notice(path, inside)])
            else:
                log.exclude(path, _skip_reason(item.name, item.is_dir))


def _skip_reason(name: str, is_dir: bool) -> str:
    if is_system(name):
        return "system file"
    if name.lower().endswith((".tar", ".gz", ".tgz", ".zip")):
        return "archive beside the folders"
    return "folder of annotations and lists, no images" if is_dir else "table or text, no image"
