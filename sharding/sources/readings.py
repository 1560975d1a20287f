"""Find signs that folders may not be classes, and list how they may be read, each reading with its option."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of, normalize_nfc
from alexstream.sharding.sources.folder_tree import LAST_LEVEL, MAX_LEVEL, FolderTree, list_level
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.split_words import split_of_word, splits_of_folders

_IMAGE_FOLDER_WORDS = (
    "image images img imgs photo photos picture pictures pics jpg jpeg jpegs jpegimages png files data raw"
)
_COMPANION_WORDS = "mask masks annotation annotations label labels bbox bboxes segmentation segmentations"
_PART = re.compile(
    r"((?:.*[^a-z])?(?:part|batch|chunk|shard|fold|folder|dir|image|img|photo|picture|data|dataset|piece|archive)s?)"
    r"(?:[-_ .]*\d+|[-_ .]+[a-z])"
)
_IMAGE_FOLDER_NAMES, _COMPANION_NAMES = frozenset(_IMAGE_FOLDER_WORDS.split()), frozenset(_COMPANION_WORDS.split())


def check_classes(node: FolderTree, top: FolderTree, at: str) -> None:
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
        return f"images lie beside the class folders ({abbreviate(holders)}){table}"
    splits = [name for name, split in splits_of_folders(holders).items() if split]
    if splits and [name.lower() for name in splits] != ["train"]:
        return f"folders of images are called like splits ({abbreviate(splits)}) and hold no class folders"
    others = [name for name in holders if is_image_folder_name(name) or name.lower() in _COMPANION_NAMES]
    if others:
        return f"folders of images are called {abbreviate(others)}, which is no name of a class"
    if sign := _find_depth_ambiguity(node):
        return sign
    if are_parts(holders):
        return f"folders of images are called like parts of one set ({abbreviate(holders)})"
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
            f"folders hold tars and no images ({abbreviate(packed)}), where others hold images: if they are classes, "
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
            f"folders hold no images but other folders ({abbreviate(doubtful)}), where others hold images"
            if doubtful
            else ""
        )
    below = [set(folder.data_folders) for folder in deep.values()]
    splits = sorted({name for names in below for name in names if split_of_word(name)})
    if all(any(split_of_word(name) for name in names) for names in below):
        return (
            f"every class folder holds folders of splits ({abbreviate(splits)}), and each reading makes one split "
            "of all: to "
            f"keep them, move {next(iter(deep))}/{splits[0]} to {splits[0]}/{next(iter(deep))} and so on, or give a "
            "table of file, class and split with `labels`"
        )
    same = set.intersection(*below)
    if same:
        return f"all of {abbreviate(deep)} hold folders of the same names ({abbreviate(sorted(same))})"
    return f"the folders {abbreviate(deep)} hold no images, only other folders"


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


def format_single_class_options(top: FolderTree) -> str:
    """Return the possible interpretations of a folder in which only one class was found."""
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
    for level in (*range(1, MAX_LEVEL), LAST_LEVEL):
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
    return f"{count_of(len(names), 'class', 'classes')} ({abbreviate(names)})"


def abbreviate(names: Sequence[str] | Mapping[str, FolderTree]) -> str:
    """Return names as a list for a message: of more than four, the first three and the last."""
    listed = list(names)
    return ", ".join(listed if len(listed) <= 4 else [*listed[:3], "…", listed[-1]])


def is_image_folder_name(name: str) -> bool:
    """Return whether a folder name denotes images rather than a class: ``images``, ``JPEG``, ``data``."""
    return name.lower() in _IMAGE_FOLDER_NAMES


def join_path(where: str, path: Sequence[str]) -> str:
    """Return the place of a folder for a message."""
    return "/".join([where, *path])
