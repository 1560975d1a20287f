"""Detect class folders in tars: data sets that were packed again, with or without the folders above the classes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, NoReturn

import pyarrow as pa

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of
from alexstream.sharding.sources.compressed import COMPRESSED, is_compressed
from alexstream.sharding.sources.files import (
    MAX_SMALL_BYTES,
    TEST_IMAGES,
    has_system_part,
    is_image_name,
    may_be_image,
    open_range_file,
)
from alexstream.sharding.sources.folder import TABLE_EXTENSIONS
from alexstream.sharding.sources.folder_tree import LAST_LEVEL, FolderTree, iter_imageless_folders
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.devkit import Devkit, ValLabels
from alexstream.sharding.sources.imagenet.flat_val import list_flat_tar
from alexstream.sharding.sources.labels.text_files import (
    TextFile,
    is_named_for_splits,
    is_text_name,
    make_text_file,
)
from alexstream.sharding.sources.split_words import InnerSplits, split_of_file, split_of_word
from alexstream.sharding.sources.structure import (
    LayoutOptions,
    SourceLayout,
    SplitFolder,
    detect_layout,
)
from alexstream.sharding.sources.tars.nested import InnerTars, iter_nested_members
from alexstream.sharding.sources.tars.walk import ArchiveMember
from alexstream.sharding.sources.types import Entry, Excluded, ListingLog, SourceSplit, SplitLister

_CHUNK_ROWS = 1 << 15
SkippedFolders = Mapping[tuple[str, ...], str]


class TarTree(FolderTree):
    """A folder in tars, built from the names of their members."""

    def __init__(self) -> None:
        self._folders: dict[str, TarTree] = {}
        self._tables: list[str] = []
        self.num_files = self._num_images = self._num_unknown = 0

    @property
    def folders(self) -> Mapping[str, TarTree]:
        """Subfolders by name."""
        return self._folders

    @property
    def has_images(self) -> bool:
        """True if it contains images directly; beside folders of images, only with an image's extension."""
        return self._num_images > 0 or (self._num_unknown > 0 and not self.data_folders)

    @property
    def is_on_disk(self) -> bool:
        """False: a folder in a tar is no source by itself."""
        return False

    @property
    def tables(self) -> Sequence[str]:
        """Names of the tables in it, which may hold labels."""
        return self._tables

    @cached_property
    def is_empty(self) -> bool:
        """True if it contains no file at any depth."""
        return self.num_files == 0

    def add(self, folders: Sequence[str], file: str) -> None:
        """Count a file in this folder and in each folder on its path."""
        node = self
        node.num_files += 1
        for name in folders:
            node = node._folders.setdefault(name, TarTree())
            node.num_files += 1
        node._num_images += is_image_name(file)
        node._num_unknown += may_be_image(file)
        if file.lower().endswith(TABLE_EXTENSIONS):
            node._tables.append(file)

    def at(self, path: Sequence[str]) -> TarTree:
        """Return the folder at a path."""
        node = self
        for name in path:
            node = node._folders[name]
        return node


class PackedFolders(NamedTuple):
    """What class folders in tars are read as: the tars and the lister of each split.

    ``texts``: those in the tars that may tell splits. ``level`` is that of the class folders, as ``--classes-at``
    counts it. ``is_default_split``: neither the names of the tars nor the folders in them tell a split.
    """

    splits: dict[str, tuple[list[str], SplitLister]]
    texts: list[TextFile]
    level: int = 1
    is_default_split: bool = False


class TarMembers:
    """The members of a tar and of the tars in it, walked once.

    Stored as Arrow columns: some 70 bytes each, for millions of them. ``inner``: the tars in it. ``texts``: members
    that may be lists of splits by their names.
    """

    def __init__(self, path: Path, where: str) -> None:
        """Walk the tar at ``path``, which errors call ``where``. Raises SourceError for a damaged tar."""
        self._columns: list[pa.RecordBatch] = []
        self.inner = InnerTars()
        self.texts: list[ArchiveMember] = []
        with open_range_file(path) as file:
            members = iter_nested_members(file, where, self.inner)
            while taken := list(islice(members, _CHUNK_ROWS)):
                self.texts += filter(_may_tell_splits, taken)
                names, offsets, sizes, reasons = zip(*taken, strict=True)
                columns = {
                    "name": pa.array(map(os.fsencode, names), pa.binary()),
                    "offset": pa.array(offsets, pa.int64()),
                    "size": pa.array(sizes, pa.int64()),
                    "reason": pa.array(map(os.fsencode, reasons), pa.binary()).dictionary_encode(),
                }
                self._columns.append(pa.RecordBatch.from_pydict(columns))

    def __iter__(self) -> Iterator[ArchiveMember]:
        """Yield the members in their order."""
        for batch in self._columns:
            for name, offset, size, reason in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield ArchiveMember(os.fsdecode(name), offset, size, os.fsdecode(reason))


def _may_tell_splits(member: ArchiveMember) -> bool:
    """Return whether a member may be a list of splits, or a table with a column of them, by its name."""
    name = member.name
    if is_image_name(name) or member.reason or has_system_part(name):
        return False
    *_, folder, base = ("", *name.split("/"))
    named = is_named_for_splits(base) or split_of_word(folder) is not None
    return is_text_name(base) and (named or base.lower().endswith((".csv", ".tsv")))


def build_tree(tars: Iterable[TarMembers]) -> TarTree:
    """Build one tree from the members of some tars."""
    tree = TarTree()
    for members in tars:
        for member in members:
            if not member.reason and not has_system_part(member.name):
                *folders, base = members.inner.split_path(member.name)
                tree.add(folders, base)
    return tree


class LabelSources(NamedTuple):
    """Label sources beside the folders: devkit and its name, classes of flat val images, and class names by wnid."""

    kit_name: str = ""
    devkit: Devkit | None = None
    val_labels: ValLabels | None = None
    names: Mapping[str, str] = MappingProxyType({})


class _TarGroup(NamedTuple):
    """Tars that together hold one tree; ``prefix`` is the path of their folder relative to the source."""

    paths: Mapping[str, Path]
    walked: Mapping[str, TarMembers]
    prefix: str
    labels: LabelSources

    def members(self) -> Iterator[tuple[str, ArchiveMember, list[str]]]:
        """Yield the tar's path relative to the source, the member, and the parts of its name."""
        for name, members in self.walked.items():
            for member in members:
                yield self.prefix + name, member, members.inner.split_path(member.name)


def detect_packed_folders(
    root: Path, names: Sequence[str], prefix: str, choice: LayoutOptions, labels: LabelSources
) -> PackedFolders:
    """Detect the splits in the tars ``names``, which hold class folders.

    Raises SourceError where the structure is unclear, where a tar's name and its folders imply different splits, or
    where only some of the tars imply a split.
    """
    groups: dict[str | None, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(split_of_file(name), []).append(name)
    made: dict[str, tuple[list[str], SplitLister]] = {}
    texts: list[TextFile] = []
    levels: list[int] = []
    is_default = False
    for told, tars in groups.items():
        where = f"{root}/{tars[0]}" if len(tars) == 1 else f"{root} ({len(tars)} tars: {tars[0]}, …)"
        paths = {name: root / name for name in tars}
        walked = {name: TarMembers(path, prefix + name) for name, path in paths.items()}
        for name, path in paths.items():
            _check_inner_tars(walked[name], path, choice)
        tree = build_tree(walked.values())
        layout = detect_layout(tree, where, replace(choice, split=told or choice.split))
        _check_compressed_splits(walked.values(), layout, where, choice)
        if told is None and "" in layout.branches and len(groups) > 1:
            _raise_unknown_split(root, groups)
        unnamed = told or choice.split or "train"
        for split, (branch, make) in _make_listers(
            _TarGroup(paths, walked, prefix, labels), tree, layout, unnamed
        ).items():
            inside = {split, *filter(None, map(split_of_file, branch.path))}
            if (told is not None and inside != {told}) or split in made:
                raise SourceError(
                    f"{where}: holds a folder {'/'.join(branch.path)}/, but its name implies the {told} split, or "
                    f"{split} is there twice; pack every split into a tar of its own, named for it (train.tar, val.tar)"
                )
            made[split] = (tars, make)
            depth = max(0, len(branch.path) - len(layout.above) - ("" not in layout.branches))
            levels.append(branch.level + depth if branch.level != LAST_LEVEL else LAST_LEVEL)
            is_default = told is None and not any(map(split_of_file, branch.path))
        for name, members in walked.items():
            texts += _find_texts(paths[name], prefix + name, members, layout)
    return PackedFolders(made, texts, max(levels, default=1), is_default)


def _find_texts(path: Path, where: str, members: TarMembers, layout: SourceLayout) -> Iterator[TextFile]:
    """Yield the texts in a tar that may tell splits: not those in class folders."""
    for member in members.texts:
        parts = members.inner.split_path(member.name)
        if not any(b.holds(parts[:-1]) and b.class_parts(parts) and not b.flat for b in layout.branches.values()):
            folder = parts[-2] if len(parts) > 1 else ""
            yield make_text_file(f"{where}/{member.name}", partial(_read_text, path, member), folder=folder)


def _read_text(path: Path, member: ArchiveMember) -> bytes:
    if member.size > MAX_SMALL_BYTES:
        raise SourceError(f"{path}: {member.name} is larger than the {MAX_SMALL_BYTES >> 20} MiB that any list takes")
    with open_range_file(path) as file:
        return file.read_at(member.offset, member.size)


def _check_inner_tars(members: TarMembers, path: Path, choice: LayoutOptions) -> None:
    """Raise SourceError if tars in a tar hold WebDataset samples, or lie beside a folder of the same name."""
    inner = members.inner
    if inner.with_samples and choice.level is None:
        raise SourceError(
            f"{path}: holds WebDataset tars ({inner.with_samples[0]}; {len(inner.with_samples)} such), whose labels "
            f"are read from tars that lie in a folder: unpack it (tar -xf {path.name}) and give `source` that folder; "
            "if its tars are classes or splits by name, and their labels do not count: `classes_at` 1, 2 … or last"
        )
    packed = (m.name for m in members if not m.reason and is_compressed(m.name)) if inner.paths else ()
    if name := next(iter(packed), ""):
        raise SourceError(
            f"{path}: {name} is compressed, so that images in it cannot be read in place; unpack the tar around it "
            f"(tar -xf {path.name}) and what is compressed in it, and give `source` that folder"
        )
    if twice := inner.find_duplicate(member.name for member in members if not member.reason):
        raise SourceError(
            f"{path}: holds {twice} and, beside it, a folder {twice[:-4]}/, of which one may be a copy of the other; "
            f"unpack it (tar -xf {path.name}), move one of the two away and give `source` the folder"
        )


def _check_compressed_splits(
    tars: Iterable[TarMembers], layout: SourceLayout, where: str, choice: LayoutOptions
) -> None:
    """Raise SourceError for a compressed archive beside folders of splits in a tar that is named for another split."""
    if "" in layout.branches or choice.level is not None or choice.picked in layout.branches:
        return
    for members in tars:
        for member in members:
            *folders, name = members.inner.split_path(member.name)
            told = split_of_file(name) if is_compressed(name) and not member.reason else None
            if told and tuple(folders) == layout.above and told not in layout.branches:
                readings = ", ".join(f"`split` {split}" for split in layout.branches)
                raise SourceError(
                    f"{where}: {member.name} in it is named for the {told} split, of which nothing else is there, and "
                    f"is compressed; unpack both, or choose what is unpacked alone: {readings}"
                )


def _raise_unknown_split(root: Path, groups: Mapping[str | None, Sequence[str]]) -> NoReturn:
    named = next(names[0] for told, names in groups.items() if told is not None)
    raise SourceError(
        f"{root}: the name of {named} implies a split and that of {groups[None][0]} does not; rename it "
        "(train.tar, val.tar, test.tar), or move it away"
    )


def _make_listers(
    tars: _TarGroup, tree: TarTree, layout: SourceLayout, unnamed: str
) -> dict[str, tuple[SplitFolder, SplitLister]]:
    beside = {**layout.beside, **layout.left_out}
    notices = [f"{name}: class folders packed again; its members decide" for name in tars.paths]
    for path, why in layout.left_out.items():
        notices.append(f"{'/'.join(path)}/: left out: {count_of(tree.at(path).num_files, 'file')}: {why}")
    found: dict[str, tuple[SplitFolder, SplitLister]] = {}
    for name, branch in layout.branches.items():
        split = name or unnamed
        if branch.flat and split == "test":
            for path, _ in branch.list_folders():
                beside[path] = TEST_IMAGES
                count = tree.at(path).num_files
                notices.append(f"{'/'.join(path)}: left out: {count_of(count, 'test image')}, without labels")
        elif branch.flat:
            found[split] = branch, partial(_list_flat, tars, branch, _find_table(tree, branch), split)
        else:
            for top, level in branch.list_folders():
                for path in iter_imageless_folders(tree.at(top), level, top):
                    beside[path] = "folder without images"
            found[split] = branch, partial(_list_classes, tars, branch, beside, split)
    if found:
        first = next(iter(found))
        branch, make = found[first]
        listed = {*layout.left_out, *(path for path, why in beside.items() if why == TEST_IMAGES)}
        rest = partial(_list_skipped, tars, tree, beside, listed, [branch for branch, _ in found.values()])
        found[first] = branch, partial(_add_skipped, make, rest, notices)
    return found


def _add_skipped(
    lister: SplitLister, rest: Callable[[], Excluded], notices: Sequence[str], log: ListingLog
) -> SourceSplit:
    split = lister(log)
    log.extend(rest(), notices)
    return split


def _find_table(tree: TarTree, branch: SplitFolder) -> str:
    """Return the path of a table in the folder of flat images, or in those above it; "" if there is none."""
    for depth in range(len(branch.path), -1, -1):
        if tables := tree.at(branch.path[:depth]).tables:
            return "/".join((*branch.path[:depth], min(tables, key=lambda name: "annotations" not in name)))
    return ""


def _list_flat(tars: _TarGroup, branch: SplitFolder, table: str, split: str, log: ListingLog) -> SourceSplit:
    (name, path), *others = tars.paths.items()
    if table and (split != "val" or others or tars.labels.val_labels is None):
        raise SourceError(
            f"{path}: {'/'.join(branch.path)}/ has images and no class folders, and their labels may be in {table} in "
            f"the tar, where tables are not read; unpack the tar (tar -xf {path.name}) and give `source` that folder"
        )
    if split != "val" or others:
        raise SourceError(
            f"{path}: {split} has images and no class folders ({'/'.join(branch.path) or 'at the top'}); "
            "give a table of their labels with `labels` FILE, or leave it out with `split`"
        )
    if tars.labels.val_labels is None:
        raise SourceError(
            f"{path}: {'/'.join(branch.path)}/ has images and no class folders, and no labels lie beside the tar; "
            f"{ilsvrc.FETCH_DEVKIT.replace('that folder', str(path.parent))}, or Kaggle's LOC_val_solution.csv, "
            "or give `labels` FILE"
        )
    return list_flat_tar(
        path,
        tars.prefix + name,
        tars.labels.val_labels,
        log,
        within=lambda member: branch.holds(tars.walked[name].inner.split_path(member)[:-1]),
    )


def _list_classes(
    tars: _TarGroup, branch: SplitFolder, beside: SkippedFolders, split: str, log: ListingLog
) -> SourceSplit:
    kit = tars.labels.devkit
    return SourceSplit(
        entries=ilsvrc.check_counts(_iter_entries(tars, branch, beside, split, log), split, log),
        ilsvrc2012_ids=kit.ids if kit else {},
        class_names=kit.names if kit else tars.labels.names,
        readings=branch.readings,
    )


def _iter_entries(
    tars: _TarGroup, branch: SplitFolder, beside: SkippedFolders, split: str, log: ListingLog
) -> Iterator[Entry]:
    inner = InnerSplits(split)
    for container, member, parts in tars.members():
        if not branch.holds(parts[:-1]) or _is_below_any(parts, beside):
            continue
        placed = branch.class_parts(parts)
        inside = f"{container}/{member.name}"
        if member.reason or has_system_part(member.name):
            log.exclude(inside, member.reason or "system file")
        elif not placed:
            log.exclude(inside, "not inside a class folder")
        else:
            name = "/".join(placed)
            inner.add(name, len(placed[0]))
            yield Entry(placed[0], name, inside, container, member.offset, member.size)
    log.notices.extend(inner.describe())


def _list_skipped(
    tars: _TarGroup,
    tree: TarTree,
    beside: SkippedFolders,
    listed: Collection[tuple[str, ...]],
    branches: Sequence[SplitFolder],
) -> Excluded:
    """List with reasons what lies in none of the branches.

    A folder ``beside`` them counts as one entry, unless it is among those to be ``listed`` file by file.
    """
    only = f"{tars.prefix}{next(iter(tars.paths))}/" if len(tars.paths) == 1 else ""
    excluded = [
        (f"{only}{'/'.join(path)}", f"{reason} ({count_of(tree.at(path).num_files, 'file')})")
        for path, reason in beside.items()
        if path not in listed
    ]
    for container, member, parts in tars.members():
        if place := _find_place(parts, listed):
            own = "system file" if has_system_part(member.name) else beside[place]
            excluded.append((f"{container}/{member.name}", member.reason or own))
        elif not _is_below_any(parts, beside) and not any(branch.holds(parts[:-1]) for branch in branches):
            reason = COMPRESSED if is_compressed(member.name) else "not inside a class folder"
            reason = "system file" if has_system_part(member.name) else reason
            excluded.append((f"{container}/{member.name}", member.reason or reason))
    return excluded


def _is_below_any(parts: Sequence[str], folders: Collection[tuple[str, ...]]) -> bool:
    return bool(_find_place(parts, folders))


def _find_place(parts: Sequence[str], folders: Collection[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the first of ``folders`` that a path lies in; () for none."""
    ways = (tuple(parts[:depth]) for depth in range(1, len(parts)))
    return next((way for way in ways if way in folders), ())
