"""Decide about folders of images beside a source of another form: archives, WebDataset tars, Parquet, or a data set.

A folder of a split that the other form lacks is read with it. Otherwise either may be meant, and SourceError lists the
readings with their options; nothing is chosen, and nothing left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of
from alexstream.sharding.sources.compressed import COMPRESSED, check_split_archives, is_compressed
from alexstream.sharding.sources.files import (
    TEST_IMAGES,
    FolderItem,
    LinkFollower,
    files_below,
    is_image_name,
    is_parquet,
    list_items,
    select_files,
    test_notice,
    walk_files,
)
from alexstream.sharding.sources.folder import FOLDER_OF_TARS, OUTSIDE_CLASSES, DiskTree
from alexstream.sharding.sources.folder_tree import TAR_LEVEL, FolderTree
from alexstream.sharding.sources.parquet import count_image_rows
from alexstream.sharding.sources.readings import list_readings
from alexstream.sharding.sources.split_words import splits_of_folders
from alexstream.sharding.sources.structure import LayoutOptions, detect_layout
from alexstream.sharding.sources.tars.nested import count_tar_images
from alexstream.sharding.sources.types import DetectedSource, Entry, Excluded, SplitLister, map_listing, with_left_out

NO_IMAGES = "folder without images"
MakeLister = Callable[[str, str], SplitLister]  # of a split's folder, by the folder's name and the split


@dataclass(slots=True)
class _FoldersBeside:
    """Folders beside a source: of further splits by split, of archives, test images, other images, and the rest."""

    splits: dict[str, str] = field(default_factory=dict)
    archives: dict[str, str] = field(default_factory=dict)  # folders of archives with images: name and reason
    test: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    others: Excluded = field(default_factory=list)


def resolve_folders_beside(
    root: Path,
    found: DetectedSource,
    choice: LayoutOptions,
    make_lister: MakeLister,
    detect_folders: Callable[[], DetectedSource],
    *,
    is_wrapped: bool = False,
) -> DetectedSource:
    """Return ``found`` with the folders beside it (``found.unread``): read, left out, or chosen in its place.

    ``make_lister`` returns the lister of a split's folder; ``detect_folders`` detects the class folders alone, which
    ``--classes-at`` chooses. ``is_wrapped``: ``root`` is a folder in the source. Raises SourceError where either may
    be meant.
    """
    if not found.unread:
        return found
    beside = _sort_folders(root, found)
    if beside.archives and choice.level is None:
        raise _archives_error(root, found, list(beside.archives))
    if beside.unclear and choice.level is None:
        raise _unclear_error(root, found, beside.unclear, f"`source` {root} " if is_wrapped else "")
    if beside.unclear and choice.level != TAR_LEVEL:
        return detect_folders()
    left = [*beside.others, *beside.archives.items()]
    notices = [f"{name}: left out: {why}" for name, why in left]
    for name in beside.test:
        inside = files_below(root / name, name, TEST_IMAGES)
        left += inside
        notices.append(test_notice(f"{name}/", inside))
    for name in beside.unclear:
        left += files_below(root / name, name, "in a folder beside the tars that are classes")
    made = {split: make_lister(name, split) for split, name in beside.splits.items()}
    says = found.description + "".join(f", and {name}/" for name in beside.splits.values())
    return with_left_out(replace(found, description=says, splits={**found.splits, **made}, unread=()), left, notices)


def _sort_folders(root: Path, found: DetectedSource) -> _FoldersBeside:
    told = splits_of_folders(item.name for item in list_items(root) if item.is_dir)
    beside = _FoldersBeside()
    for name in found.unread:
        tree, split = DiskTree(root / name), told.get(name)
        if split == "test" and tree.has_images_below and not any(f.has_images for f in _list_grandchildren(tree)):
            beside.test.append(name)
        elif split and tree.has_data_below and found.tells_splits and split not in {**found.splits, **beside.splits}:
            beside.splits[split] = name
        elif _has_named_images(root / name) or (split and tree.has_data_below):
            beside.unclear.append(name)
        else:
            why = folder_reason(root / name)
            beside.archives.update({name: why} if why != NO_IMAGES else {})
            beside.others += [(name, why)] if why == NO_IMAGES else []
    return beside


def _has_named_images(folder: Path) -> bool:
    """Return whether a folder holds images by their extension, at any depth."""
    links = LinkFollower()
    links.enter(folder, folder.name)
    return any(not reason and is_image_name(path) for path, reason in walk_files(folder, folder.name, links))


def _list_grandchildren(tree: FolderTree) -> Sequence[FolderTree]:
    """Return the class folders of a test split, if it has any: folders beside each other, or in a single one."""
    folders = list(tree.data_folders.values())
    return list(folders[0].data_folders.values()) if len(folders) == 1 else folders


def _unclear_error(root: Path, found: DetectedSource, names: Sequence[str], first: str) -> SourceError:
    """Return the error that lists the folders alone and what lies beside them alone, each with its option.

    ``first`` is an option that goes before the others.
    """
    shown = ", ".join([*(f"{name}/" for name in names[:3]), *(["…"] if len(names) > 3 else [])])
    return SourceError(
        f"{root}: folders of images ({shown}) lie beside {_describe(found)}, "
        "and each may be meant; choose: "
        f"{', '.join([*(first + one for one in _list_folder_readings(root)), *_list_other_reading(root, found)])}; "
        "to read both, bring them into one form"
    )


def _describe(found: DetectedSource) -> str:
    return found.description.removesuffix(", to be sharded again")


def _archives_error(root: Path, found: DetectedSource, names: Sequence[str]) -> SourceError:
    """Return the error for archives or Parquet files with images, ``names`` or folders of them, that are not read."""
    more = f" ({len(names)} such)" if len(names) > 1 else ""
    return SourceError(
        f"{root}: {names[0]}{more} holds images in archives or Parquet files, beside {_describe(found)}, and each "
        f"may be meant; choose: `source` {root}/{names[0]} for that alone, "
        f"{', '.join(_list_other_reading(root, found))}; to read both, bring them into one form"
    )


def check_files_beside(root: Path, listed: Sequence[FolderItem], found: DetectedSource, choice: LayoutOptions) -> None:
    """Raise SourceError for a Parquet file, or a tar beside data sets of ours, with images that are not read.

    Also for a compressed archive that is named for a split that is not there.
    """
    if found.tells_splits and choice.level is None and choice.picked not in found.splits:
        folders = splits_of_folders(item.name for item in listed if item.is_dir).values()
        check_split_archives(root, listed, [*found.splits, *(split for split in folders if split)])
    if found.kind not in ("archives", "webdataset"):
        return
    of_data_sets = bool(found.read) and not found.read[0].endswith(".tar")
    files = select_files(listed, *((".parquet", ".tar") if of_data_sets else (".parquet",)))
    others = [name for name in files if name not in found.read and _count_images_in(root / name)]
    if others:
        raise _archives_error(root, found, others)


def _list_other_reading(root: Path, found: DetectedSource) -> list[str]:
    """Return the option that chooses what lies beside the folders."""
    if not found.read:
        return ["or move the rest away for the data set alone"]
    folder = found.read[0] if len(found.read) == 1 else os.path.commonpath(found.read)
    if folder:
        return [f"`source` {root}/{folder} for that alone"]
    alone = f"`source` {root}/{found.read[0]} for that alone"
    return [alone, f"or move the folders away for all {len(found.read)} files"]


def _list_folder_readings(root: Path) -> list[str]:
    """Return the readings of the folders alone, each with its option."""
    tree = DiskTree(root)
    try:
        found = detect_layout(tree, str(root), LayoutOptions())
    except SourceError:
        return list_readings(tree)
    if "" in found.branches:
        return list_readings(tree)
    depth = len(found.above) + 1
    made = {"/".join(b.path[:depth]): len(b.path) - depth + b.level for b in found.branches.values() if not b.flat}
    return [f"`classes_at` {max(made.values(), default=1)} for the class folders in {'/, '.join(made)}/"]


def count_images_beside(root: Path, folders: DetectedSource) -> DetectedSource:
    """Return the class folders, with a reason and a number of images for each tar and Parquet file beside them."""
    return replace_reasons(folders, lambda path, why: [(path, _explain(root / path, why))])


def _explain(path: Path, reason: str) -> str:
    if reason in (FOLDER_OF_TARS, NO_IMAGES):
        return folder_reason(path)
    if reason != OUTSIDE_CLASSES:
        return reason
    if is_compressed(path.name):
        return COMPRESSED
    kind = "an archive" if path.name.lower().endswith(".tar") else "a Parquet file"
    count = _count_images_in(path)
    return f"in {kind} beside what is read ({count_of(count, 'file')})" if count else reason


def folder_reason(folder: Path) -> str:
    """Return why a folder without image files is left out, with the number of images in the archives in it."""
    links = LinkFollower()
    links.enter(folder, folder.name)
    inside = (folder / path.partition("/")[2] for path, why in walk_files(folder, folder.name, links) if not why)
    count = sum(map(_count_images_in, inside))
    return f"folder of archives beside what is read ({count_of(count, 'file')})" if count else NO_IMAGES


def _count_images_in(path: Path) -> int:
    """Return the number of images in a tar or a Parquet file; 0 for any other file."""
    name = path.name.lower()
    if name.endswith(".tar") and path.is_file():
        return count_tar_images(path)
    return count_image_rows(path) if name.endswith(".parquet") and path.is_file() and is_parquet(path) else 0


def replace_reasons(found: DetectedSource, explain: Callable[[str, str], Excluded]) -> DetectedSource:
    """Return ``found``, whose listers report what ``explain`` makes of each path and reason that is left out."""
    splits = {name: map_listing(make, _keep_entry, explain) for name, make in found.splits.items()}
    return replace(found, splits=splits)


def _keep_entry(entry: Entry) -> Entry:
    return entry
