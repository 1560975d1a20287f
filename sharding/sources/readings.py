"""Find signs that folders may not be classes, and list how they may be read, each reading with its option."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of, normalize_nfc
from alexstream.sharding.sources.folder_tree import LAST_LEVEL, MAX_LEVEL, FolderTree, list_level
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.split_words import is_unlabelled_name, split_of_word, splits_of_folders

_IMAGE_FOLDER_WORDS = (
    "image images img imgs photo photos picture pictures pics jpg jpeg jpegs jpegimages png files data raw"
)
_COMPANION_WORDS = "mask masks annotation annotations label labels bbox bboxes segmentation segmentations"
_PART = re.compile(
    r"((?:.*[^a-z])?(?:part|batch|chunk|shard|fold|folder|dir|image|img|photo|picture|data|dataset|piece|archive)s?)"
    r"(?:[-_ .]*\d+|[-_ .]+[a-z])"
)
_PART_OF_SPLIT = re.compile(r"[-_ .]*(?:part|x)?[-_ .]*\d+$|[-_ .]+[a-z]$")
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
    if unlabelled := next(filter(is_unlabelled_name, node.data_folders), ""):
        alone += f", or move {unlabelled}/ away if its images have no labels"
    by_table = are_parts(node.data_folders) or any(is_image_folder_name(name) or told[name] for name in flat)
    table = node.tables[0] if node.tables else "a table"
    return alone + (f", or `labels` FILE if {table} tells the class of each image" if by_table else "")


def _find_ambiguity(node: FolderTree) -> str:
    holders = node.data_folders
    if sign := _find_splits_below(holders):
        return sign
    if all(ilsvrc.is_wnid(name) for name in holders) and not node.has_images:
        return ""
    if node.has_images:
        table = f", and a table ({node.tables[0]})" if node.tables else ""
        return f"images lie beside the class folders ({abbreviate(holders)}){table}"
    splits = [name for name, split in splits_of_folders(holders).items() if split]
    if splits and [name.lower() for name in splits] != ["train"]:
        return f"folders of images are called like splits ({abbreviate(splits)}) and hold no class folders"
    others = [name for name in holders if is_image_folder_name(name) or _tells_no_class(name)]
    if others:
        return f"folders of images are called {abbreviate(others)}, which is no name of a class"
    if sign := _find_depth_ambiguity(node):
        return sign
    if are_parts(holders):
        return f"folders of images are called like parts of one set ({abbreviate(holders)})"
    return ""


def _tells_no_class(name: str) -> bool:
    return name.lower() in _COMPANION_NAMES or is_unlabelled_name(name)


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
    same = set.intersection(*(set(folder.data_folders) for folder in deep.values()))
    if same:
        return f"all of {abbreviate(deep)} hold folders of the same names ({abbreviate(sorted(same))})"
    return f"the folders {abbreviate(deep)} hold no images, only other folders"


def _find_splits_below(holders: Mapping[str, FolderTree]) -> str:
    """Return the sign that class folders without images of their own hold folders of splits; "" if they do not."""
    deep = [(name, list(folder.data_folders)) for name, folder in holders.items() if not folder.has_images]
    if not deep or not all(any(map(split_of_word, inside)) for _, inside in deep):
        return ""
    splits = sorted({name for _, inside in deep for name in inside if split_of_word(name)})
    if len(deep) < len(holders) and not any(split_of_word(name) != "train" for name in splits):
        return ""
    first = deep[0][0]
    return (
        f"class folders hold folders of splits ({abbreviate(splits)}), and each reading makes one split of all: to "
        f"keep them, move {first}/{splits[0]} to {splits[0]}/{first} and so on, or give a table of file, class and "
        "split with `labels`"
    )


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
    return told or len(set(names.values())) == 1  # folders of splits were told apart before


def format_single_class_options(top: FolderTree) -> str:
    """Return the possible interpretations of a folder in which only one class was found."""
    tables = [table for folder in (top, *top.data_folders.values()) for table in folder.tables]
    return (
        f"{format_options(top)}, or `labels` FILE if {tables[0] if tables else 'a table'} tells the class of each image"
    )


def format_options(*tops: FolderTree) -> str:
    """Return the possible interpretations, each with the option that selects it, as the end of a message.

    ``tops``: the folders whose class folders are meant; several where a split has parts.
    """
    return f"choose: {', '.join(list_readings(*tops))}"


def list_readings(*tops: FolderTree) -> list[str]:
    """Return the possible interpretations of folders as classes, each with the option that selects it.

    None makes training images of a folder that is called like another split.
    """
    readings: list[str] = []
    known: list[set[int]] = []  # the folders of each reading, by their identity
    for level in (*range(1, MAX_LEVEL), LAST_LEVEL):
        names, folders = _list_read(level, tops)
        if names and folders not in known and not any(find_split_above(top, level) for top in tops):
            same = any(f" for {_format_classes(names)}" in reading for reading in readings)
            depth = " at any depth" if same and level == LAST_LEVEL else ""
            readings.append(f"`classes_at` {_format_level(level)} for {_format_classes(names)}{depth}")
            known.append(folders)
    several = [reading for reading in readings if " for 1 class " not in reading]
    return several or readings


def format_reading(level: int, *tops: FolderTree) -> str:
    """Return the interpretation of one level with its option; "" if no folders of images are there."""
    names, _ = _list_read(level, tops)
    return f"`classes_at` {_format_level(level)} for {_format_classes(names)}" if names else ""


def _list_read(level: int, tops: Sequence[FolderTree]) -> tuple[list[str], set[int]]:
    """Return the classes at a level, and their folders by identity."""
    found = [(name, folder) for top in tops for name, folder in list_level(top, level) if folder.has_images_below]
    return list(dict.fromkeys(normalize_nfc(name) for name, _ in found)), {id(folder) for _, folder in found}


def find_split_above(top: FolderTree, level: int, own: str = "train") -> str:
    """Return a folder above the classes of ``level`` that is called like another split than ``own``; "" if none is."""
    for depth in range(1, MAX_LEVEL if level == LAST_LEVEL else level):
        for name, folder in list_level(top, depth):
            inside = folder.data_folders if level == LAST_LEVEL else folder.has_images_below
            if inside and split_of_word(name) not in (None, own):
                return name
    return ""


def are_parts_of_split(names: Collection[str]) -> bool:
    """Return whether folders of one split differ in nothing but a number or letter at the end: ``train_1`` …"""
    return len({_PART_OF_SPLIT.sub("", name.lower()) for name in names}) == 1


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
