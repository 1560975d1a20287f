"""Decide which folders of a source are splits and which are classes, from their names and contents.

Folders on a disk and folders in tars are decided alike: both are a ``FolderTree``. Where names and contents allow
several interpretations, SourceError lists each with the option that selects it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from alexstream.core.errors import SourceError
from alexstream.core.text import normalize_nfc, quote_value
from alexstream.sharding.sources.folder_tree import LAST_LEVEL, MAX_LEVEL, TAR_LEVEL, FolderTree, list_level
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.readings import (
    abbreviate,
    are_parts_of_split,
    check_classes,
    find_split_above,
    format_options,
    format_reading,
    format_single_class_options,
    is_image_folder_name,
    join_path,
)
from alexstream.sharding.sources.split_words import is_unlabelled_name, split_of_file, split_of_word, splits_of_folders

UNLABELLED = "image without a label, by the name of its folder"  # a reason to leave it out
BESIDE_SPLITS = "in a folder beside those of the splits"  # likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutOptions:
    """The caller's decisions: level of the class folders (None: not given), class names, name of an unnamed split.

    ``picked``: the split that the caller wants of several; in ``split`` it may be what the name of a tar says.
    """

    level: int | None = None
    classes: Sequence[str] = ()
    split: str = ""
    picked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitFolder:
    """The folder of one split, ``path``, and the level of its class folders; level 1 is directly in ``path``.

    ``flat``: it contains images and no class folders. ``readings``: other interpretations, where only one class was
    found. ``parts``: the folders in ``path`` that together are the split (``train_1``, ``train_2``), where it has
    several; they are then level 1.
    """

    path: tuple[str, ...] = ()
    level: int = 1
    flat: bool = False
    readings: str = ""
    parts: tuple[str, ...] = ()

    def list_folders(self) -> list[tuple[tuple[str, ...], int]]:
        """Return the path of each folder of the split, and the level of the class folders in it."""
        inside = LAST_LEVEL if self.level == LAST_LEVEL else self.level - 1
        return [((*self.path, name), inside) for name in self.parts] or [(self.path, self.level)]

    def class_parts(self, parts: Sequence[str]) -> list[str]:
        """Return class, folders and file name of a path in this branch; [] for a file outside the class folders."""
        inside = list(parts[len(self.path) :])
        if self.level == LAST_LEVEL:
            inside = inside[bool(self.parts) :]
            return inside[-2:] if len(inside) > 1 else []
        return inside[self.level - 1 :] if len(inside) > self.level else []

    def holds(self, parts: Sequence[str]) -> bool:
        """Return whether a path lies in this branch."""
        below = parts[len(self.path) : len(self.path) + 1]
        return tuple(parts[: len(self.path)]) == self.path and (not self.parts or any(n in self.parts for n in below))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLayout:
    """The branches by split ("" for a source without split folders), and the folders beside them.

    ``above``: the folder that contains the split folders. ``beside``: paths of folders without images, which are
    skipped, with the reason. ``left_out``: the same of folders with images.
    """

    branches: Mapping[str, SplitFolder]
    above: tuple[str, ...] = ()
    beside: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    left_out: Mapping[tuple[str, ...], str] = field(default_factory=dict)

    def list_folders(self) -> list[tuple[str, ...]]:
        """Return the paths of the folders of all splits."""
        return [path for branch in self.branches.values() for path, _ in branch.list_folders()]


@dataclass(frozen=True, slots=True, kw_only=True)
class _SplitNames:
    """The folders of each split, side by side in a folder, and those beside them that are left out, with the reason."""

    names: Mapping[str, Sequence[str]]
    left_out: Mapping[str, str] = field(default_factory=dict)


def detect_layout(root: FolderTree, where: str, choice: LayoutOptions) -> SourceLayout:
    """Decide what the folders of a tree are. Raise SourceError, listing the interpretations, where it is unclear."""
    beside: dict[tuple[str, ...], str] = {}
    node, path = root, tuple[str, ...]()
    while True:
        splits = _find_split_folders(node, path, root, where, choice)
        if splits.names:
            used = [name for names in splits.names.values() for name in names]
            _skip_others(beside, node, path, [*used, *splits.left_out])
            return SourceLayout(
                branches=_detect_split_folders(node, path, splits.names, where, choice),
                above=path,
                beside=beside,
                left_out={(*path, name): why for name, why in splits.left_out.items()},
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


def _find_split_folders(
    node: FolderTree, path: tuple[str, ...], root: FolderTree, where: str, choice: LayoutOptions
) -> _SplitNames:
    """Return the folders of splits in ``node``, which lies at ``path`` below ``root``; no names if there are none.

    They are splits only where one of them contains folders: a class may be called "train". Raises SourceError where
    folders of images beside them may be more of a split, or of none.
    """
    named = {name: split for name, split in splits_of_folders(node.folders).items() if split is not None}
    if not any(node.folders[name].data_folders or node.folders[name].has_tars for name in named):
        return _SplitNames(names={})
    beside = [name for name in node.data_folders if name not in named]
    left = {name: UNLABELLED for name in beside if is_unlabelled_name(name) and _is_flat(node.folders[name])}
    others = [name for name in beside if name not in left]
    if others and choice.level is not None:
        return _SplitNames(names={})
    if others and choice.picked not in named.values():
        raise _extra_folders_error(node, path, root, where, named, others)
    left |= {name: BESIDE_SPLITS for name in others}
    return _SplitNames(names=_group_by_split(node, named), left_out=left)


def _group_by_split(node: FolderTree, named: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the folders of each split; those without images only where the split has no other."""
    groups: dict[str, list[str]] = {}
    for name, split in named.items():
        groups.setdefault(split, []).append(name)
    return {split: [name for name in names if name in node.data_folders] or names for split, names in groups.items()}


def _is_flat(folder: FolderTree) -> bool:
    """Return whether a folder holds images and no folders of images, in itself or in the only folder in it."""
    while not folder.has_images and len(folder.data_folders) == 1:
        folder = next(iter(folder.data_folders.values()))
    return folder.has_images and not folder.data_folders and not folder.has_tars


def _extra_folders_error(
    node: FolderTree,
    path: tuple[str, ...],
    root: FolderTree,
    where: str,
    named: Mapping[str, str],
    others: Sequence[str],
) -> SourceError:
    """Return the error that names the folders of images beside those of splits, and what chooses each reading."""
    at = join_path(where, path)
    first = next((name for name, split in named.items() if split == "train"), next(iter(named)))
    readings = [f"`split` {named[first]} for {first}/, leaving out {abbreviate(sorted(others))}"]
    readings += [f"`source` {at}/{first} for that alone"] if node.is_on_disk else []
    if as_classes := format_reading(len(path) + 1, root):
        readings.append(f"if all these folders are classes, {as_classes}")
    return SourceError(
        f"{at}: holds {first}/ with class folders, and beside it {abbreviate(sorted(others))}; expected only train, "
        f"val and test: move the others away or rename them, or choose: {', '.join(readings)}"
    )


def _detect_split_folders(
    node: FolderTree, path: tuple[str, ...], splits: Mapping[str, Sequence[str]], where: str, choice: LayoutOptions
) -> dict[str, SplitFolder]:
    """Return the branch of each split, training first, since its classes tell the level of the others."""
    made: dict[str, SplitFolder] = {}
    known: frozenset[str] = frozenset()
    for split in (name for name in ("train", "val", "test") if name in splits):
        names = splits[split]
        found = [_detect_split_folder(node.folders[n], (*path, n), where, choice, known) for n in names]
        made[split] = found[0] if len(found) == 1 else _join_parts(node, path, names, found, split, where, choice)
        if split == "train" and not made[split].flat:
            known = frozenset(_list_class_names(node, path, made[split]))
    return made


def _join_parts(
    node: FolderTree,
    path: tuple[str, ...],
    names: Sequence[str],
    found: Sequence[SplitFolder],
    split: str,
    where: str,
    choice: LayoutOptions,
) -> SplitFolder:
    """Return several folders of one split as one: ``train_1`` and ``train_2`` that have no class in common.

    Raises SourceError where they may be something else, variants of the same images or a copy, unless the level of the
    classes is given.
    """
    joined = SplitFolder(path=path, flat=all(branch.flat for branch in found), parts=tuple(names))
    if joined.flat and split == "test":
        return joined
    depths = {_depth_of_classes(branch, len(path) + 1) for branch in found}
    common = ""
    if len(depths) == 1 and not any(branch.flat for branch in found):
        depth = depths.pop()
        joined = replace(joined, level=LAST_LEVEL if depth == LAST_LEVEL else depth + 1)
        common = _find_common_class(node, path, found)
        is_certain = are_parts_of_split(names) and not any(_is_doubtful(node, path, branch) for branch in found)
        if choice.level is not None or (is_certain and not common):
            return joined
    raise _parts_error(node, path, joined, common, split, where)


def _depth_of_classes(branch: SplitFolder, depth: int) -> int:
    """Return the level of the classes in the folder of a split whose path has ``depth`` folders."""
    return LAST_LEVEL if branch.level == LAST_LEVEL else len(branch.path) - depth + branch.level


def _find_common_class(node: FolderTree, path: tuple[str, ...], found: Sequence[SplitFolder]) -> str:
    """Return a class that two of the branches have; "" if there is none."""
    counts = Counter(name for branch in found for name in dict.fromkeys(_list_class_names(node, path, branch)))
    return next((name for name, count in counts.items() if count > 1), "")


def _is_doubtful(node: FolderTree, path: tuple[str, ...], branch: SplitFolder) -> bool:
    """Return whether the only class folder of a branch contains no images directly: it may be no class."""
    return bool(branch.readings) and not all(folder.has_images for _, folder in _list_classes(node, path, branch))


def _parts_error(
    node: FolderTree, path: tuple[str, ...], joined: SplitFolder, common: str, split: str, where: str
) -> SourceError:
    """Return the error for several folders of one split that need not be parts of it."""
    at, names = join_path(where, path), joined.parts
    why = f" (both hold {quote_value(common)})" if common else ""
    readings = [f"`source` {at}/{names[0]} for that alone"] if node.is_on_disk else []
    together = format_reading(joined.level - 1, *(node.folders[name] for name in names)) if joined.level > 1 else ""
    readings += [f"{together} in all of them as {split}"] if together else []
    choose = f"choose: {', '.join(readings)}, or " if readings else ""
    return SourceError(
        f"{at}: {abbreviate(names)} are all called like the {split} split{why}, and may be its parts, or variants of "
        f"the same images; {choose}move all but one away"
    )


def _list_class_names(node: FolderTree, path: tuple[str, ...], branch: SplitFolder) -> list[str]:
    """Return the names of the class folders of a branch in the folder ``node``, whose path is ``path``."""
    return [normalize_nfc(name) for name, _ in _list_classes(node, path, branch)]


def _list_classes(node: FolderTree, path: tuple[str, ...], branch: SplitFolder) -> list[tuple[str, FolderTree]]:
    found: list[tuple[str, FolderTree]] = []
    for way, level in branch.list_folders():
        folder = node
        for name in way[len(path) :]:
            folder = folder.folders[name]
        found += list_level(folder, level)
    return found


def _detect_split_folder(
    top: FolderTree, path: tuple[str, ...], where: str, choice: LayoutOptions, known: frozenset[str] = frozenset()
) -> SplitFolder:
    """Return the branch of one split, whose folder is ``top``; ``known`` has the classes of the training split."""
    if not top.data_folders:
        return SplitFolder(path=path, flat=top.has_images)
    if choice.level is not None:
        return _apply_chosen_level(top, path, where, choice)
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


def _apply_chosen_level(top: FolderTree, path: tuple[str, ...], where: str, choice: LayoutOptions) -> SplitFolder:
    level = choice.level or 0
    if level == TAR_LEVEL:
        raise SourceError(f"{where}: `classes_at` 0 is for tars that are named for their class; give 1, 2 … or last")
    at = join_path(where, path)
    if not list_level(top, level):
        raise SourceError(f"{at}: there are no folders {level} levels down; {format_options(top)}")
    own = split_of_file(path[-1]) if path else choice.split or "train"
    if above := find_split_above(top, level, own or "train"):
        raise SourceError(
            f"{at}: `classes_at` {'last' if level == LAST_LEVEL else level} would make images of {above}/, which is "
            f"called like the {split_of_word(above)} split, {own} images; move what lies beside the folders of splits "
            "away, or give one of these folders as `source`"
        )
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
