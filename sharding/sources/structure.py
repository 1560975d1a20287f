"""Decide which folders of a source are splits and which are classes, from their names and contents.

Folders on a disk and folders in tars are decided alike: both are a ``FolderTree``. Where names and contents allow
several interpretations, SourceError lists each with the option that selects it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of, normalize_nfc
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.split_words import split_of_file, split_of_word, splits_of_folders

LAST_LEVEL = -1  # stands for the level of the folders that contain the images
TAR_LEVEL = 0  # stands for the tar's own name as the class
_MAX_LEVEL = 6  # levels tried for interpretations
_IMAGE_FOLDER_WORDS = (
    "image images img imgs photo photos picture pictures pics jpg jpeg jpegs jpegimages png files data raw"
)
_COMPANION_WORDS = "mask masks annotation annotations label labels bbox bboxes segmentation segmentations"
_PART = re.compile(
    r"((?:.*[^a-z])?(?:part|batch|chunk|shard|fold|folder|dir|image|img|photo|picture|data|dataset|piece|archive)s?)"
    r"(?:[-_ .]*\d+|[-_ .]+[a-z])"
)
_IMAGE_FOLDER_NAMES, _COMPANION_NAMES = frozenset(_IMAGE_FOLDER_WORDS.split()), frozenset(_COMPANION_WORDS.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutOptions:
    """The caller's decisions: level of the class folders (None: not given), class names, name of an unnamed split."""

    level: int | None = None
    classes: Sequence[str] = ()
    split: str = ""


class FolderTree:
    """A folder and its contents, without system files."""

    @property
    def folders(self) -> Mapping[str, FolderTree]:
        """Subfolders by name."""
        raise NotImplementedError

    @property
    def has_images(self) -> bool:
        """True if it contains images directly."""
        raise NotImplementedError

    @property
    def tables(self) -> Sequence[str]:
        """Names of the tables in it, which may hold labels."""
        raise NotImplementedError

    @property
    def is_empty(self) -> bool:
        """True if it contains no file at any depth."""
        raise NotImplementedError

    @property
    def has_tars(self) -> bool:
        """True if it contains tars directly."""
        return False

    @property
    def is_on_disk(self) -> bool:
        """True if it may be a source by itself, which a folder in a tar may not."""
        return True

    @cached_property
    def data_folders(self) -> Mapping[str, FolderTree]:
        """Subfolders that contain images or tars at any depth, by name."""
        return {name: folder for name, folder in self.folders.items() if folder.has_data_below}

    @cached_property
    def has_images_below(self) -> bool:
        """True if it contains images at any depth, not counting those in tars."""
        return self.has_images or any(folder.has_images_below for folder in self.folders.values())

    @cached_property
    def has_data_below(self) -> bool:
        """True if it contains images or tars at any depth."""
        return self.has_images or self.has_tars or any(folder.has_data_below for folder in self.folders.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFolder:
    """The folder of one split, ``path``, and the level of its class folders; level 1 is directly in ``path``.

    ``flat``: it contains images and no class folders. ``readings``: other interpretations, where only one class was
    found.
    """

    path: tuple[str, ...] = ()
    level: int = 1
    flat: bool = False
    readings: str = ""

    def class_parts(self, parts: Sequence[str]) -> list[str]:
        """Return class, folders and file name of a path in this branch; [] for a file outside the class folders."""
        inside = list(parts[len(self.path) :])
        if self.level == LAST_LEVEL:
            return inside[-2:] if len(inside) > 1 else []
        return inside[self.level - 1 :] if len(inside) > self.level else []

    def holds(self, parts: Sequence[str]) -> bool:
        """Return whether a path lies in this branch."""
        return tuple(parts[: len(self.path)]) == self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLayout:
    """The branches by split ("" for a source without split folders), and the folders beside them.

    ``above``: the folder that contains the split folders. ``beside``: paths of folders that are skipped, with the
    reason.
    """

    branches: Mapping[str, SplitFolder]
    above: tuple[str, ...] = ()
    beside: Mapping[tuple[str, ...], str] = field(default_factory=dict)


def detect_layout(root: FolderTree, where: str, choice: LayoutOptions) -> SourceLayout:
    """Decide what the folders of a tree are. Raise SourceError, listing the interpretations, where it is unclear."""
    beside: dict[tuple[str, ...], str] = {}
    node, path = root, tuple[str, ...]()
    while True:
        splits = _find_split_folders(node, _join_path(where, path), choice)
        if splits:
            _skip_others(beside, node, path, splits.values())
            return SourceLayout(
                branches=_detect_split_folders(node, path, splits, where, choice), above=path, beside=beside
            )
        step = _find_only_folder(node)
        if step is None:
            break
        _check_single_folder_name(step, _join_path(where, path), choice)
        _skip_others(beside, node, path, [step])
        node, path = node.folders[step], (*path, step)
    branch = _detect_split_folder(root, (), where, choice)
    folders = {path: why for path, why in beside.items() if branch.path[: len(path) - 1] == path[:-1]}
    return SourceLayout(branches={"": branch}, beside=folders if branch.path else {})


def _check_single_folder_name(name: str, where: str, choice: LayoutOptions) -> None:
    """Raise SourceError if the single top folder's name implies a split other than training."""
    split = split_of_file(name)
    if split in ("val", "test") and not choice.split:
        raise SourceError(
            f"{where}: the name of {name}/ may mean the {split} split; choose: `split` {split}, or `split` train if "
            "it holds training images"
        )


def _find_only_folder(node: FolderTree) -> str | None:
    """Return the name of the only folder with images below it, if no image lies beside it or directly in it.

    None, too, if an empty folder beside it may be a class as it may be one itself.
    """
    names = list(node.data_folders)
    if node.has_images or len(names) != 1 or node.data_folders[names[0]].has_images:
        return None
    only = node.folders[names[0]]
    empty = [folder for folder in node.folders.values() if folder.is_empty and not folder.folders]
    may_be_classes = empty and not any(splits_of_folders(only.data_folders).values())
    return None if may_be_classes else names[0]


def _skip_others(
    beside: dict[tuple[str, ...], str], node: FolderTree, path: tuple[str, ...], used: Collection[str]
) -> None:
    for name in node.folders:
        if name not in used:
            beside[*path, name] = "folder without images"


def _find_split_folders(node: FolderTree, where: str, choice: LayoutOptions) -> dict[str, str]:
    """Return the split folders in a folder, ``{"train": "Training", …}``; empty if there are none.

    They are splits only where one of them contains folders: a class may be called "train".
    """
    told = splits_of_folders(node.folders)
    named = {name: split for name, split in told.items() if split is not None}
    if not any(node.folders[name].data_folders or node.folders[name].has_tars for name in named):
        return {}
    others = [name for name in node.data_folders if name not in named]
    if choice.level is not None and (others or len(set(named.values())) < len(named)):
        return {}
    if others or len(set(named.values())) < len(named):
        raise _extra_folders_error(node, where, named, others)
    return {split: name for name, split in named.items()}


def _extra_folders_error(node: FolderTree, where: str, named: Mapping[str, str], others: Sequence[str]) -> SourceError:
    """Return the error that names the folders in the way: those of no split, and those of a split twice."""
    twice = [name for name, split in named.items() if list(named.values()).count(split) > 1]
    first = next((name for name, split in named.items() if split == "train"), next(iter(named)))
    beside = sorted({*others, *twice} - {first})
    remedy = (
        f"move the others away or rename them, or shard {where}/{first} alone"
        if node.is_on_disk
        else "unpack the tar, and move the others away or rename them"
    )
    return SourceError(
        f"{where}: holds {first}/ with class folders, and beside it {_abbreviate(beside)}; expected only train, val "
        f"and test, each once: {remedy}; if all these folders are classes: `classes_at` 1"
    )


def _detect_split_folders(
    node: FolderTree, path: tuple[str, ...], splits: Mapping[str, str], where: str, choice: LayoutOptions
) -> dict[str, SplitFolder]:
    """Return the branch of each split, training first, since its classes tell the level of the others."""
    made: dict[str, SplitFolder] = {}
    known: frozenset[str] = frozenset()
    for split in (name for name in ("train", "val", "test") if name in splits):
        below = (*path, splits[split])
        folder = node.folders[splits[split]]
        made[split] = _detect_split_folder(folder, below, where, choice, known)
        if split == "train" and not made[split].flat:
            known = frozenset(map(normalize_nfc, _list_class_names(folder, made[split], below)))
    return made


def _list_class_names(folder: FolderTree, branch: SplitFolder, below: tuple[str, ...]) -> list[str]:
    for name in branch.path[len(below) :]:
        folder = folder.folders[name]
    return [name for name, _ in list_level(folder, branch.level)]


def _detect_split_folder(
    top: FolderTree, path: tuple[str, ...], where: str, choice: LayoutOptions, known: frozenset[str] = frozenset()
) -> SplitFolder:
    """Return the branch of one split, whose folder is ``top``; ``known`` has the classes of the training split."""
    if not top.data_folders:
        return SplitFolder(path=path, flat=top.has_images)
    if choice.level is not None:
        return _apply_chosen_level(top, path, where, choice.level)
    given = known or frozenset(map(normalize_nfc, choice.classes))
    if given and (level := _find_level(top, given)):
        _check_folders_above(top, path, level - 1, where, choice)
        return SplitFolder(path=path, level=level)
    node, inner = top, path
    while (step := _find_only_folder(node)) is not None:
        node, inner = node.folders[step], (*inner, step)
    _check_folders_above(top, path, len(inner) - len(path), where, choice)
    if known and not node.has_images and _has_only_image_folder(node, (*path, *inner)):
        return SplitFolder(path=(*inner, *node.data_folders), flat=True)  # val/images/…, where train has classes
    classes = list(node.data_folders)
    if len(classes) == 1 and not node.has_images and not ilsvrc.is_wnid(classes[0]):
        return SplitFolder(path=path, readings=_single_class_options(top))
    _check_classes(node, top, _join_path(where, inner))
    return SplitFolder(path=inner)


def _check_folders_above(top: FolderTree, path: tuple[str, ...], depth: int, where: str, choice: LayoutOptions) -> None:
    """Raise SourceError if the name of a folder above the classes implies a split other than its own."""
    if choice.split and not path:
        return
    own = split_of_file(path[-1]) if path else "train"
    for level in range(1, depth + 1):
        for name, folder in list_level(top, level):
            told = split_of_file(name)
            if folder.has_data_below and told not in (None, own):
                raise SourceError(
                    f"{_join_path(where, path)}: holds a folder {name}/ above its classes, whose name means the {told} "
                    f"split and not {own}; move it beside the folders of the other splits, or shard it alone"
                )


def _has_only_image_folder(node: FolderTree, path: tuple[str, ...]) -> bool:
    """Return whether the only folder in ``node`` groups images and is no class (``val/images``)."""
    name = next(iter(node.data_folders), "")
    return len(node.data_folders) == 1 and (
        is_image_folder_name(name) or name in path or split_of_word(name) is not None
    )


def find_class_folders(node: FolderTree) -> list[str]:
    """Return the class folders in a folder: those with images, and empty ones, which keep their label."""
    return [name for name, folder in node.folders.items() if folder.has_data_below or folder.is_empty]


def _apply_chosen_level(top: FolderTree, path: tuple[str, ...], where: str, level: int) -> SplitFolder:
    if level == TAR_LEVEL:
        raise SourceError(f"{where}: `classes_at` 0 is for tars that are named for their class; give 1, 2 … or last")
    if not list_level(top, level):
        raise SourceError(f"{where}: there are no folders {level} levels down; {format_options(top)}")
    return SplitFolder(path=path, level=level)


def _find_level(top: FolderTree, names: frozenset[str]) -> int:
    """Return the level at which all folders have known names; 0 if there is none."""
    for level in range(1, _MAX_LEVEL):
        found = {normalize_nfc(name) for name, folder in list_level(top, level) if folder.has_data_below}
        if not found:
            return 0
        if found <= names:
            return level
    return 0


def list_level(top: FolderTree, level: int) -> list[tuple[str, FolderTree]]:
    """Return the folders of a level with their names; for LAST, those that contain images directly."""
    folders = list(top.folders.items())
    if level == LAST_LEVEL:
        inner = [pair for _, folder in folders for pair in list_level(folder, LAST_LEVEL)]
        return [(name, folder) for name, folder in folders if folder.has_images] + inner
    for _ in range(level - 1):
        folders = [pair for _, folder in folders for pair in folder.folders.items()]
    return folders


def iter_imageless_folders(top: FolderTree, level: int, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the folders that contain files but no images, down to the level of the classes."""
    for name, folder in top.folders.items():
        if not folder.has_data_below and not folder.is_empty:
            yield (*path, name)
        elif level != 1:
            yield from iter_imageless_folders(folder, level - 1 if level > 1 else level, (*path, name))


def _check_classes(node: FolderTree, top: FolderTree, at: str) -> None:
    """Raise SourceError if there is a sign that the folders in ``node`` are not classes."""
    sign = _find_ambiguity(node)
    if sign:
        raise SourceError(f"{at}: {sign}; {format_options(top)}{_further_options(node, at)}")


def _further_options(node: FolderTree, at: str) -> str:
    """Return further options beside the levels: one folder alone, or a table of the classes."""
    inside = next(
        (name for name, folder in node.data_folders.items() if is_image_folder_name(name) and folder.data_folders), ""
    )
    deep = {name: set(folder.data_folders) for name, folder in node.data_folders.items() if not folder.has_images}
    if not inside and len(deep) == len(node.data_folders) > 1 and set.intersection(*deep.values()):
        inside = next(iter(deep))  # variants of the same images, sites, or folds
    told = splits_of_folders(node.data_folders)
    flat = [name for name, folder in node.data_folders.items() if folder.has_images]
    place, first = (at, "") if node.is_on_disk else ("DIR", " (unpack the tar into DIR)")
    alone = f", or `source` {place}/{inside} for that folder alone{first}" if inside else ""
    by_table = are_parts(node.data_folders) or any(is_image_folder_name(name) or told[name] for name in flat)
    table = node.tables[0] if node.tables else "a table"
    return alone + (f", or `labels` FILE if {table} tells the class of each image" if by_table else "")


def _find_ambiguity(node: FolderTree) -> str:
    holders = node.data_folders
    if all(ilsvrc.is_wnid(name) for name in holders) and not node.has_images:
        return ""
    if node.has_images:
        table = f", and a table ({node.tables[0]})" if node.tables else ""
        return f"images lie beside the class folders ({_abbreviate(holders)}){table}"
    splits = [name for name, split in splits_of_folders(holders).items() if split]
    if splits and [name.lower() for name in splits] != ["train"]:
        return f"folders of images are called like splits ({_abbreviate(splits)}) and hold no class folders"
    others = [name for name in holders if is_image_folder_name(name) or name.lower() in _COMPANION_NAMES]
    if others:
        return f"folders of images are called {_abbreviate(others)}, which is no name of a class"
    if sign := _find_depth_ambiguity(node):
        return sign
    if are_parts(holders):
        return f"folders of images are called like parts of one set ({_abbreviate(holders)})"
    return ""


def are_parts(names: Collection[str]) -> bool:
    """Return whether folders are called like parts of one set: ``part_1``, ``part_2``."""
    stems = {_part_stem(name) for name in names}
    return len(names) > 1 and len(stems) == 1 and "" not in stems


def _part_stem(name: str) -> str:
    """Return the name of a part without its number or letter: ``set_part`` of ``set_part_1``; "" for other names."""
    match = _PART.fullmatch(name.lower())
    return match[1] if match else ""


def _find_depth_ambiguity(node: FolderTree) -> str:
    packed = [name for name, folder in node.data_folders.items() if not folder.has_images_below]
    if packed and len(packed) < len(node.data_folders):
        return (
            f"folders hold tars and no images ({_abbreviate(packed)}), where others hold images: if they are classes, "
            "unpack the tars"
        )
    deep = {name: folder for name, folder in node.data_folders.items() if not folder.has_images}
    if not deep or _carry_no_class(deep):
        return ""
    if len(deep) < len(node.data_folders):
        flat = [folder for name, folder in node.data_folders.items() if name not in deep]
        known = {name for folder in flat for name in folder.folders}
        doubtful = [
            name
            for name, folder in deep.items()
            if len(folder.data_folders) > 1 and not set(folder.data_folders) <= known
        ]
        return (
            f"folders hold no images but other folders ({_abbreviate(doubtful)}), where others hold images"
            if doubtful
            else ""
        )
    below = [set(folder.data_folders) for folder in deep.values()]
    splits = sorted({name for names in below for name in names if split_of_word(name)})
    if all(any(split_of_word(name) for name in names) for names in below):
        return (
            f"every class folder holds folders of splits ({_abbreviate(splits)}), and each reading makes one split "
            "of all: to "
            f"keep them, move {next(iter(deep))}/{splits[0]} to {splits[0]}/{next(iter(deep))} and so on, or give a "
            "table of file, class and split with `labels`"
        )
    same = set.intersection(*below)
    if same:
        return f"all of {_abbreviate(deep)} hold folders of the same names ({_abbreviate(sorted(same))})"
    return f"the folders {_abbreviate(deep)} hold no images, only other folders"


def _carry_no_class(deep: Mapping[str, FolderTree]) -> bool:
    """Return whether the inner folders carry no class: one in each, called ``images``, or all named alike."""
    if any(len(folder.data_folders) != 1 for folder in deep.values()):
        return False
    names = {name: next(iter(folder.data_folders)) for name, folder in deep.items()}
    if not all(folder.data_folders[names[name]].has_images for name, folder in deep.items()):
        return False
    told = all(
        is_image_folder_name(inner) or normalize_nfc(inner) == normalize_nfc(name) for name, inner in names.items()
    )
    return told or (len(set(names.values())) == 1 and not split_of_word(next(iter(names.values()))))


def _single_class_options(top: FolderTree) -> str:
    tables = [table for folder in (top, *top.data_folders.values()) for table in folder.tables]
    return (
        f"{format_options(top)}, or `labels` FILE if {tables[0] if tables else 'a table'} tells the class of each image"
    )


def format_options(top: FolderTree) -> str:
    """Return the possible interpretations, each with the option that selects it, as the end of a message."""
    return f"choose: {', '.join(list_readings(top))}"


def list_readings(top: FolderTree) -> list[str]:
    """Return the possible interpretations of folders as classes, each with the option that selects it."""
    readings: list[str] = []
    known: list[set[int]] = []  # the folders of each reading, by their identity
    for level in (*range(1, _MAX_LEVEL), LAST_LEVEL):
        found = [(normalize_nfc(name), folder) for name, folder in list_level(top, level) if folder.has_images_below]
        names, folders = list(dict.fromkeys(name for name, _ in found)), {id(folder) for _, folder in found}
        if names and folders not in known:
            same = any(f" for {_format_classes(names)}" in reading for reading in readings)
            depth = " at any depth" if same and level == LAST_LEVEL else ""
            readings.append(f"`classes_at` {_format_level(level)} for {_format_classes(names)}{depth}")
            known.append(folders)
    several = [reading for reading in readings if " for 1 class " not in reading]
    return several or readings


def _format_level(level: int) -> str:
    return "last" if level == LAST_LEVEL else str(level)


def _format_classes(names: Sequence[str]) -> str:
    return f"{count_of(len(names), 'class', 'classes')} ({_abbreviate(names)})"


def _abbreviate(names: Sequence[str] | Mapping[str, FolderTree]) -> str:
    listed = list(names)
    return ", ".join(listed if len(listed) <= 4 else [*listed[:3], "…", listed[-1]])


def is_image_folder_name(name: str) -> bool:
    """Return whether a folder name denotes images rather than a class: ``images``, ``JPEG``, ``data``."""
    return name.lower() in _IMAGE_FOLDER_NAMES


def _join_path(where: str, path: Sequence[str]) -> str:
    return "/".join([where, *path])
