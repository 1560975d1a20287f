"""Decide which folders of a source are splits and which are classes, from their names and contents.

Folders on a disk and folders in tars are decided alike: both are a ``FolderTree``. Where names and contents allow
several interpretations, SourceError lists each with the option that selects it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from alexstream.core.errors import SourceError
from alexstream.core.text import normalize_nfc
from alexstream.sharding.sources.folder_tree import LAST_LEVEL, MAX_LEVEL, TAR_LEVEL, FolderTree, list_level
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.readings import (
    abbreviate,
    check_classes,
    format_options,
    format_single_class_options,
    is_image_folder_name,
    join_path,
)
from alexstream.sharding.sources.split_words import split_of_file, split_of_word, splits_of_folders


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutOptions:
    """The caller's decisions: level of the class folders (None: not given), class names, name of an unnamed split."""

    level: int | None = None
    classes: Sequence[str] = ()
    split: str = ""


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
        splits = _find_split_folders(node, join_path(where, path), choice)
        if splits:
            _skip_others(beside, node, path, splits.values())
            return SourceLayout(
                branches=_detect_split_folders(node, path, splits, where, choice), above=path, beside=beside
            )
        step = _find_only_folder(node)
        if step is None:
            break
        _check_single_folder_name(step, join_path(where, path), choice)
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
        f"{where}: holds {first}/ with class folders, and beside it {abbreviate(beside)}; expected only train, val "
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
        return SplitFolder(path=path, readings=format_single_class_options(top))
    check_classes(node, top, join_path(where, inner))
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
                    f"{join_path(where, path)}: holds a folder {name}/ above its classes, whose name means the {told} "
                    f"split and not {own}; move it beside the folders of the other splits, or shard it alone"
                )


def _has_only_image_folder(node: FolderTree, path: tuple[str, ...]) -> bool:
    """Return whether the only folder in ``node`` groups images and is no class (``val/images``)."""
    name = next(iter(node.data_folders), "")
    return len(node.data_folders) == 1 and (
        is_image_folder_name(name) or name in path or split_of_word(name) is not None
    )


def _apply_chosen_level(top: FolderTree, path: tuple[str, ...], where: str, level: int) -> SplitFolder:
    if level == TAR_LEVEL:
        raise SourceError(f"{where}: `classes_at` 0 is for tars that are named for their class; give 1, 2 … or last")
    if not list_level(top, level):
        raise SourceError(f"{where}: there are no folders {level} levels down; {format_options(top)}")
    return SplitFolder(path=path, level=level)


def _find_level(top: FolderTree, names: frozenset[str]) -> int:
    """Return the level at which all folders have known names; 0 if there is none."""
    for level in range(1, MAX_LEVEL):
        found = {normalize_nfc(name) for name, folder in list_level(top, level) if folder.has_data_below}
        if not found:
            return 0
        if found <= names:
            return level
    return 0
