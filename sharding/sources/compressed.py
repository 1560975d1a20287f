"""Decide about compressed archives beside what is read: images cannot be read in them in place.

Where one may hold a split or a class that is not there otherwise, SourceError says to unpack it; else it is left out.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.core.storage import open_regular
from alexstream.core.text import normalize_nfc
from alexstream.sharding.sources.files import FolderItem, has_system_part, is_image_name, is_system
from alexstream.sharding.sources.split_words import split_of_file

COMPRESSED = "compressed archive, not read: unpack it"  # a reason to leave it out
_EXTENSION = re.compile(r"\.(zip|rar|7z|tgz|tbz2?|txz|(tar\.)?(gz|bz2|xz|zst))$", re.IGNORECASE)
_MAX_MEMBERS = 1000  # of a compressed tar that are looked at


def is_compressed(name: str) -> bool:
    """Return whether a file is a compressed archive by its name."""
    return _EXTENSION.search(name) is not None


def check_split_archives(folder: Path, listed: Sequence[FolderItem], splits: Collection[str]) -> None:
    """Raise SourceError for a compressed archive of images that is named for a split other than ``splits``."""
    for name in _find_archives(listed):
        told = split_of_file(_stem(name))
        if told and told not in splits and _may_hold_images(folder / name):
            readings = ", ".join(f"`split` {split}" for split in splits)
            raise SourceError(
                f"{folder}: {name} is named for the {told} split, of which nothing else is there, and is compressed, "
                f"so that images cannot be read in place; unpack it, or choose what is unpacked alone: {readings}"
            )


def check_class_archives(folder: Path, listed: Sequence[FolderItem], known: Collection[str], options: str) -> None:
    """Raise SourceError, with the ``options``, for a compressed archive beside class folders that may be one more.

    That is one of images that has neither the name of a folder among ``known``, nor such folders in it.
    """
    folders = {normalize_nfc(name).lower() for name in known}
    for name in _find_archives(listed):
        if normalize_nfc(_stem(name)).lower() not in folders and _may_hold_images(folder / name, folders):
            raise SourceError(
                f"{folder}: {name} lies beside class folders, may be a class or a split, and is compressed, so that "
                f"images cannot be read in place; unpack it, or, to leave it out, {options}"
            )


def _find_archives(listed: Sequence[FolderItem]) -> list[str]:
    return [i.name for i in listed if not i.is_dir and not is_system(i.name) and is_compressed(i.name)]


def _stem(name: str) -> str:
    return _EXTENSION.sub("", name)


def _may_hold_images(path: Path, copied: Collection[str] = ()) -> bool:
    """Return whether an archive may hold images that do not lie in folders named as the ``copied`` ones."""
    try:
        names = _list_names(path)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError):
        names = None
    if names is None:
        return re.search(r"\.(zip|rar|7z|t\w+|tar\.\w+)$", path.name.lower()) is not None
    images = [name for name in names if is_image_name(name) and not has_system_part(name)]
    packed = [name for name in names if name.lower().endswith(".tar")]
    own = [n for n in images if not any(normalize_nfc(part).lower() in copied for part in n.split("/")[:-1])]
    return bool(own or packed)


def _list_names(path: Path) -> list[str] | None:
    """Return names of the members of an archive; None for a kind that cannot be listed."""
    name = path.name.lower()
    if name.endswith((".rar", ".7z", ".zst")):
        return None
    with open_regular(path) as file:
        if name.endswith(".zip"):
            with zipfile.ZipFile(file) as members:
                return members.namelist()
        with tarfile.open(fileobj=file, mode="r|*") as packed:
            return [member.name for member in islice(packed, _MAX_MEMBERS) if member.isfile()]
