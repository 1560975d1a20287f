"""Determine what a tar holds from its first members; archives get renamed, so file names say little."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain, islice
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import IMAGE_EXTENSIONS as IMAGE_EXTENSIONS
from alexstream.sharding.sources.files import (
    FolderItem,
    has_system_part,
    is_image_name,
    open_range_file,
    select_files,
)
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.split_words import split_of_file
from alexstream.sharding.sources.tars.walk import ArchiveMember, is_tar, walk_tar

# train: a tar with a tar per class of ImageNet. tars: any other tar in which tars lie. class: one of these, or images
# with their class in the name; class-val: the same with validation images. folders: class folders in a tar. samples:
# WebDataset.
KINDS = ("train", "tars", "class", "class-val", "val", "test", "folders", "samples", "devkit", "unlabelled", "empty")
FOLDER_KINDS = ("folders", "tars")  # whose folders, and tars in the place of folders, are classes or splits
LABEL_EXTENSIONS = ("cls", "json")
NUM_FIRST_MEMBERS = 32
_MORE_MEMBERS = 20_000  # members to read if the first ones are all images or all labels


def detect_tar_kinds(folder: Path, listed: Sequence[FolderItem]) -> dict[str, str]:
    """Return the kind of every tar in a folder. Raises SourceError for a ``.tar`` file that is not a tar."""
    return {name: detect_tar_kind(folder / name) for name in select_files(listed, ".tar")}


def detect_tar_kind(path: Path) -> str:
    """Return one of ``KINDS``. Raises SourceError if the file is not a tar, or truncated in its first members."""
    with open_range_file(path) as file:
        if file.size == 0 or not (is_tar(file) or not any(file.peek_at(0, 512))):
            raise SourceError(
                f"{path}: is not a tar (empty, compressed, or a web page that a server sent instead); fetch it again"
            )
        members = (m for m in walk_tar(file, path.name) if not m.reason and not has_system_part(m.name))
        first = list(islice(members, NUM_FIRST_MEMBERS))
        if any(map(_is_inner_tar, first)):
            return _detect_outer_kind(chain(first, members), path.name)
        kind = _detect_kind(first, path.name)
        if kind in ("unlabelled", "folders", "class") and _may_be_separated(first, path.name):
            further = [*first, *islice(members, _MORE_MEMBERS)]
            return "samples" if has_samples(further) else kind
        return kind


def _may_be_separated(first: Sequence[ArchiveMember], tar_name: str) -> bool:
    """Return whether images and labels of WebDataset may be far apart: all first members in one folder."""
    folders = {member.name.rpartition("/")[0] for member in first}
    return len(folders) == 1 and not ilsvrc.is_wnid(tar_name.rpartition(".")[0])


def has_samples(members: Sequence[ArchiveMember]) -> bool:
    """Return whether an image and a label of the same key, as WebDataset has them, are among the members."""
    return bool(_sample_keys(members, LABEL_EXTENSIONS) & _sample_keys(members, IMAGE_EXTENSIONS))


def _is_inner_tar(member: ArchiveMember) -> bool:
    return member.name.lower().endswith(".tar")


def _detect_outer_kind(members: Iterable[ArchiveMember], tar_name: str) -> str:
    """Return ``train`` for a tar of nothing but tars that are named for classes of ImageNet, else ``tars``."""
    if split_of_file(tar_name) not in (None, "train"):
        return "tars"
    for member in members:
        stem = member.name.rpartition("/")[2].rpartition(".")[0]
        if is_image_name(member.name) or (_is_inner_tar(member) and not ilsvrc.is_wnid(stem)):
            return "tars"
    return "train"


def _detect_kind(members: Sequence[ArchiveMember], tar_name: str) -> str:
    names = [member.name.rpartition("/")[2] for member in members]
    if not names:
        return "class" if ilsvrc.is_wnid(tar_name.rpartition(".")[0]) else "empty"
    extensions = {name.lower().rpartition(".")[2] for name in names}
    if "meta.mat" in names or extensions & {"mat"}:
        return "devkit"
    if has_samples(members):
        return "samples"
    if any("/" in member.name.removeprefix("./").partition("/")[2] for member in members):
        return "folders"
    paths = [member.name.removeprefix("./") for member in members]
    inside = {path.partition("/")[0] for path in paths if "/" in path}
    return _detect_flat_kind(names, inside, tar_name)


def _sample_keys(members: Sequence[ArchiveMember], extensions: Collection[str]) -> set[tuple[str, str]]:
    """Return the sample keys (up to the first dot) of the members that have one of these extensions."""
    split = [member.name.rpartition("/") for member in members]
    return {(d, base.partition(".")[0]) for d, _, base in split if base.lower().rpartition(".")[2] in extensions}


def _detect_flat_kind(names: Sequence[str], folders: set[str], tar_name: str) -> str:
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
    if all(ilsvrc.canonical_name(name)[1] for name in names):
        return "class" if all(name.startswith("n") for name in names) else "class-val"
    return "unlabelled"
