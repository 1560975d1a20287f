"""List class folders on a disk or in a bucket: ``<class>/…``, ``train/<class>/…``, or deeper.

Only names are examined here; whether a file is an image is decided from its content, in ``image``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from alexstream.core.errors import DatasetError
from alexstream.core.text import count_of
from alexstream.sharding.dataset_v1.layout import MANIFEST, is_dataset
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.sources.files import (
    LOOP,
    FolderItem,
    LinkFollower,
    has_file,
    is_image_name,
    is_system,
    list_items,
    listing_error,
    may_be_image,
    read_small_file,
    resolve_link,
    walk_files,
)
from alexstream.sharding.sources.folder_tree import LAST_LEVEL, FolderTree
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.devkit import Devkit
from alexstream.sharding.sources.split_words import InnerSplits
from alexstream.sharding.sources.structure import SplitFolder
from alexstream.sharding.sources.tars.nested import count_tar_images
from alexstream.sharding.sources.types import Entry, ListingLog, SourceSplit

OUTSIDE_CLASSES = "not inside a class folder"
FOLDER_OF_TARS = "folder of tars, no images"
TABLE_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".txt", ".json")


class DiskTree(FolderTree):
    """A folder on a disk or in a bucket, listed lazily."""

    def __init__(self, path: Path, chain: tuple[str, ...] = ()) -> None:
        """Store the path, and in ``chain`` the real paths of the linked folders that led to it."""
        self.path, self._chain = path, chain

    @property
    def folders(self) -> Mapping[str, FolderTree]:
        """Subfolders by name, without links that lead back to a folder above, and data sets of this program."""
        return self._sorted[0]

    @property
    def skipped(self) -> Mapping[str, str]:
        """The other subfolders: name and reason."""
        return self._sorted[1]

    @cached_property
    def _sorted(self) -> tuple[dict[str, FolderTree], dict[str, str]]:
        found: dict[str, FolderTree] = {}
        skipped: dict[str, str] = {}
        for item in list_items(self.path):
            if item.is_dir and not is_system(item.name):
                path = self.path / item.name
                target = resolve_link(path, self._chain) if item.is_link else ""
                if target is None:
                    skipped[item.name] = "link to a folder that holds it"
                elif is_dataset_folder(path):
                    skipped[item.name] = _dataset_reason(path)
                else:
                    found[item.name] = DiskTree(path, (*self._chain, target) if target else self._chain)
        return found, skipped

    @cached_property
    def has_images(self) -> bool:
        """True if it contains images directly; beside folders of images, only with an image's extension."""
        return has_file(self.path, is_image_name) or (has_file(self.path, may_be_image) and not self.data_folders)

    @cached_property
    def tables(self) -> Sequence[str]:
        """Names of the tables in it, which may hold labels."""
        return [i.name for i in list_items(self.path) if not i.is_dir and i.name.lower().endswith(TABLE_EXTENSIONS)]

    @cached_property
    def is_empty(self) -> bool:
        """True if it contains no file at any depth."""
        files = any(not item.is_dir and not is_system(item.name) for item in list_items(self.path))
        return not files and not self.skipped and all(folder.is_empty for folder in self.folders.values())

    @cached_property
    def has_tars(self) -> bool:
        """True if it contains tars directly."""
        return any(not item.is_dir and item.name.lower().endswith(".tar") for item in list_items(self.path))


def is_dataset_folder(folder: Path) -> bool:
    """Return whether a folder is a data set of this program, by a manifest that says so.

    Raises SourceError if the folder or the manifest cannot be read.
    """
    try:
        if not is_dataset(folder):
            return False
    except OSError as error:
        raise listing_error(folder, error) from error
    return b'"alexstream-dataset/' in read_small_file(folder / MANIFEST)


def _dataset_reason(folder: Path) -> str:
    """Return why a data set of this program is no class, with the number of its images."""
    try:
        return f"data set of this program ({count_of(load_manifest(folder).counts.written, 'file')})"
    except DatasetError:
        return "data set of this program, damaged"


def list_class_folders(
    folder: Path, prefix: str, split: str, devkit: Devkit | None, level: int, log: ListingLog
) -> SourceSplit:
    """List the images of the class folders in ``folder``; ``prefix`` is its path relative to the source.

    ``level``: 1 for class folders directly in ``folder``, LAST for the folders that contain the images.
    """
    return _make_split(list(_iter_class_folders(folder, prefix, level, log)), level, split, devkit, log)


def list_split_folder(
    root: Path, branch: SplitFolder, split: str, devkit: Devkit | None, log: ListingLog
) -> SourceSplit:
    """List the images of a split's class folders in the source ``root``."""
    places = [(root.joinpath(*path), "/".join(path), level) for path, level in branch.list_folders()]
    classes = [found for place in places for found in _iter_class_folders(*place, log)]
    return replace(_make_split(classes, branch.level, split, devkit, log), readings=branch.readings)


def _make_split(
    classes: Sequence[_ClassFolder], level: int, split: str, devkit: Devkit | None, log: ListingLog
) -> SourceSplit:
    return SourceSplit(
        entries=ilsvrc.check_counts(_iter_entries(classes, level, split, log), split, log),
        classes=_sort_classes({found.name for found in classes}),
        ilsvrc2012_ids=devkit.ids if devkit else {},
        class_names=devkit.names if devkit else {},
    )


class _ClassFolder(NamedTuple):
    name: str
    folder: Path
    path: str


def _iter_class_folders(
    folder: Path, prefix: str, level: int, log: ListingLog, *, is_class: bool = False
) -> Iterator[_ClassFolder]:
    """Yield the class folders in ``folder``; the same class may occur more than once.

    ``prefix`` is its path relative to the source. ``level``: 1 for class folders directly in it, LAST for the folders
    that contain the images.

    Files above the class folders are recorded in ``log``, except in a folder that is itself a class.
    """
    tree = DiskTree(folder)
    for item in list_items(folder):
        path = f"{prefix}/{item.name}" if prefix else item.name
        inner = tree.folders.get(item.name)
        found = _ClassFolder(item.name, folder / item.name, path)
        if not item.is_dir or is_system(item.name):
            if not is_class:
                log.exclude(path, loose_file_reason(item))
        elif inner is None:
            log.exclude(path, tree.skipped[item.name])
        elif not inner.has_images_below and not inner.is_empty:
            log.exclude(path, FOLDER_OF_TARS if inner.has_data_below else "folder without images")
        elif level == LAST_LEVEL:
            if inner.has_images:
                yield found
            yield from _iter_class_folders(found.folder, path, LAST_LEVEL, log, is_class=inner.has_images)
        elif level > 1:
            yield from _iter_class_folders(found.folder, path, level - 1, log)
        else:
            yield found


def loose_file_reason(item: FolderItem) -> str:
    """Return why a file or system folder beside the class folders is left out."""
    if is_system(item.name):
        return "system file"
    return LOOP if item.is_loop else OUTSIDE_CLASSES


def _sort_classes(classes: Iterable[str]) -> tuple[str, ...] | None:
    """Return the classes sorted, by value if all are numbers; a class with an empty folder keeps its label."""
    numbers = all(name.isascii() and name.isdigit() for name in classes)
    return tuple(sorted(classes, key=lambda name: (int(name) if numbers else 0, name))) or None


def _iter_entries(classes: Sequence[_ClassFolder], level: int, split: str, log: ListingLog) -> Iterator[Entry]:
    links, inner = LinkFollower(), InnerSplits(split)
    for wnid, folder, path in classes:
        links.enter(folder, path)
        for file, reason in (
            walk_files(folder, path, links) if level != LAST_LEVEL else _iter_files(folder, path, links)
        ):
            if not reason and file.lower().endswith(".tar"):
                reason = _archive_reason(folder / file[len(path) + 1 :])
                del links.inodes[len(links.inodes) - bool(reason) :]
            if reason:
                log.exclude(file, reason)
            else:
                inner.add(file, len(path))
                yield Entry(wnid, wnid + file[len(path) :], file, file)
    log.notices.extend(links.notices + inner.describe())
    log.inodes = links.inodes


def _archive_reason(path: Path) -> str:
    """Return why a tar in a class folder is left out, with the number of its images; "" if it holds none."""
    count = count_tar_images(path)
    return f"in an archive in a class folder: unpack it ({count_of(count, 'file')})" if count else ""


def _iter_files(folder: Path, path: str, links: LinkFollower) -> Iterator[tuple[str, str]]:
    for item in list_items(folder):
        if is_system(item.name):
            yield f"{path}/{item.name}", "system file"
        elif item.is_loop:
            yield f"{path}/{item.name}", LOOP
        elif not item.is_dir:
            links.inodes.append(item.inode)
            yield f"{path}/{item.name}", ""
