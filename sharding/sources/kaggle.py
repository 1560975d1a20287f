"""Kaggle's ``imagenet-object-localization-challenge``: ``ILSVRC/Data/CLS-LOC`` and two tables beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from sharding.errors import SourceError
from sharding.listing import Found
from sharding.sources import ilsvrc
from sharding.sources.devkit import Truth
from sharding.sources.flat_val import flat_folder, looks_flat
from sharding.sources.folder import class_folders
from sharding.sources.form import Recognised
from sharding.sources.place import is_system, items, read_all

_MAPPING, _SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
_INNER = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")


def kaggle(root: Path) -> Recognised | None:
    """Kaggle's layout in ``root``: the folder that holds ILSVRC, ILSVRC itself, or Data/CLS-LOC; None if it is none.

    Raises SourceError if validation images are there and their table is not.
    """
    inner = next((path for path in _INNER if (root / path / "train").is_dir()), None)
    data = root / inner if inner else root
    tables = _table_folder(root, data)
    if inner is None and (tables is None or not (root / "train").is_dir()):
        return None
    prefix = f"{inner}/" if inner else ""
    names = _class_names(tables) if tables else {}
    splits: dict[str, Callable[[], Found]] = {"train": partial(_train, root, data, prefix, names)}
    if (data / "val").is_dir() and looks_flat(data / "val"):
        if tables is None or not (tables / _SOLUTION).is_file():
            raise SourceError(
                f"{data / 'val'}: images without labels, and {_SOLUTION} is not beside ILSVRC/; fetch it from Kaggle "
                f"(imagenet-object-localization-challenge) and put it into {root}"
            )
        truth = Truth(where=_SOLUTION, by_stem=_solution(tables / _SOLUTION), names=names)
        splits["val"] = partial(flat_folder, data / "val", f"{prefix}val", truth)
    elif (data / "val").is_dir():
        splits["val"] = partial(class_folders, data / "val", f"{prefix}val", "val")
    says = f"imagenet: Kaggle's layout ({prefix}{{{','.join(splits)}}}, labels of val from {_SOLUTION})"
    return Recognised(kind="kaggle", says=says, splits=splits)


def _table_folder(root: Path, data: Path) -> Path | None:
    """Where the tables are: in the source, or above CLS-LOC, where Kaggle puts them."""
    above = list(data.absolute().parents)[:3] if data.name == "CLS-LOC" else []
    around = dict.fromkeys([root, data, *above])
    return next((path for path in around if any((path / name).is_file() for name in (_MAPPING, _SOLUTION))), None)


def _class_names(tables: Path) -> dict[str, str]:
    """``n01440764 tench, Tinca tinca`` a line."""
    if not (tables / _MAPPING).is_file():
        return {}
    lines = read_all(tables / _MAPPING).decode("utf-8", "replace").splitlines()
    pairs = (line.strip().partition(" ") for line in lines if line.strip())
    return {wnid: name.strip() for wnid, _, name in pairs if ilsvrc.is_wnid(wnid)}


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(io.StringIO(read_all(path).decode("utf-8", "replace")))
    except csv.Error as error:
        raise SourceError(f"{path}: no table ({error}); fetch it again") from error


def _solution(path: Path) -> dict[str, str]:
    """Image name to wnid; a row is ``ILSVRC2012_val_00048981,n03995372 85 1 499 272 …``, of one class only."""
    labels: dict[str, str] = {}
    for number, row in enumerate(_rows(path), 1):
        if not row or row[0] == "ImageId":
            continue
        classes = {word for word in " ".join(row[1:]).split() if ilsvrc.is_wnid(word)}
        if len(classes) != 1 or row[0] in labels:
            raise SourceError(
                f"{path}: line {number} ({row[0]!r}) names {len(classes)} classes or a name that came before; expected "
                "one class and its boxes: fetch the table again"
            )
        labels[row[0]] = classes.pop()
    if not labels:
        raise SourceError(f"{path}: holds no labels; fetch the table again")
    return labels


def _train(root: Path, data: Path, prefix: str, names: dict[str, str]) -> Found:
    found = replace(class_folders(data / "train", f"{prefix}train", "train"), class_names=names)
    for path, reason, notice in _others(root, prefix.rstrip("/")):
        found.excluded.append((path, reason))
        found.notices.extend(notice)
    return found


def _others(root: Path, inner: str) -> list[tuple[str, str, list[str]]]:
    """Everything of the source beside train and val, folders as one: annotations alone are 600,000 files."""
    steps = [part for part in inner.split("/") if part]
    others: list[tuple[str, str, list[str]]] = []
    for depth in range(len(steps) + 1):
        folder, last = "/".join(steps[:depth]), depth == len(steps)
        taken = {"train", "val"} if last else {steps[depth]}
        for item in items(root / folder if folder else root):
            path = f"{folder}/{item.name}".lstrip("/")
            if item.name in taken and item.is_dir:
                continue
            if item.is_dir and last and item.name == "test":
                count = len(items(root / path))
                notice = [f"{path}: {count:,} test images, which have no labels, were left out"]
                others.append((path, f"test images, which have no labels ({count:,} files)", notice))
            else:
                others.append((path, _reason(item.name, item.is_dir), []))
    return others


def _reason(name: str, is_dir: bool) -> str:
    if is_system(name):
        return "system file"
    return "folder of annotations and lists, no images" if is_dir else "table or text, no image"
