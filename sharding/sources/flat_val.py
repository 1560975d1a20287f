"""Validation images that lie flat, in a folder or in a tar, and get their classes from a ``Truth``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sharding.errors import SourceError
from sharding.listing import WHOLE_FILE, Entry, Found
from sharding.sources import ilsvrc
from sharding.sources.devkit import Truth
from sharding.sources.place import has_system_part, is_system, items, open_ranges, walk
from sharding.sources.tar_walk import walk_tar


class _Image(NamedTuple):
    name: str
    path: str
    container: str
    offset: int
    size: int


def looks_flat(folder: Path) -> bool:
    """Whether a folder holds validation images themselves instead of class folders."""
    return any(ilsvrc.val_number(item.name) is not None for item in items(folder) if not item.is_dir)


def flat_folder(folder: Path, prefix: str, truth: Truth) -> Found:
    """The validation images in ``folder``, whose path below the source is ``prefix`` ("" for the source itself)."""
    excluded: list[tuple[str, str]] = []
    return _found(_in_folder(folder, prefix, excluded), truth, excluded, prefix or folder.name)


def flat_tar(path: Path, container: str, truth: Truth) -> Found:
    """The validation images in a tar, in the order of their names: the ground truth counts so, the tar need not."""
    excluded: list[tuple[str, str]] = []
    return _found(_in_tar(path, container, excluded), truth, excluded, container)


def _in_folder(folder: Path, prefix: str, excluded: list[tuple[str, str]]) -> Iterator[_Image]:
    for item in items(folder):
        path = f"{prefix}/{item.name}" if prefix else item.name
        below = walk(folder / item.name, path) if item.is_dir and not is_system(item.name) else [path]
        for file in below:
            name = file.rpartition("/")[2]
            if is_system(name):
                excluded.append((file, "system file"))
            elif ilsvrc.val_number(name) is None:
                excluded.append((file, "not named as a validation image"))
            else:
                yield _Image(name, file, file, WHOLE_FILE, 0)


def _in_tar(path: Path, container: str, excluded: list[tuple[str, str]]) -> Iterator[_Image]:
    with open_ranges(path) as file:
        for member in walk_tar(file, container):
            inside, name = f"{container}/{member.name}", member.name.rpartition("/")[2]
            if member.reason or has_system_part(member.name):
                excluded.append((inside, member.reason or "system file"))
            elif ilsvrc.val_number(name) is None:
                excluded.append((inside, "not named as a validation image"))
            else:
                yield _Image(name, inside, container, member.offset, member.size)


def _found(images: Iterator[_Image], truth: Truth, excluded: list[tuple[str, str]], where: str) -> Found:
    notices: list[str] = []
    entries = _labelled(images, truth, excluded, notices, where)
    return Found(
        entries=ilsvrc.watched(entries, "val", notices),
        excluded=excluded,
        ilsvrc2012_ids=truth.ids,
        class_names=truth.names,
        notices=notices,
    )


def _labelled(
    images: Iterator[_Image], truth: Truth, excluded: list[tuple[str, str]], notices: list[str], where: str
) -> Iterator[Entry]:
    ordered = sorted(images)
    twice = [name for name, count in Counter(image.name for image in ordered).items() if count > 1]
    if twice:
        raise SourceError(f"{where}: {twice[0]!r} is in it twice ({len(twice)} such); remove what is too many")
    if any(image.name.startswith("ILSVRC2010") for image in ordered):
        raise SourceError(f"{where}: images of ILSVRC-2010, to which the labels of ILSVRC2012 do not belong")
    wnids, said = truth.of([image.name for image in ordered], where)
    notices.extend(said)
    for image, wnid in zip(ordered, wnids, strict=True):
        if wnid is None:
            excluded.append((image.path, f"no label in {truth.where}"))
        else:
            yield Entry(wnid, f"{wnid}/{image.name}", image.path, image.container, image.offset, image.size)
    missing = len(truth.by_stem) - (len(wnids) - wnids.count(None)) if truth.by_stem else 0
    if missing:
        notices.append(f"{where}: {missing:,} images that {truth.where} names are not there")
    unlabelled = wnids.count(None)
    if unlabelled:
        notices.append(f"{where}: {unlabelled:,} images are not in {truth.where} and were excluded")
