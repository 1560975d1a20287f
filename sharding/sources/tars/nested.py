"""Walk a tar together with the tars in it: members of ``train.tar`` in ``all.tar`` are called ``train.tar/…``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import RangeFile, has_system_part, is_image_name, open_range_file
from alexstream.sharding.sources.tars.kind import NUM_FIRST_MEMBERS, has_samples
from alexstream.sharding.sources.tars.walk import ArchiveMember, is_tar, iter_last_members, walk_tar

_MAX_DEPTH = 5  # tars in each other; a deeper one is a member like any other
_EXTENSION = ".tar"
WalkTar = Callable[[RangeFile, str, int, int | None], Iterable[ArchiveMember]]


@dataclass(slots=True)
class InnerTars:
    """The tars found inside a tar: ``paths``, and in ``with_samples`` those that hold WebDataset samples."""

    paths: set[str] = field(default_factory=set)
    with_samples: list[str] = field(default_factory=list)

    def split_path(self, name: str) -> list[str]:
        """Split a member's name into folders and file; an inner tar is a folder without its extension.

        ``./a/b.jpg`` gives a, b.jpg, and ``train.tar/cat/1.jpg`` gives train, cat, 1.jpg.
        """
        parts = split_member_path(name)
        if self.paths:
            inner = [depth for depth in range(1, len(parts)) if "/".join(parts[:depth]) in self.paths]
            for depth in inner:
                parts[depth - 1] = parts[depth - 1][: -len(_EXTENSION)]
        return parts

    def find_duplicate(self, names: Iterable[str]) -> str:
        """Return an inner tar beside which a folder of the same name lies, by the members' ``names``; "" if none."""
        folders = {path[: -len(_EXTENSION)]: path for path in self.paths}
        for name in names if folders else ():
            parts = split_member_path(name)
            for depth in range(1, len(parts)):
                if (path := folders.get("/".join(parts[:depth]))) is not None:
                    return path
        return ""


def split_member_path(name: str) -> list[str]:
    """Split a member's name into folders and file: ``./a/b.jpg`` gives a, b.jpg."""
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def iter_nested_members(
    file: RangeFile,
    where: str,
    inner: InnerTars,
    walk: WalkTar = iter_last_members,
    span: tuple[int, int | None] = (0, None),
    above: str = "",
    depth: int = 1,
) -> Iterator[ArchiveMember]:
    """Yield the members of the tar in the bytes ``span`` of ``file``, each tar in it replaced by its own members.

    ``walk`` yields the members of one tar. ``inner`` receives the paths of the tars found. Raises SourceError for a
    damaged tar, and for a member called ``.tar`` that is none.
    """
    for member in walk(file, where, *span):
        name = above + member.name
        if member.reason or depth >= _MAX_DEPTH or not is_inner_tar(member):
            yield member._replace(name=name)
            continue
        there = f"{where}/{member.name}"
        _check_is_tar(file, member, there)
        path = "/".join(split_member_path(name))
        inner.paths.add(path)
        inside = (member.offset, member.offset + member.size)
        first = [m for m in islice(walk_tar(file, there, *inside), NUM_FIRST_MEMBERS) if not m.reason]
        if has_samples(first):
            inner.with_samples.append(path)
        yield from iter_nested_members(file, there, inner, walk, inside, f"{path}/", depth + 1)


def is_inner_tar(member: ArchiveMember) -> bool:
    """Return whether a member is a tar by its name."""
    return member.name.lower().endswith(_EXTENSION) and not member.reason and not has_system_part(member.name)


def _check_is_tar(file: RangeFile, member: ArchiveMember, there: str) -> None:
    start = file.peek_at(member.offset, 512) if member.size >= 512 else b""
    if not start or (any(start) and not is_tar(file, member.offset)):
        raise SourceError(
            f"{there}: is not a tar (empty, compressed, or damaged); pack it again, or unpack the tar around it and "
            "leave it out"
        )


def count_tar_images(path: Path) -> int:
    """Return the number of images, by their names, in a tar and in the tars in it; 0 if it is damaged or no tar."""
    try:
        with open_range_file(path) as file:
            members = iter_nested_members(file, path.name, InnerTars())
            return sum(not m.reason and not has_system_part(m.name) and is_image_name(m.name) for m in members)
    except SourceError:
        return 0
