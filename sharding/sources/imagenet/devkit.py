"""Load the development kit: class names, ILSVRC2012 ids, and the class of every validation image.

Input: the devkit as ``.tar.gz``, as ``.tar``, or unpacked. Output: ``Devkit``, and from it a ``ValLabels`` for images
without labels of their own; ``kaggle`` builds a ``ValLabels`` from its table too.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.core.schema import from_json
from alexstream.core.storage import open_regular
from alexstream.sharding.sources.files import (
    MAX_SMALL_BYTES,
    FolderItem,
    MemoryFile,
    is_gzip,
    is_system,
    read_small_file,
    select_files,
)
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.mat import read_struct_rows
from alexstream.sharding.sources.tars.walk import walk_tar

_GROUND_TRUTHS = (ilsvrc.GROUND_TRUTH, ilsvrc.GROUND_TRUTH.replace("2012", "2010"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ValLabels:
    """Classes of the validation images: ``in_order``, one per image sorted by name, or ``by_stem``, by file stem."""

    where: str
    in_order: Sequence[str] = ()
    by_stem: Mapping[str, str] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def labels_for(self, file_names: Sequence[str], where: str) -> tuple[list[str | None], list[str]]:
        """Return the class of each of the sorted ``file_names``, None for an image without a label; and notices.

        Line i of the ground truth is the i-th name. If the numbers of images and lines differ, the number in the name
        selects the line. Raises SourceError where neither is certain.
        """
        if self.by_stem:
            return [self.by_stem.get(name.partition(".")[0]) for name in file_names], []
        if len(file_names) == len(self.in_order):
            return list(self.in_order), []
        numbers = [ilsvrc.val_number(name) for name in file_names]
        count = f"{where}: {len(file_names):,} images, where {self.where} has {len(self.in_order):,} lines"
        inside = [number for number in numbers if number is not None and 1 <= number <= len(self.in_order)]
        if len(set(inside)) < len(numbers):
            raise SourceError(
                f"{count}, and the images' names do not number these lines; fetch the archive and the devkit that "
                f"belong together ({ilsvrc.VAL_TAR}, {ilsvrc.DEVKIT})"
            )
        return [self.in_order[number - 1] for number in inside], [f"{count}: partial, each labelled by its number"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Devkit:
    """A devkit: its location, its leaf classes, and its ground truth as ILSVRC2012 ids (empty if it has none)."""

    where: str
    ids: Mapping[str, int]
    names: Mapping[str, str]
    ground_truth: tuple[int, ...]

    def val_labels(self) -> ValLabels:
        """Return the classes of the validation images. Raises SourceError without ground truth, or for a bad id."""
        if not self.ground_truth:
            raise SourceError(f"{self.where}: has no {ilsvrc.GROUND_TRUTH}; {ilsvrc.FETCH_DEVKIT}")
        wnid = {number: name for name, number in self.ids.items()}
        wrong = next((line for line, number in enumerate(self.ground_truth, 1) if number not in wnid), None)
        if wrong is not None:
            raise SourceError(
                f"{self.where}: line {wrong} of {ilsvrc.GROUND_TRUTH} is {self.ground_truth[wrong - 1]}, which is the "
                f"id of none of the {len(wnid)} classes in meta.mat; {ilsvrc.FETCH_DEVKIT}"
            )
        in_order = [wnid[number] for number in self.ground_truth]
        return ValLabels(where=self.where, in_order=in_order, ids=self.ids, names=self.names)


def find_devkit(folder: Path, listed: Sequence[FolderItem]) -> tuple[str, Devkit] | None:
    """Find the devkit in a folder, or that is the folder; return its name there ("." for itself) and the devkit.

    None if there is none. Raises SourceError for one that cannot be read, and for that of ILSVRC-2010.
    """
    names = {item.name for item in listed}
    if "meta.mat" in names or ("data" in names and (folder / "data" / "meta.mat").is_file()):
        return ".", _load_unpacked(folder)
    for item in listed:
        path = folder / item.name
        if item.is_dir and not is_system(item.name) and _find_data_folder(path) is not None:
            return item.name, _load_unpacked(path)
    for name in select_files(listed, ".tar.gz", ".tgz", ".tar"):
        kit = _load_packed(folder / name, name) if "devkit" in name.lower() or is_gzip(folder / name) else None
        if kit is not None:
            return name, kit
    return None


def _find_data_folder(folder: Path) -> Path | None:
    return next((path for path in (folder / "data", folder) if (path / "meta.mat").is_file()), None)


def _load_unpacked(folder: Path) -> Devkit:
    data = _find_data_folder(folder)
    if data is None:
        raise SourceError(f"{folder}: no meta.mat in it; {ilsvrc.FETCH_DEVKIT}")
    truth = {name: read_small_file(data / name) for name in _GROUND_TRUTHS if (data / name).is_file()}
    return _parse_devkit(folder.name, read_small_file(data / "meta.mat"), truth)


def _load_packed(path: Path, name: str) -> Devkit | None:
    """Load the devkit from a small archive; None if the archive holds something else, or is too large."""
    try:
        packed = is_gzip(path)
        with open_regular(path) as file:
            data = gzip.GzipFile(fileobj=file).read(MAX_SMALL_BYTES + 1) if packed else file.read(MAX_SMALL_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: cannot be read ({error}); {ilsvrc.FETCH_DEVKIT}") from error
    if len(data) > MAX_SMALL_BYTES:
        return None
    held: dict[str, bytes] = {}
    for member in walk_tar(MemoryFile(data), name):
        base = member.name.rpartition("/")[2]
        if base in ("meta.mat", *_GROUND_TRUTHS) and not member.reason:
            held[base] = data[member.offset : member.offset + member.size]
    meta = held.pop("meta.mat", None)
    return None if meta is None else _parse_devkit(name, meta, held)


def _parse_devkit(where: str, meta: bytes, truths: Mapping[str, bytes]) -> Devkit:
    ids, names = _parse_meta(meta, where)
    if truths and ilsvrc.GROUND_TRUTH not in truths:
        raise SourceError(f"{where}: the devkit of ILSVRC-2010, whose labels mean other classes; {ilsvrc.FETCH_DEVKIT}")
    try:
        lines = tuple(int(line) for line in truths.get(ilsvrc.GROUND_TRUTH, b"").split())
    except ValueError as error:
        raise SourceError(
            f"{where}: {ilsvrc.GROUND_TRUTH} has lines that are not numbers; {ilsvrc.FETCH_DEVKIT}"
        ) from error
    return Devkit(where=where, ids=ids, names=names, ground_truth=lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaf:
    ILSVRC2012_ID: int
    WNID: str
    words: str


_LEAF_FIELDS = ("ILSVRC2012_ID", "WNID", "words")


def _parse_meta(data: bytes, where: str) -> tuple[dict[str, int], dict[str, str]]:
    """Return ids and names of the leaf classes; meta.mat also lists inner nodes, which label no image."""
    try:
        rows = read_struct_rows(data, "synsets")
        if not rows or "ILSVRC2012_ID" not in rows[0]:
            raise SourceError(
                f"{where}: meta.mat has no ILSVRC2012_ID: a devkit of another year; {ilsvrc.FETCH_DEVKIT}"
            )
        leaves = [
            from_json(_Leaf, {name: row.get(name) for name in _LEAF_FIELDS}) for row in rows if row["num_children"] == 0
        ]
    except (ValueError, KeyError) as error:
        raise SourceError(f"{where}: meta.mat cannot be read ({error}); {ilsvrc.FETCH_DEVKIT}") from error
    ids = {leaf.WNID: leaf.ILSVRC2012_ID for leaf in leaves}
    names = {leaf.WNID: leaf.words for leaf in leaves}
    if len(set(ids.values())) < len(leaves):
        raise SourceError(f"{where}: meta.mat gives an id or a class twice; {ilsvrc.FETCH_DEVKIT}")
    return ids, names
