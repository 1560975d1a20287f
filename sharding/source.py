"""Class-per-folder source in; sorted ``SourceImage`` records with labels and unique keys out.

Only names are looked at here; whether a file is an image is decided by its content, in ``image``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sharding.errors import SourceError

SPLITS = ("train", "val", "test")
_SPLIT_NAMES = {name: name for name in SPLITS} | {"validation": "val", "valid": "val"}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
# Names that ImageNet itself made unique; the same image keeps its key whatever form the source comes in.
_CANONICAL = re.compile(r"n\d{8}_\d+|ILSVRC20\d\d_(?:val|test)_\d{8}")
_MAX_KEY = 80  # USTAR stores 100 bytes of name; the extension and a margin stay free


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """One file of the source: ``path`` is relative to the source folder, in POSIX form."""

    path: str
    wnid: str
    label: int
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A listed source: classes (index = label), the images to try, and what was excluded by name."""

    root: Path
    classes: tuple[str, ...]
    images: tuple[SourceImage, ...]
    excluded: tuple[tuple[str, str], ...]  # (relative path, reason)


def split_folders(root: Path) -> dict[str, Path]:
    """The splits a source folder holds: ``{"train": root/train, "val": root/val}``, or empty if it is one split.

    A folder is a collection of splits when it contains a ``train`` that has folders in it; ``validation`` and
    ``valid`` mean ``val``. Raises SourceError if ``root`` is missing or no folder, or if other folders stand beside
    the splits: as classes they would be wrong, and leaving them out would lose them.
    """
    folders = [entry.name for entry in _scan(root) if entry.is_dir() and not _system(entry.name)]
    if "train" not in folders or not any(path.is_dir() for path in (root / "train").iterdir()):
        return {}
    named = {name: _SPLIT_NAMES.get(name) for name in folders}
    found = [split for split in named.values() if split is not None]
    if None in named.values() or len(set(found)) < len(found):
        raise SourceError(
            f"{root}: holds train/ with class folders, and beside it {', '.join(sorted(set(folders) - {'train'}))}; "
            f"expected only train, val and test, each once: move the others away, or shard {root / 'train'} alone"
        )
    by_split = {split: root / name for name, split in named.items()}
    return {split: by_split[split] for split in SPLITS if split in by_split}


def split_named(folder_name: str) -> str:
    """The split that a folder's name means; ``train`` for a name that means none."""
    return _SPLIT_NAMES.get(folder_name, "train")


def list_source(root: Path, classes: Sequence[str] | None = None) -> Source:
    """List a class-per-folder source.

    ``classes`` fixes the label order (say, the training split's); without it the label of a class is its
    position among the sorted folder names (numbers sort as numbers), which for ImageNet is the sorted-wnid
    order of torchvision, timm and Caffe. Files are found at any depth below a class folder.

    Raises SourceError if the folder is missing or empty, holds no class folder with files, or holds a class
    that ``classes`` does not name.
    """
    entries = _scan(root)
    found = sorted((e.name for e in entries if e.is_dir() and not _system(e.name)), key=_class_order(entries))
    order = tuple(found if classes is None else classes)
    unknown = sorted(set(found) - set(order))
    if unknown:
        raise SourceError(
            f"{root}: class folder {unknown[0]!r} ({len(unknown)} such) is not among the {len(order)} classes "
            "of the training split; shard both splits from sources with the same classes"
        )
    excluded = [(e.name, _top_level_reason(e)) for e in entries if e.name not in found]
    images: list[tuple[str, str]] = []
    for wnid in found:
        for path in _walk(root / wnid, wnid):
            if _system(os.path.basename(path)):
                excluded.append((path, "system file"))
            else:
                images.append((path, wnid))
    if not images:
        raise SourceError(
            f"{root}: no images found; expected one folder per class with image files in it "
            f"(received {len(found)} class folders, {len(excluded)} other entries)"
        )
    label = {wnid: index for index, wnid in enumerate(order)}
    keys = assign_keys([path for path, _ in images])
    records = (
        SourceImage(path=path, wnid=wnid, label=label[wnid], key=key)
        for (path, wnid), key in zip(images, keys, strict=True)
    )
    return Source(root=root, classes=order, images=tuple(records), excluded=tuple(sorted(excluded)))


def assign_keys(paths: Sequence[str]) -> list[str]:
    """Unique sample keys for relative paths ``class/…/name.ext``: letters, digits, ``_`` and ``-`` only.

    ImageNet's own names stay as they are (``n01440764_10026``); others become ``class_name``. Where making
    them safe changed or shortened a name, or two names fall together, 8 hex digits of the path's sha256 are
    added. A dot would end the key for every WebDataset reader, a space would break DALI's index.
    """
    wanted = [_plain_key(path) for path in paths]
    safe = [re.sub(r"[^A-Za-z0-9_-]", "-", key)[:_MAX_KEY] for key in wanted]
    # Case is folded, since two keys that differ in case alone fall together on some file systems.
    taken = Counter(key.lower() for key in safe)
    return [
        key if key == want and taken[key.lower()] == 1 else f"{key}-{_path_hash(path)}"
        for path, want, key in zip(paths, wanted, safe, strict=True)
    ]


def _plain_key(path: str) -> str:
    parts = path.split("/")
    stem = parts[-1].rsplit(".", 1)[0]
    return stem if _CANONICAL.fullmatch(stem) else "_".join([*parts[:-1], stem])


def _path_hash(path: str) -> str:
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _class_order(entries: Sequence[os.DirEntry[str]]) -> type[int] | type[str]:
    """Numbers sort as numbers ("2" before "10"), but only if every class folder is one."""
    names = [e.name for e in entries if e.is_dir() and not _system(e.name)]
    return int if names and all(re.fullmatch(r"[0-9]+", name) for name in names) else str


def _system(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _top_level_reason(entry: os.DirEntry[str]) -> str:
    return "system file" if _system(entry.name) else "not inside a class folder"


def _scan(root: Path) -> list[os.DirEntry[str]]:
    if not root.exists():
        raise SourceError(f"source folder {root} does not exist; give --src a folder with one folder per class")
    if not root.is_dir():
        raise SourceError(f"source {root} is a file; expected a folder with one folder per class")
    try:
        with os.scandir(root) as entries:
            listed = sorted(entries, key=lambda e: e.name)
    except OSError as error:
        raise SourceError(f"cannot list {root}: {error.strerror}") from error
    if not listed:
        raise SourceError(f"source folder {root} is empty; expected one folder per class with image files in it")
    return listed


def _walk(folder: Path, relative: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda e: e.name)
    except OSError as error:
        raise SourceError(f"cannot list {folder}: {error.strerror}; every file must be accounted for") from error
    for entry in listed:
        path = f"{relative}/{entry.name}"
        if entry.is_dir(follow_symlinks=False) and not _system(entry.name):
            yield from _walk(folder / entry.name, path)
        else:
            yield path
