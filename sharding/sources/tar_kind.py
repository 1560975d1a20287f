"""What a tar holds, told by its first members: names of archives are changed and mean little."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from sharding.errors import SourceError
from sharding.sources import ilsvrc
from sharding.sources.place import Item, RangeFile, files_of, has_system_part, open_ranges
from sharding.sources.tar_walk import Member, is_tar, walk_tar

# train: a tar of one tar per class; class: one of these, or images whose names tell their classes, class-val with those
# of validation images; folders: class folders in a tar; samples: WebDataset.
KINDS = ("train", "class", "class-val", "val", "test", "folders", "samples", "devkit", "unlabelled", "empty")
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "jp2", "avif"})
LABEL_EXTENSIONS = ("cls", "json")
_LOOK_AT = 32


def tar_kinds(folder: Path, listed: Sequence[Item]) -> dict[str, str]:
    """The kind of every tar in a folder. Raises SourceError for a file called ``.tar`` that is none."""
    return {name: tar_kind(folder / name) for name in files_of(listed, ".tar")}


def tar_kind(path: Path) -> str:
    """One of ``KINDS``. Raises SourceError if the file is no tar or is cut off within its first members."""
    with open_ranges(path) as file:
        if file.size == 0 or not (is_tar(file) or not any(file.peek_at(0, 512))):
            raise SourceError(
                f"{path}: is no tar (empty, compressed, or a page that a server sent instead); fetch it again"
            )
        members = (m for m in walk_tar(file, path.name) if not m.reason and not has_system_part(m.name))
        return _kind(file, list(islice(members, _LOOK_AT)), path.name)


def _kind(file: RangeFile, members: Sequence[Member], tar_name: str) -> str:
    names = [member.name.rpartition("/")[2] for member in members]
    if not names:
        return "class" if ilsvrc.is_wnid(tar_name.rpartition(".")[0]) else "empty"
    extensions = {name.lower().rpartition(".")[2] for name in names}
    if any(name.lower().endswith(".tar") for name in names):
        return "train"
    if "meta.mat" in names or extensions & {"mat"}:
        return "devkit"
    if _keys(members, LABEL_EXTENSIONS) & _keys(members, IMAGE_EXTENSIONS):
        return "samples"
    if any("/" in member.name.removeprefix("./").partition("/")[2] for member in members):
        return "folders"
    inside = {member.name.removeprefix("./").partition("/")[0] for member in members if "/" in member.name[2:]}
    return _flat_kind(names, inside, tar_name)


def _keys(members: Sequence[Member], extensions: Collection[str]) -> set[tuple[str, str]]:
    """Sample keys, all before the first dot, of the members that have one of these extensions."""
    split = [member.name.rpartition("/") for member in members]
    return {(d, base.partition(".")[0]) for d, _, base in split if base.lower().rpartition(".")[2] in extensions}


def _flat_kind(names: Sequence[str], folders: set[str], tar_name: str) -> str:
    if any(ilsvrc.is_wnid(folder) for folder in folders):
        return "folders"
    if any(ilsvrc.val_number(name) is not None for name in names):
        return "val"
    if any(ilsvrc.is_test_name(name) for name in names):
        return "test"
    if folders:
        return "folders"
    if ilsvrc.is_wnid(tar_name.rpartition(".")[0]):
        return "class"
    if all(ilsvrc.canonical(name)[1] for name in names):
        return "class" if all(name.startswith("n") for name in names) else "class-val"
    return "unlabelled"
