"""Detect images whose classes are in tables: flat folders, split folders or tars of images, and ``--labels FILE``.

Every image needs exactly one label, and every row an image. What does not match is an error, or, on request, is skipped
and counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of, quote_value
from alexstream.sharding.dataset_v1.layout import SPLITS
from alexstream.sharding.sources.files import (
    TEST_IMAGES,
    LinkFollower,
    as_path,
    has_system_part,
    is_image_name,
    is_system,
    list_items,
    may_be_image,
    open_range_file,
    read_small_file,
    walk_files,
)
from alexstream.sharding.sources.folder import list_class_folders
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.labels.label_table import LabelRow, LabelTableOptions, load_table, parse_rows
from alexstream.sharding.sources.readings import is_image_folder_name
from alexstream.sharding.sources.split_words import split_of_file, split_of_word
from alexstream.sharding.sources.tars.walk import iter_last_members
from alexstream.sharding.sources.types import (
    WHOLE_FILE,
    ComparedTexts,
    DetectedSource,
    Entry,
    ListingLog,
    SourceSplit,
    SplitLister,
    with_log,
)

_NO_SPLIT_FOLDER = ""  # stands for images outside the split folders
_NOT_AN_IMAGE = "no image by its name"
_MAX_FOLDERS = 32  # of images, in which lists of splits are looked for


class LabeledFile(NamedTuple):
    """A file, or a member of a tar: its path relative to the source, and the range of its bytes."""

    path: str
    container: str
    offset: int = WHOLE_FILE
    size: int = 0
    inode: int = 0  # 0 for a member of a tar


@dataclass(slots=True)
class _ImageIndex:
    """The images of a source, indexed by file name without extension."""

    root: Path
    images: list[LabeledFile] = field(default_factory=list)
    excluded: list[tuple[str, str]] = field(default_factory=list)
    by_stem: dict[str, list[int]] = field(default_factory=dict)

    def find(self, name: str, split: str | None = None) -> list[int]:
        """Return the positions of the images that ``name`` in a table may refer to.

        Folders and extension are optional in ``name``; folders that are given must match those of the image as far as
        these are below the source. ``split`` excludes images in the folder of another split.
        """
        parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
        if not parts:
            return []
        found = [i for i in self._named(parts[-1]) if self._fits(self.images[i].path, parts[:-1], split)]
        if len(found) > 1:
            exact = [i for i in found if self.images[i].path == "/".join(parts)]
            return exact or found
        return found

    def _named(self, name: str) -> Sequence[int]:
        """Return the positions of the images with a file name, given with or without its extension."""
        if not is_image_name(name):
            return self.by_stem.get(name, ())
        stem, _, ending = name.rpartition(".")
        same_stem = self.by_stem.get(stem, ())
        exact = [i for i in same_stem if self.images[i].path.rpartition("/")[2] == name]
        return exact or [i for i in same_stem if self.images[i].path.lower().endswith(f".{ending.lower()}")]

    def _fits(self, path: str, folders: Sequence[str], split: str | None) -> bool:
        below = path.split("/")[:-1]
        if split and (own := split_of_path(path)) and own != split:
            return False
        whole = [*_path_parts(self.root), *below]
        common = 0
        while common < min(len(folders), len(whole)) and folders[-1 - common] == whole[-1 - common]:
            common += 1
        if common == len(folders):
            return True
        # Folders above the source may differ, since the table may be of another machine; the split may not.
        theirs = {one for part in folders[: len(folders) - common] if (one := split_of_word(part))}
        ours = {one for part in [self.root.name, *below] if (one := split_of_word(part))}
        return common >= len(below) and (not theirs or not ours or bool(theirs & ours))


def _path_parts(root: Path) -> list[str]:
    path = root.absolute() if isinstance(root, Path) else root
    return [part for part in path.as_posix().split("/") if part]


def split_of_path(path: str) -> str | None:
    """Return the split that the first folder (or tar) of a path implies; None if none."""
    first, slash, _ = path.partition("/")
    return (split_of_file(first) if first.lower().endswith(".tar") else split_of_word(first)) if slash else None


def _collect_images(root: Path, tables: Sequence[Path]) -> _ImageIndex:
    """Collect all files of a source that have an image's extension, and the members of its tars."""
    found = _ImageIndex(root=root)
    held = {table.name for table in tables}
    for path, reason, inode in _walk_source(root) if root.is_dir() else [(root.name, "", 0)]:
        name = path.rpartition("/")[2]
        if reason:
            found.excluded.append((path, reason))
        elif name.lower().endswith(".tar"):
            _collect_members(root, path, found)
        elif is_image_name(name):
            found.images.append(LabeledFile(path, path, inode=inode))
        else:
            found.excluded.append((path, "table of labels" if name in held else _NOT_AN_IMAGE))
    for i, image in enumerate(found.images):
        found.by_stem.setdefault(image.path.rpartition("/")[2].rpartition(".")[0], []).append(i)
    return found


def _walk_source(root: Path) -> Iterator[tuple[str, str, int]]:
    """Yield files at any depth with the reason to skip each, "" for none, and inodes; linked folders count once."""
    links = LinkFollower()
    links.enter(root, root.name)
    for path, reason in walk_files(root, "", links):
        yield path.removeprefix("/"), reason, 0 if reason else links.inodes[-1]


def _collect_members(root: Path, path: str, found: _ImageIndex) -> None:
    with open_range_file(root / path if root.is_dir() else root) as file:
        for member in iter_last_members(file, path):
            inside = f"{path}/{member.name.removeprefix('./')}"
            if member.reason or has_system_part(member.name):
                found.excluded.append((inside, member.reason or "system file"))
            elif is_image_name(member.name):
                found.images.append(LabeledFile(inside, path, member.offset, member.size))
            else:
                found.excluded.append((inside, _NOT_AN_IMAGE))


class _ImageLabel(NamedTuple):
    """A label from a table: class ("" for none), split from a column, split from the table's name, and its line."""

    label: str
    split: str | None
    table_split: str | None
    where: str

    @property
    def told_split(self) -> str | None:
        """The split from the column, else from the table's name."""
        return self.split or self.table_split


@dataclass(slots=True)
class _LabelIndex:
    """Labels by position of the image, and the rows that match no image."""

    by_image: dict[int, _ImageLabel] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    num_rows: int = 0

    def add(self, where: str, images: _ImageIndex, rows: Sequence[LabelRow], of_table: str | None) -> None:
        """Assign the labels of ``rows``. Raises SourceError for an ambiguous name, or a second, different label."""
        self.num_rows += len(rows)
        for row in rows:
            found = images.find(row.file, of_table)
            line = f"line {row.line} of {where}"
            if len(found) > 1:
                one, two = (images.images[i].path for i in found[:2])
                raise SourceError(
                    f"{line}: {quote_value(row.file)} may be {one} or {two}; write the names with their folders"
                )
            if not found:
                self.unmatched.append(f"{line}, {quote_value(row.file)}")
                continue
            label = _ImageLabel(row.label, row.split, of_table, line)
            before = self.by_image.setdefault(found[0], label)
            if (before.label, before.told_split) != (label.label, label.told_split):
                raise SourceError(
                    f"{line} says that {quote_value(row.file)} is {_format_label(label)}, but {before.where} says "
                    f"{_format_label(before)}"
                    "; every image has one class, and is in one split: fix the table"
                )


def _format_label(label: _ImageLabel) -> str:
    return f"{quote_value(label.label)}{f' in {label.told_split}' if label.told_split else ''}"


def detect_labeled(
    root: Path, asked: LabelTableOptions, classes: Sequence[str] | None = None, split: str = ""
) -> DetectedSource:
    """Detect the images in ``root`` and give them the classes in the table of ``--labels``.

    ``classes`` names labels that are numbers; ``split`` names the split where nothing else does. Raises SourceError
    where table and images do not match.
    """
    return detect_with_tables(root, [as_path(asked.file)], asked, classes, split)


def detect_with_tables(
    root: Path,
    tables: Sequence[Path],
    asked: LabelTableOptions | None = None,
    classes: Sequence[str] | None = None,
    split: str = "",
) -> DetectedSource:
    """Detect the images in ``root`` with the labels of one table, or of one for each split; as ``detect_labeled``."""
    if not root.exists():
        raise SourceError(f"source folder {root} does not exist; give `source` the images that the table names")
    images = _collect_images(root, tables)
    if not images.images:
        raise SourceError(f"{root}: no images found; expected those that {tables[0].name} names")
    labels, said = _read_tables(root, tables, images, asked)
    folders, missing = _find_unlabeled(root, images, labels)
    _check_any_label(tables, images, labels)
    if asked is None or not asked.partial:
        _check_complete(tables, images, labels, missing, "" if asked else f"`labels` {tables[0]} ")
    of_source = split_of_word(root.name) if len(tables) == 1 else None
    splits = _assign_splits(images, labels, split or "", of_source)
    made = _make_listers(images, splits, _assign_classes(labels, classes, _find_class_names_beside(root, folders)))
    counts = [f"{name}: {count_of(count, 'image')}" for name, count in Counter(splits.values()).items()]
    says = f"images with the labels of {' and '.join(said)} ({', '.join(counts)})"
    excluded = _list_excluded(images, labels, folders, missing)
    notices = _make_notices(labels) + _several_words(labels, classes)
    for folder, why in folders.items():
        own = str(split_of_path(f"{folder}/"))
        if why:
            continue
        if own in made:
            raise SourceError(
                f"{root}: {folder}/ with class folders and images of a table are both {own}; move one away"
            )
        else:
            made[own] = partial(_list_class_folders, root, folder, own)
            says += f", and class folders in {folder}/"
    first, words = next(name for name in SPLITS if name in made), _load_words(root)
    made = {name: partial(_add_class_names, make, words) for name, make in made.items()}
    made[first] = with_log(made[first], excluded, notices)
    return DetectedSource(
        kind="table",
        description=says,
        splits=made,
        compared=_compare_tables(tables, asked, images, labels, is_named=of_source is not None),
    )


def _compare_tables(
    tables: Sequence[Path],
    asked: LabelTableOptions | None,
    images: _ImageIndex,
    labels: _LabelIndex,
    *,
    is_named: bool,
) -> ComparedTexts:
    """Return how the splits are compared with lists; ``is_named``: the source is named for a split."""
    return ComparedTexts(
        readings=partial(_format_reading, tables),
        ways=_list_image_folders(images),
        used=tuple(tables),
        is_default_split=not is_named and not any(_tells_split(images, i, one) for i, one in labels.by_image.items()),
        is_decided=asked is not None and len(asked.columns) == 2,
    )


def _tells_split(images: _ImageIndex, position: int, label: _ImageLabel) -> bool:
    return bool(label.told_split or split_of_path(images.images[position].path))


def _format_reading(tables: Sequence[Path]) -> str:
    """Return the option that decides for the tables alone, against lists of splits beside them."""
    if len(tables) > 1:
        return f"move {' and '.join(table.name for table in tables)} or the lists of splits away"
    return f"choose: `labels` {tables[0]} with `labels.columns` FILE,CLASS for the table alone"


def _list_image_folders(images: _ImageIndex) -> tuple[tuple[str, ...], ...]:
    """Return the folders of the first images, which may hold lists of splits, too."""
    folders = dict.fromkeys(i.path.rpartition("/")[0] for i in images.images[::100] if i.path == i.container)
    return tuple(tuple(folder.split("/")) for folder in list(folders)[:_MAX_FOLDERS] if folder)


def _load_words(root: Path) -> dict[str, str]:
    """Read class names by wnid from Tiny ImageNet's ``words.txt``; empty without it."""
    place = root / "words.txt"
    if not place.is_file():
        return {}
    lines = (line.partition("\t") for line in read_small_file(place).decode("utf-8", "replace").splitlines())
    return {wnid: words.strip() for wnid, _, words in lines if ilsvrc.is_wnid(wnid)}


def _add_class_names(lister: SplitLister, words: Mapping[str, str], log: ListingLog) -> SourceSplit:
    found = lister(log)
    return replace(found, class_names=words) if words else found


def _list_excluded(
    images: _ImageIndex, labels: _LabelIndex, folders: Mapping[str, str], missing: Sequence[int]
) -> list[tuple[str, str]]:
    """List with reasons everything but the labelled images; what class folders of a split hold is told with these."""
    inside = tuple(f"{folder}/" for folder, why in folders.items() if not why)
    first = (image.path.partition("/") for image in images.images)
    return [
        *((path, why) for path, why in images.excluded if not path.startswith(inside)),
        *((f"{folder}/{rest}", folders[folder]) for folder, _, rest in first if folders.get(folder)),
        *((images.images[i].path, "no row in the table of labels") for i in missing),
        *((images.images[i].path, "no class in its row") for i, label in labels.by_image.items() if not label.label),
    ]


def _read_tables(
    root: Path, tables: Sequence[Path], images: _ImageIndex, asked: LabelTableOptions | None
) -> tuple[_LabelIndex, list[str]]:
    """Read the labels of all tables; return them, and a description of each table with its columns."""
    labels, said = _LabelIndex(), []
    for path in tables:
        table, of_table = replace(load_table(path), was_found=asked is None), split_of_table(root, path)
        rows, named = parse_rows(table, asked.columns if asked else (), partial(_is_image, images, of_table))
        labels.add(table.where, images, rows, of_table)
        said.append(f"{table.where} ({named})")
    return labels, said


def _is_image(images: _ImageIndex, split: str | None, name: str) -> bool:
    return bool(images.find(name, split))


def split_of_table(root: Path, path: Path) -> str | None:
    """Return the split of the images in a table, from the split folder it is in or its own name; else None."""
    folder = split_of_word(path.parent.name) if path.parent != root else None
    return folder or split_of_file(path.name.rpartition(".")[0])


def _find_unlabeled(root: Path, images: _ImageIndex, labels: _LabelIndex) -> tuple[dict[str, str], list[int]]:
    """Return the split folders without any labelled image, with reasons, and all other unlabelled images.

    The reason is "" for a folder with class folders, which is a split of its own.
    """
    inside: dict[str, list[int]] = defaultdict(list)
    for i, image in enumerate(images.images):
        inside[image.path.partition("/")[0] if split_of_path(image.path) else _NO_SPLIT_FOLDER].append(i)
    folders: dict[str, str] = {}
    missing: list[int] = []
    for folder, here in inside.items():
        without = [i for i in here if i not in labels.by_image]
        if folder == _NO_SPLIT_FOLDER or len(without) < len(here):
            missing += without
        elif _has_class_folders({images.images[i].path for i in here}) and (root / folder).is_dir():
            folders[folder] = ""
        elif split_of_path(f"{folder}/") == "test":
            folders[folder] = TEST_IMAGES
        else:
            missing += without
    return folders, missing


def _has_class_folders(paths: Collection[str]) -> bool:
    """Return whether a split's images are in subfolders, and not all in one that names no class.

    Such folders are ``val/images`` and, as Kaggle's archives unpack, ``test/test`` and ``test_images/test``.
    """
    inside = {path.split("/")[1] if path.count("/") > 1 else _NO_SPLIT_FOLDER for path in paths}
    named = {name for name in inside if not is_image_folder_name(name) and split_of_word(name) is None}
    return _NO_SPLIT_FOLDER not in inside and bool(named or len(inside) > 1)


def _check_any_label(tables: Sequence[Path], images: _ImageIndex, labels: _LabelIndex) -> None:
    """Raise SourceError if no image has a label."""
    if any(label.label for label in labels.by_image.values()):
        return
    where = " and ".join(table.name for table in tables)
    raise SourceError(
        f"{where}: none of its {count_of(labels.num_rows, 'row')} names an image in {images.root} and its class; "
        "the first image is "
        f"{images.images[0].path}{f', the first row {labels.unmatched[0]}' if labels.unmatched else ''}"
    )


def _check_complete(
    tables: Sequence[Path], images: _ImageIndex, labels: _LabelIndex, missing: Sequence[int], give: str
) -> None:
    """Raise SourceError for images without a label and rows without an image.

    ``give`` is the option that would name the table, where the table was found and not given.
    """
    where = " and ".join(table.name for table in tables)
    empty = [label for label in labels.by_image.values() if not label.label]
    wrong = []
    if missing:
        first = images.images[missing[0]].path
        wrong.append(f"no row for {len(missing):,} of {count_of(len(images.images), 'image')}, the first: {first}")
    if empty:
        wrong.append(f"no class in {count_of(len(empty), 'row')}, the first: {empty[0].where}")
    if labels.unmatched:
        is_header = labels.unmatched[0].startswith("line 1 ")
        header = " (`labels.columns` names the columns of a header)" if is_header else ""
        rows = f"{len(labels.unmatched):,} of {count_of(labels.num_rows, 'row')}"
        wrong.append(f"no image for {rows}, the first: {labels.unmatched[0]}{header}")
    if wrong:
        leave = (
            f", or leave these out with {give}`labels.partial`"
            if len(tables) == 1
            else ", or move what is not meant away"
        )
        raise SourceError(f"{where}: {'; '.join(wrong)}; fix the table{leave}")


def _make_notices(labels: _LabelIndex) -> list[str]:
    said = []
    if labels.unmatched:
        said.append(
            f"no image for {count_of(len(labels.unmatched), 'row')} of the table, the first: {labels.unmatched[0]}"
        )
    again = labels.num_rows - len(labels.unmatched) - len(labels.by_image)
    if again:
        said.append(f"an image named once more, with the same class, in {count_of(again, 'row')} of the table")
    return said


def _several_words(labels: _LabelIndex, classes: Sequence[str] | None) -> list[str]:
    """Say which cells may hold several labels: "scab rust", where scab and rust are classes too.

    A single one may be a name, as "tiger shark" beside tiger and shark. Raises SourceError where there are more, and
    they are most of the cells of several words: unless ``classes`` names each of them.
    """
    first = {label.label: label.where for label in reversed(labels.by_image.values())}
    words = {cell: cell.split() for cell in first if len(cell.split()) > 1 and cell not in (classes or ())}
    made = [cell for cell, parts in words.items() if all(part in first for part in parts)]
    if not made:
        return []
    shown = ", ".join(f"{quote_value(cell)} ({first[cell]})" for cell in sorted(made)[:3]) + (
        ", …" if len(made) > 3 else ""
    )
    if len(made) > 1 and 2 * len(made) > len(words):
        raise SourceError(
            f"cells of several words are made of words that are classes by themselves, {len(made)} of {len(words)}: "
            f"{shown}; if these are several labels of an image, give a table with one class an image to `labels`; if "
            "each is the name of a class, name all classes with `classes` FILE"
        )
    return [f"cells made of words that are classes too are taken as classes of their own: {shown}"]


def _assign_splits(images: _ImageIndex, labels: _LabelIndex, asked: str, of_source: str | None) -> dict[int, str]:
    """Return the split of each labelled image: from its row, folder, table or source, in this order, else as asked.

    ``of_source`` is the split that the name of the source tells; a table's name goes before it. Raises SourceError if
    the row and the folder of an image contradict each other.
    """
    in_folders = {split_of_path(images.images[i].path) for i in labels.by_image}
    splits: dict[int, str] = {}
    for i, label in labels.by_image.items():
        folder = split_of_path(images.images[i].path)
        if label.split and folder not in (None, label.split) and len(in_folders) > 1:
            raise SourceError(
                f"{label.where} says that {images.images[i].path} is in {label.split}, which is not the split of its "
                "folder; `labels.columns` FILE,CLASS leaves the column of splits aside"
            )
        splits[i] = label.split or folder or label.table_split or of_source or asked or "train"
    return {i: split for i, split in splits.items() if labels.by_image[i].label}


def _assign_classes(labels: _LabelIndex, classes: Sequence[str] | None, beside: Collection[str]) -> dict[int, str]:
    """Return the class of each image. A number is a position in ``classes``, or among ImageNet's 1,000.

    ``beside`` has the names of the training split's class folders. Raises SourceError for a label that is not a class.
    """
    words = {i: label.label for i, label in labels.by_image.items() if label.label}
    numbers = all(word.isascii() and word.isdigit() and len(word) < 8 for word in words.values())
    known = classes or (ilsvrc.load_wnids() if set(beside) == set(ilsvrc.load_wnids()) else tuple(sorted(beside)))
    if not known:
        _check_one_kind(labels)
    if not known or set(words.values()) <= set(known):
        return words
    may_be_positions = bool(classes) or known == ilsvrc.load_wnids()
    if numbers and may_be_positions and all(int(word) < len(known) for word in words.values()):
        return {i: known[int(word)] for i, word in words.items()}
    wrong = next(label for label in labels.by_image.values() if label.label and label.label not in known)
    raise SourceError(
        f"{wrong.where}: {quote_value(wrong.label)} is none of {count_of(len(known), 'class', 'classes')} "
        f"({quote_value(known[0])}, …); give the list that belongs to the table with `classes`"
    )


def _check_one_kind(labels: _LabelIndex) -> None:
    """Raise SourceError if some labels are numbers and others words."""
    first: dict[bool, _ImageLabel] = {}
    for label in labels.by_image.values():
        if label.label:
            first.setdefault(label.label.isascii() and label.label.isdigit(), label)
    if len(first) > 1:
        number, word = first[True], first[False]
        raise SourceError(
            f"{number.where} has the number {number.label} as its class, and {word.where} the word "
            f"{quote_value(word.label)}; write all classes in one way, or name all of them with `classes` FILE"
        )


def _find_class_names_beside(root: Path, folders: Mapping[str, str]) -> set[str]:
    """Return the names of the class folders of the training split; empty if it has none."""
    train = [name for name, why in folders.items() if not why and split_of_word(name) == "train"]
    return {item.name for name in train for item in list_items(root / name) if item.is_dir and not is_system(item.name)}


def _make_listers(images: _ImageIndex, splits: Mapping[int, str], names: Mapping[int, str]) -> dict[str, SplitLister]:
    """Return the lister of each split that tables have labels for."""
    by_split: dict[str, list[tuple[LabeledFile, str]]] = {}
    for i in sorted(splits, key=lambda one: images.images[one].path):
        by_split.setdefault(splits[i], []).append((images.images[i], names[i]))
    return {split: partial(_list_split, split, listed) for split, listed in by_split.items()}


def _list_split(split: str, listed: Sequence[tuple[LabeledFile, str]], log: ListingLog) -> SourceSplit:
    if all(name.isascii() and name.isdigit() for _, name in listed):
        log.notices.append(f"{split}: classes are called by the numbers in the table; --classes FILE names them")
    log.inodes.extend(image.inode for image, _ in listed)
    entries = (
        Entry(name, f"{name}/{_strip_split(image.path)}", image.path, image.container, image.offset, image.size)
        for image, name in listed
    )
    return SourceSplit(entries=ilsvrc.check_counts(entries, split, log))


def _list_class_folders(root: Path, folder: str, split: str, log: ListingLog) -> SourceSplit:
    """List the class folders of a split without a table, excluding lists and boxes among the images."""
    found = list_class_folders(root / folder, folder, split, None, 1, log)
    return replace(found, entries=_exclude_non_images(found.entries, log))


def _exclude_non_images(entries: Iterable[Entry], log: ListingLog) -> Iterator[Entry]:
    for entry in entries:
        if may_be_image(entry.path.rpartition("/")[2]):
            yield entry
        else:
            log.exclude(entry.path, _NOT_AN_IMAGE)


def _strip_split(path: str) -> str:
    """Return a path without the folder, or the tar, that stands for the split."""
    first, _, rest = path.partition("/")
    return rest if rest and (split_of_path(path) or first.lower().endswith(".tar")) else path
