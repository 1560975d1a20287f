"""Detect and list flat validation images, in a folder or a tar, with their classes from a ``ValLabels``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of, quote_value
from alexstream.sharding.sources.files import (
    LinkFollower,
    has_system_part,
    is_system,
    list_items,
    open_range_file,
    walk_files,
)
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.devkit import ValLabels
from alexstream.sharding.sources.tars.nested import InnerTars, iter_nested_members
from alexstream.sharding.sources.tars.walk import walk_tar
from alexstream.sharding.sources.types import WHOLE_FILE, Entry, ListingLog, SourceSplit


class _ValImage(NamedTuple):
    name: str
    path: str
    container: str
    offset: int
    size: int


def has_flat_val_images(folder: Path) -> bool:
    """Return whether a folder directly contains validation images, instead of class folders."""
    return any(ilsvrc.val_number(item.name) is not None for item in list_items(folder) if not item.is_dir)


def list_flat_folder(folder: Path, prefix: str, truth: ValLabels, log: ListingLog) -> SourceSplit:
    """List the validation images in ``folder``; ``prefix`` is its path relative to the source, or ""."""
    return _make_split(_iter_folder_images(folder, prefix, log), truth, prefix or folder.name, log)


def list_flat_tar(
    path: Path, container: str, truth: ValLabels, log: ListingLog, within: Callable[[str], bool] = lambda name: True
) -> SourceSplit:
    """List the validation images in a tar, sorted by name: the ground truth has that order, the tar may not.

    ``within`` selects members by name; the others belong to other splits and are not reported.
    """
    return _make_split(_iter_tar_images(path, container, log, within), truth, container, log)


def _iter_folder_images(folder: Path, prefix: str, log: ListingLog) -> Iterator[_ValImage]:
    links = LinkFollower()
    for item in list_items(folder):
        path = f"{prefix}/{item.name}" if prefix else item.name
        below = iter([(path, "system file" if is_system(item.name) else "")])
        if item.is_dir and not is_system(item.name):
            links.enter(folder / item.name, path)
            below = walk_files(folder / item.name, path, links)
        for file, reason in below:
            name = file.rpartition("/")[2]
            if reason:
                log.exclude(file, reason)
            elif ilsvrc.val_number(name) is None:
                log.exclude(file, "not named as a validation image")
            else:
                yield _ValImage(name, file, file, WHOLE_FILE, 0)


def _iter_tar_images(path: Path, container: str, log: ListingLog, within: Callable[[str], bool]) -> Iterator[_ValImage]:
    with open_range_file(path) as file:
        members = iter_nested_members(file, container, InnerTars(), walk_tar)
        for member in filter(lambda member: within(member.name), members):
            inside, name = f"{container}/{member.name}", member.name.rpartition("/")[2]
            if member.reason or has_system_part(member.name):
                log.exclude(inside, member.reason or "system file")
            elif ilsvrc.val_number(name) is None:
                log.exclude(inside, "not named as a validation image")
            else:
                yield _ValImage(name, inside, container, member.offset, member.size)


def _make_split(images: Iterator[_ValImage], truth: ValLabels, where: str, log: ListingLog) -> SourceSplit:
    return SourceSplit(
        entries=ilsvrc.check_counts(_iter_labeled(images, truth, where, log), "val", log),
        ilsvrc2012_ids=truth.ids,
        class_names=truth.names,
    )


def _iter_labeled(images: Iterator[_ValImage], truth: ValLabels, where: str, log: ListingLog) -> Iterator[Entry]:
    ordered = sorted(images)
    twice = [name for name, count in Counter(image.name for image in ordered).items() if count > 1]
    if twice:
        raise SourceError(
            f"{where}: {quote_value(twice[0])} is in it twice ({len(twice)} such); remove what is too many"
        )
    if any(image.name.startswith("ILSVRC2010") for image in ordered):
        raise SourceError(f"{where}: images of ILSVRC-2010, to which the labels of ILSVRC2012 do not belong")
    wnids, said = truth.labels_for([image.name for image in ordered], where)
    log.notices.extend(said)
    for image, wnid in zip(ordered, wnids, strict=True):
        if wnid is None:
            log.exclude(image.path, f"no label in {truth.where}")
        else:
            yield Entry(wnid, f"{wnid}/{image.name}", image.path, image.container, image.offset, image.size)
    missing = len(truth.by_stem) - (len(wnids) - wnids.count(None)) if truth.by_stem else 0
    if missing:
        log.notices.append(f"{where}: {count_of(missing, 'image')} of {truth.where} not there")
    unlabelled = wnids.count(None)
    if unlabelled:
        log.notices.append(f"{where}: {count_of(unlabelled, 'image')} not in {truth.where}, and excluded")
