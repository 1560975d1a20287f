"""Detect the form of a source by its content, describe it in one sentence, and return its splits ready to be listed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of
from alexstream.sharding.sources.beside import (
    NO_IMAGES,
    check_files_beside,
    count_images_beside,
    folder_reason,
    replace_reasons,
    resolve_folders_beside,
)
from alexstream.sharding.sources.compressed import (
    COMPRESSED,
    check_class_archives,
    check_split_archives,
    is_compressed,
)
from alexstream.sharding.sources.files import (
    TEST_IMAGES,
    FolderItem,
    as_path,
    files_below,
    is_gzip,
    is_image_name,
    is_parquet,
    is_system,
    list_items,
    select_files,
    test_notice,
)
from alexstream.sharding.sources.folder import DiskTree, list_split_folder, loose_file_reason
from alexstream.sharding.sources.folder_tree import TAR_LEVEL
from alexstream.sharding.sources.foreign_formats import refuse_foreign, refuse_foreign_file
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.archives import (
    check_class_tars,
    check_tars_beside_folders,
    detect_archives,
    detect_class_tars,
    list_members,
    skip_reason,
    tar_names_hint,
)
from alexstream.sharding.sources.imagenet.devkit import Devkit, ValLabels, find_devkit
from alexstream.sharding.sources.imagenet.flat_val import has_flat_val_images, list_flat_folder
from alexstream.sharding.sources.imagenet.kaggle import detect_kaggle, load_class_names, load_kaggle_labels
from alexstream.sharding.sources.labels.compare import compare_with_texts
from alexstream.sharding.sources.labels.label_table import LabelTableOptions
from alexstream.sharding.sources.labels.labeled import detect_labeled
from alexstream.sharding.sources.labels.tables_beside import detect_tables_beside
from alexstream.sharding.sources.parquet import detect_parquet
from alexstream.sharding.sources.readings import format_options
from alexstream.sharding.sources.split_words import split_of_file, split_of_word
from alexstream.sharding.sources.structure import (
    LayoutOptions,
    SourceLayout,
    SplitFolder,
    detect_layout,
)
from alexstream.sharding.sources.tars.kind import FOLDER_KINDS, detect_tar_kind, detect_tar_kinds
from alexstream.sharding.sources.tars.nested import count_tar_images
from alexstream.sharding.sources.tars.packed import LabelSources
from alexstream.sharding.sources.tars.webdataset import (
    detect_dataset_v1,
    detect_listed_tars,
    detect_webdataset,
    has_webdataset_tars,
)
from alexstream.sharding.sources.types import (
    ComparedTexts,
    Excluded,
    ListingLog,
    SourceSplit,
    SplitLister,
    with_left_out,
)
from alexstream.sharding.sources.types import DetectedSource as DetectedSource
from alexstream.sharding.sources.wrappers import move_below, step_over_folders

NamedDevkit = tuple[str, Devkit] | None
_REASONS_WITHOUT_NOTICE = ("system file", "development kit, no images")  # reasons that need no notice


def detect_source(
    src: str | os.PathLike[str],
    classes: Sequence[str] | None = None,
    *,
    split: str = "",
    classes_at: int | None = None,
    labels: LabelTableOptions | None = None,
    tars: Sequence[str] = (),
) -> DetectedSource:
    """Detect the form of the source ``src`` and its splits; a split is listed when its function is called.

    ``classes`` names label numbers where the source does not (``--classes``). ``split`` names the only split of folders
    or tars whose names do not. ``classes_at`` is the level of the class folders, or LAST, or TAR for classes named by
    the tars. ``labels`` is the table with the classes (``--labels``). ``tars`` are WebDataset tars below ``src``: then
    nothing else there is looked at. Raises SourceError, with the remedy, for a source
    that is missing, empty, truncated or of unknown form, that lacks labels, or whose folders can be interpreted in
    several ways.
    """
    choice = LayoutOptions(level=classes_at, classes=tuple(classes or ()), split=split, picked=split)
    root = as_path(src)
    if not root.exists():
        raise SourceError(f"source folder {root} does not exist; give `source` a folder with one folder per class")
    if tars:
        if labels is not None or classes_at is not None:
            raise SourceError(
                f"{root}: a list of tars has its labels in them; `labels` and `classes_at` are for others"
            )
        return detect_listed_tars(root, tars, classes, split)
    if labels is not None and classes_at is not None:
        raise SourceError(
            f"{root}: `labels` gives the classes by a table, and `classes_at` by the folders; give one of the two"
        )
    found = detect_labeled(root, labels, classes, split) if labels is not None else _detect_form(root, choice)
    return compare_with_texts(found, root, split)


def _detect_form(root: Path, choice: LayoutOptions) -> DetectedSource:
    """Detect the form of a source without a table of labels given."""
    if not root.is_dir():
        return _detect_file(root, choice)
    listed = list_items(root)
    if not listed:
        raise SourceError(f"source folder {root} is empty; expected one folder per class with image files in it")
    source = _SourceFolder(root, listed, choice)
    for detect in DETECTORS:
        if (found := detect(source)) is not None:
            return _resolve_folders_beside(source, found)
    return _detect_folders(source)


def _resolve_folders_beside(source: _SourceFolder, found: DetectedSource, asked: Path | None = None) -> DetectedSource:
    """Return ``found`` with the folders beside it read or left out. Raises SourceError where that is unclear.

    ``asked``: the source as the caller gave it, where it is a folder above.
    """
    root, listed, choice = source
    check_files_beside(root, listed, found, choice)
    kit = find_devkit(root, listed) if found.unread else None
    return resolve_folders_beside(
        root,
        found,
        choice,
        lambda name, split: _make_folder_lister(root, name, split, kit, choice),
        lambda: _detect_folders(source),
        is_wrapped=asked is not None,
    )


class _SourceFolder(NamedTuple):
    """What a detector decides by: the folder, its contents, and the caller's decisions."""

    root: Path
    listed: Sequence[FolderItem]
    choice: LayoutOptions


def _detect_file(path: Path, choice: LayoutOptions) -> DetectedSource:
    """Detect the form of a source that is a single tar or Parquet file."""
    classes = choice.classes or None
    if path.name.lower().endswith(".parquet") and is_parquet(path):
        found = detect_parquet(path, classes, choice.split)
    elif path.name.lower().endswith(".tar"):
        kind = _read_by_folders(detect_tar_kind(path), choice)
        if kind == "samples":
            found = detect_webdataset(path, classes, choice.split)
        else:
            refuse_foreign_file(path)
            labelled = kind in ("val", *FOLDER_KINDS)
            beside = find_devkit(path.parent, list_items(path.parent)) if labelled else None
            found = _detect_archives_in(path.parent, {path.name: kind}, beside, choice)[0]
    elif is_gzip(path):
        raise SourceError(f"{path}: is compressed, so that images cannot be read in place; unpack it (gunzip) first")
    else:
        refuse_foreign_file(path)
        found = None
    if found is None:
        raise SourceError(f"source {path} is a file; expected a folder with one folder per class, a tar or Parquet")
    return found


def _detect_archives_in(
    folder: Path,
    kinds: Mapping[str, str],
    kit: NamedDevkit,
    choice: LayoutOptions,
    *,
    prefix: str = "",
    may_be_none: bool = False,
) -> tuple[DetectedSource, set[str]]:
    """Detect the splits in archives, with labels from a devkit or from Kaggle's tables beside them."""
    if choice.level not in (None, 1):  # the tars in a tar are level 1
        kinds = {name: "tars" if kind == "train" else kind for name, kind in kinds.items()}
    if choice.level == TAR_LEVEL:
        return detect_class_tars(folder, kinds, split_of_word(folder.name) or choice.split or "train", prefix)
    check_class_tars(folder, kinds, choice)
    truth = None
    if kit and ("val" in kinds.values() or kit[1].ground_truth):
        truth = kit[1].val_labels()
    truth = truth or load_kaggle_labels(folder)
    labels = LabelSources(kit[0] if kit else "", kit[1] if kit else None, truth, load_class_names(folder))
    return detect_archives(folder, kinds, labels, choice, prefix=prefix, may_be_none=may_be_none)


def _detect_tars(source: _SourceFolder) -> DetectedSource | None:
    """Detect archives or WebDataset tars in a folder or in folders of its splits; return None if there are none."""
    root, listed, choice = source
    folders = [item.name for item in listed if item.is_dir and not is_system(item.name)]
    kinds = {name: _read_by_folders(kind, choice) for name, kind in detect_tar_kinds(root, listed).items()}
    originals = [name for name, kind in kinds.items() if kind in ("train", "class", "class-val", "val", *FOLDER_KINDS)]
    if "samples" in kinds.values() and originals:
        raise SourceError(
            f"{root}: holds WebDataset tars and, beside them, {originals[0]} "
            f"({count_of(len(originals), 'archive')} of images); move one of the two away"
        )
    if kinds and choice.level is None and set(kinds.values()) <= {"unlabelled", "folders"}:
        refuse_foreign_file(root / next(iter(kinds)))
    if originals or (choice.level == TAR_LEVEL and kinds):
        return _detect_original_archives(root, listed, kinds, choice)
    if "samples" in kinds.values() or has_webdataset_tars(root, listed):
        return detect_webdataset(root, choice.classes or None, choice.split)
    if choice.level is None and any(DiskTree(root / name).has_images_below for name in folders):
        check_tars_beside_folders(root, kinds, folders)
    if kinds and not folders:
        name, kind = next(iter(kinds.items()))
        raise SourceError(
            f"{root}: {name} holds no images with labels ({skip_reason(kind, name)}); expected a folder for each "
            f"class, KEY.cls or a label in KEY.json beside each image, or a table of the labels: `labels` FILE"
            f"{tar_names_hint(kinds)}"
        )
    return None


def _read_by_folders(kind: str, choice: LayoutOptions) -> str:
    """Return the kind of a tar as it is to be read: the caller may choose the folders of WebDataset as classes."""
    return "folders" if kind == "samples" and choice.level not in (None, TAR_LEVEL) else kind


def _detect_original_archives(
    root: Path, listed: Sequence[FolderItem], kinds: Mapping[str, str], choice: LayoutOptions
) -> DetectedSource:
    """Detect original archives. Folders beside them are not read yet."""
    kit = find_devkit(root, listed)
    folders = [i.name for i in listed if i.is_dir and not is_system(i.name) and not (kit and kit[0] == i.name)]
    twice = [item.name for item in listed if item.is_dir and f"{item.name}.tar" in kinds and ilsvrc.is_wnid(item.name)]
    if twice:
        raise SourceError(f"{root}: holds {twice[0]}.tar and {twice[0]}/, the same class; move all tars or all folders")
    may_be_none = any(map(split_of_word, folders))
    found, used = _detect_archives_in(root, kinds, kit, choice, may_be_none=may_be_none)
    left = [(i.name, _skip_reason(i, kit, kinds)) for i in listed if i.name not in {*used, *folders}]
    notices = [f"{name}: left out: {why}" for name, why in left if name in kinds and why not in _REASONS_WITHOUT_NOTICE]
    if not found.splits:
        rows = dict(left)
        alone = _detect_folders(_SourceFolder(root, listed, choice))
        return replace_reasons(alone, lambda path, why: _expand_tars(root, [(path, rows.get(path, why))], kinds))
    found = replace(found, read=tuple(sorted(used)), unread=tuple(folders))
    return with_left_out(found, _expand_tars(root, left, kinds), notices)


def _expand_tars(root: Path, left: Excluded, kinds: Mapping[str, str]) -> Excluded:
    """Expand each skipped tar of images to its members, so that every image is accounted for."""
    told: Excluded = []
    for name, why in left:
        if kinds.get(name) in ("unlabelled", "test"):
            told += list_members(root / name, name, why)
        elif name in kinds and (count := count_tar_images(root / name)):
            told.append((name, f"{why} ({count_of(count, 'file')})"))
        else:
            told.append((name, why))
    return told


def _skip_reason(item: FolderItem, kit: NamedDevkit, kinds: Mapping[str, str]) -> str:
    if is_system(item.name):
        return _REASONS_WITHOUT_NOTICE[0]
    if kit and kit[0] in (item.name, "."):
        return _REASONS_WITHOUT_NOTICE[1]
    if item.name in kinds:
        return skip_reason(kinds[item.name], item.name)
    if is_compressed(item.name):
        return COMPRESSED
    return "image without a label, in no class folder" if is_image_name(item.name) else "no archive of images"


def _make_folder_lister(root: Path, name: str, split: str, kit: NamedDevkit, choice: LayoutOptions) -> SplitLister:
    """Return the lister of one split's folder that lies beside archives of other splits."""
    branch = detect_layout(DiskTree(root / name), f"{root}/{name}", choice).branches.get("")
    if branch is None:
        raise SourceError(f"{root / name}: holds folders of splits; shard it alone, or move the archives away")
    return _make_split_lister(root, replace(branch, path=(name, *branch.path)), split, kit, choice)


def _detect_tables(source: _SourceFolder) -> DetectedSource | None:
    """Detect flat images with tables of labels beside them, unless the level of class folders is given.

    A folder that holds nothing but one folder is stepped over.
    """
    if source.choice.level is not None:
        return None
    path, listed = step_over_folders(source.root, source.listed)
    place = source.root.joinpath(*path)
    found = detect_tables_beside(place, listed, source.choice.classes or None, source.choice.split)
    return move_below(found, source.root, path) if found else None


def _detect_kaggle(source: _SourceFolder) -> DetectedSource | None:
    """Detect Kaggle's ImageNet, also in a folder around it."""
    if (found := detect_kaggle(source.root)) is not None:
        return found
    path, _ = step_over_folders(source.root, source.listed)
    found = detect_kaggle(source.root.joinpath(*path)) if path and source.choice.level is None else None
    return move_below(found, source.root, path) if found else None


def _detect_wrapped_tars(source: _SourceFolder) -> DetectedSource | None:
    """Detect archives beside folders in a folder that is stepped over, unless the level of class folders is given."""
    root, listed, choice = source
    path, inside = step_over_folders(root, listed)
    if not path or choice.level is not None or not any(i.is_dir and not is_system(i.name) for i in inside):
        return None
    inner = _SourceFolder(root.joinpath(*path), inside, choice)
    found = _detect_tars(inner)
    return move_below(_resolve_folders_beside(inner, found, root), root, path) if found else None


def _refuse_foreign(source: _SourceFolder) -> None:
    """Raise SourceError for a format of another program, unless the level of class folders is given."""
    if source.choice.level is None:
        refuse_foreign(source.root, source.listed)
        path, listed = step_over_folders(source.root, source.listed)
        if path:
            refuse_foreign(source.root.joinpath(*path), listed)


# The forms of a folder of images, each tried if none before it fits; class folders are what is left.
DETECTORS: tuple[Callable[[_SourceFolder], DetectedSource | None], ...] = (
    lambda source: detect_dataset_v1(source.root),
    _detect_kaggle,
    _detect_tars,
    _detect_wrapped_tars,
    lambda source: detect_parquet(source.root, source.choice.classes or None, source.choice.split),
    _detect_tables,
    _refuse_foreign,
)


def _detect_folders(source: _SourceFolder) -> DetectedSource:
    """Detect class folders, one split or several, and flat validation images with a devkit beside them."""
    return count_images_beside(source.root, _detect_folder_splits(source))


def _detect_folder_splits(source: _SourceFolder) -> DetectedSource:
    root, listed, choice = source
    if has_flat_val_images(root):
        return _detect_flat_val(root, listed)
    unsaid = (
        replace(choice, level=None) if choice.level == TAR_LEVEL else choice
    )  # TAR then applies within the split folders
    layout = detect_layout(DiskTree(root), str(root), unsaid)
    if choice.level == TAR_LEVEL:
        _check_any_tars(root, layout)
    if "" in layout.branches:
        return _detect_one_split(root, listed, layout.branches[""], choice)
    folders = layout.list_folders()
    above = root.joinpath(*layout.above)
    if choice.level is None and choice.picked not in layout.branches:
        for depth in range(len(layout.above) + 1):
            place = root.joinpath(*layout.above[:depth])
            check_split_archives(place, list_items(place), list(layout.branches))
    kit = find_devkit(root, listed) or (find_devkit(above, list_items(above)) if above != root else None)
    made: dict[str, SplitLister] = {}
    left, notices = _leave_out(root, layout)
    for split, branch in layout.branches.items():
        if not (split == "test" and branch.flat):
            made[split] = _make_split_lister(root, branch, split, kit, choice)
    ways = [path for split in made for path, _ in layout.branches[split].list_folders()]
    notices += _same_folders(root, ways)
    left += _list_skipped_above(root, [*folders, *layout.left_out], kit)
    notices += [f"{name}/: left out: {why}" for name, why in left if why == NO_IMAGES]
    named = ", ".join("/".join((*path, "")) for path in ways)
    says = f"one folder per class ({named}{_describe_kit(kit)})"
    found = with_left_out(DetectedSource(kind="folder", description=says, splits=made), left, notices)
    first = [path for path, _ in next(iter(layout.branches.values())).list_folders()]
    tops = [root.joinpath(*path[: len(layout.above) + 1]) for path in first]
    compared = ComparedTexts(
        readings=lambda: format_options(*map(DiskTree, tops)),  # the level of ``--classes-at`` counts from each of them
        ways=tuple(folders),
        checks_classes=choice.level is None and kit is None,
        is_decided=choice.level is not None,
    )
    return replace(found, compared=compared)


def _leave_out(root: Path, layout: SourceLayout) -> tuple[Excluded, list[str]]:
    """List with reasons the images that lie beside those of the splits, with a notice for each folder."""
    left: Excluded = []
    notices: list[str] = []
    branch = layout.branches.get("test")
    for path, _ in branch.list_folders() if branch and branch.flat else []:
        name = "/".join(path)
        inside = files_below(root / name, name, TEST_IMAGES)
        left += inside
        notices.append(test_notice(f"{name}/", inside))
    for path, why in layout.left_out.items():
        name = "/".join(path)
        inside = files_below(root / name, name, why)
        left += inside
        notices.append(f"{name}/: left out: {count_of(sum(own == why for _, own in inside), 'file')}: {why}")
    return left, notices


def _check_any_tars(root: Path, layout: SourceLayout) -> None:
    """Raise SourceError where tars were said to be the classes and there are none."""
    ways = [path for one in layout.branches.values() for path, _ in one.list_folders()]
    if not any(select_files(list_items(root.joinpath(*way)), ".tar") for way in ways):
        raise SourceError(f"{root}: `classes_at` 0 is for tars that are named for their class; give 1, 2 … or last")


def _same_folders(root: Path, ways: Sequence[tuple[str, ...]]) -> list[str]:
    """Say which folders of splits are one folder, by links."""
    if not isinstance(root, Path):
        return []
    real = {"/".join(path): os.path.realpath(root.joinpath(*path)) for path in ways}
    return [
        f"{one}/ and {two}/ lead to the same folder: both splits have its images"
        for one, two in combinations(real, 2)
        if real[one] == real[two]
    ]


def _list_skipped_above(root: Path, paths: Sequence[tuple[str, ...]], kit: NamedDevkit) -> Excluded:
    """List with reasons what lies beside the folders that lead to the splits."""
    ways = {path[:depth] for path in paths for depth in range(len(path) + 1)}
    left: Excluded = []
    for folder in sorted({path[:depth] for path in paths for depth in range(len(path))}):
        for item in list_items(root.joinpath(*folder)):
            if (*folder, item.name) not in ways or not item.is_dir:
                name = "/".join((*folder, item.name))
                why = _loose_file_reason(item, kit)
                left.append((name, folder_reason(root / name) if why == NO_IMAGES else why))
    return left


def _make_split_lister(
    root: Path, branch: SplitFolder, split: str, kit: NamedDevkit, choice: LayoutOptions
) -> SplitLister:
    """Return the lister of one split's folder: flat validation images, inner tars, or class folders."""
    name = "/".join(branch.path)
    folder = root / name
    if split == "val" and branch.flat and has_flat_val_images(folder):
        return partial(list_flat_folder, folder, name, _find_val_labels(folder, kit, root))
    if not branch.parts and select_files(list_items(folder), ".tar"):
        return _make_inner_lister(root, name, split, kit, choice)
    if branch.flat:
        return partial(_raise_no_labels, folder, split)
    return partial(list_split_folder, root, branch, split, kit[1] if kit else None)


def _raise_no_labels(folder: Path, split: str, log: ListingLog) -> SourceSplit:
    raise SourceError(
        f"{folder}: {split} has images and no class folders; give a table of their labels with `labels` FILE, leave it "
        "out by choosing another `split`, or move it away"
    )


def _detect_flat_val(root: Path, listed: Sequence[FolderItem]) -> DetectedSource:
    kit = find_devkit(root, listed) or find_devkit(root.parent, list_items(root.parent))
    truth = _find_val_labels(root, kit, root)
    says = f"imagenet: flat validation images, labels from {truth.where}"
    return DetectedSource(kind="flat-val", description=says, splits={"val": partial(list_flat_folder, root, "", truth)})


def _detect_one_split(
    root: Path, listed: Sequence[FolderItem], branch: SplitFolder, choice: LayoutOptions
) -> DetectedSource:
    if not any(item.is_dir and not is_system(item.name) for item in listed):
        raise _no_class_folders_error(root, listed)
    if not DiskTree(root).has_images_below:
        _refuse_nested_files(root)
    split = split_of_word(root.name) or choice.split or _infer_source_split(root)
    inside = f"{'/'.join(branch.path)}/ as " if branch.path else ""
    lister: SplitLister = partial(list_split_folder, root, branch, split, None)
    made, says = {split: lister}, f"one folder per class ({inside}{split})"
    told_by_name = split_of_word(root.name) or any(map(split_of_file, branch.path))
    if choice.level is None:
        _check_class_archives(root, branch.path)
    left = _list_skipped_above(root, [branch.path], None)
    notices = [f"{name}/: left out: {why}" for name, why in left if why == NO_IMAGES]
    compared = ComparedTexts(
        readings=lambda: format_options(DiskTree(root)),
        ways=(branch.path,),
        is_default_split=not told_by_name,
        checks_classes=choice.level is None,
        is_decided=choice.level is not None,
    )
    found = DetectedSource(kind="folder", description=says, splits=made, compared=compared)
    return with_left_out(found, left, notices)


def _check_class_archives(root: Path, way: Sequence[str]) -> None:
    """Raise SourceError for a compressed archive beside class folders, or above them, that may be a class."""
    for depth in range(len(way) + 1):
        place = root.joinpath(*way[:depth])
        listed = list_items(place)
        known = [place.name, *(item.name for item in listed if item.is_dir)]
        check_class_archives(place, listed, known, format_options(DiskTree(root)))


def _infer_source_split(root: Path) -> str:
    """Return the split that the source's own name implies, else ``train``.

    Raises SourceError for a name that may imply ``val`` or ``test`` without being exactly such a name.
    """
    told = split_of_word(root.name)
    last = split_of_word(re.split(r"[^A-Za-z0-9]+", root.name.rstrip("0123456789-_. "))[-1])
    if told is None and last in ("val", "test"):
        raise SourceError(
            f"{root}: its name may mean the {last} split; choose: `split` {last}, or `split` train if it holds "
            "training images"
        )
    return told or "train"


def _refuse_nested_files(root: Path) -> None:
    """Raise SourceError naming the folder below ``root`` that holds Parquet files or tars, if there is one."""
    folders = [root / item.name for item in list_items(root) if item.is_dir and not is_system(item.name)]
    inner = [f / i.name for f in folders for i in list_items(f) if i.is_dir and not is_system(i.name)]
    for folder in (*folders, *inner):
        files = select_files(list_items(folder), ".parquet", ".tar")
        if files:
            source = folder if folder in folders else folder.parent
            raise SourceError(
                f"{root}: no images found; {folder} holds {files[0]} ({len(files)} such): give `source` {source}"
            )


def _no_class_folders_error(root: Path, listed: Sequence[FolderItem]) -> SourceError:
    packed = select_files(listed, ".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z")
    if packed:
        return SourceError(
            f"{root}: {packed[0]} ({len(packed)} such) is compressed, so that images cannot be read in place; "
            "turn it into a plain .tar, or unpack it, first"
        )
    images = [item.name for item in listed if not item.is_dir and is_image_name(item.name)]
    if images:
        return SourceError(
            f"{root}: holds {count_of(len(images), 'image')} ({images[0]}, …) and no class folders; "
            "give a table of their labels with `labels` FILE"
        )
    return SourceError(
        f"{root}: no images found; expected one folder per class with image files in it "
        f"(received 0 class folders, {count_of(len(listed), 'other entry', 'other entries')}), or a table of their "
        "labels: `labels` FILE"
    )


def _find_val_labels(folder: Path, kit: NamedDevkit, root: Path) -> ValLabels:
    if kit is None:
        above = [place for place in folder.parents if place == root or root in place.parents]
        for place in (root, *above):
            if table := load_kaggle_labels(place):
                return table
        raise SourceError(
            f"{folder}: validation images without class folders, whose labels are in the devkit, and no devkit is in "
            f"{root}; {ilsvrc.FETCH_DEVKIT.replace('that folder', str(root))}{_or_val_table(root)}"
        )
    return kit[1].val_labels()


def _or_val_table(root: Path) -> str:
    """Return the option that reads a table named for validation beside the images; "" without one."""
    tables = [name for name in DiskTree(root).tables if split_of_file(name.rpartition(".")[0]) == "val"]
    return f", or give `labels` {root / tables[0]} if it tells the class of each image" if tables else ""


def _make_inner_lister(root: Path, name: str, split: str, kit: NamedDevkit, choice: LayoutOptions) -> SplitLister:
    """Return the lister of a split whose folder holds tars (``train/n01440764.tar``)."""
    folder = root / name
    listed = list_items(folder)
    classes = [item.name for item in listed if item.is_dir and not is_system(item.name)]
    if classes:
        raise SourceError(f"{folder}: holds tars and, beside them, class folders ({classes[0]}); move one of the two")
    kinds = detect_tar_kinds(folder, listed)
    found, used = _detect_archives_in(folder, kinds, kit, replace(choice, split=split), prefix=f"{name}/")
    if split not in found.splits:
        raise SourceError(f"{folder}: its tars hold {', '.join(found.splits)} images, not {split}; rename the folder")
    left = [(f"{name}/{item.name}", _skip_reason(item, None, kinds)) for item in listed if item.name not in used]
    return with_left_out(found, left, []).splits[split]


def _loose_file_reason(item: FolderItem, kit: NamedDevkit) -> str:
    if kit and kit[0] == item.name:
        return "development kit, no images"
    return NO_IMAGES if item.is_dir and not is_system(item.name) else loose_file_reason(item)


def _describe_kit(kit: NamedDevkit) -> str:
    return f", labels from {kit[1].where}" if kit else ""
