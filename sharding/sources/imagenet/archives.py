"""ImageNet's original archives: the tar of class tars, the flat validation tar, and the devkit beside them.

Also common variants: the class tars side by side in a folder, and class folders packed into a tar again. Images are
byte ranges of these files; nothing is unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import TEST_IMAGES, has_system_part, open_range_file
from alexstream.sharding.sources.folder_tree import LAST_LEVEL
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.devkit import Devkit
from alexstream.sharding.sources.imagenet.flat_val import list_flat_tar
from alexstream.sharding.sources.split_words import split_of_file
from alexstream.sharding.sources.structure import LayoutOptions
from alexstream.sharding.sources.tars.kind import FOLDER_KINDS, detect_tar_kind
from alexstream.sharding.sources.tars.nested import InnerTars, count_tar_images, iter_nested_members
from alexstream.sharding.sources.tars.packed import LabelSources, PackedFolders, detect_packed_folders
from alexstream.sharding.sources.tars.walk import ArchiveMember, iter_last_members, walk_tar
from alexstream.sharding.sources.types import (
    ComparedTexts,
    DetectedSource,
    Entry,
    Excluded,
    ListingLog,
    SourceSplit,
    SplitLister,
    with_log,
)

_NAMED_KINDS = ("unlabelled", "class", "class-val", "test", *FOLDER_KINDS)  # that may be classes by the tar's name


def detect_archives(
    root: Path,
    kinds: Mapping[str, str],
    labels: LabelSources,
    choice: LayoutOptions,
    *,
    prefix: str = "",
    may_be_none: bool = False,
) -> tuple[DetectedSource, set[str]]:
    """Detect the splits in the tars of ``root``, given the kind of each; return them and the tars in use.

    ``prefix``: path of ``root`` relative to the source. Raises SourceError if it is unclear which tar holds the
    training images, if validation images have no labels, or, unless ``may_be_none``, if no tar can be used.
    """
    splits: dict[str, SplitLister] = {}
    used: list[str] = []
    folders = _detect_folders(root, kinds, labels, choice, prefix)
    for split, names, make in _iter_candidates(root, kinds, labels, folders, prefix):
        if split not in splits:
            splits[split] = make
            used += names
    if not splits and not may_be_none:
        raise _no_archive_error(root, kinds)
    kit_used = [labels.kit_name] if labels.kit_name not in ("", ".") else []
    says = f"{_describe_archives(kinds, used)} ({', '.join([*_abbreviate(list(dict.fromkeys(used))), *kit_used])})"
    told = bool(choice.split) or all(kinds[name] not in FOLDER_KINDS or split_of_file(name) for name in used)
    found = DetectedSource(kind="archives", description=says, splits=splits, tells_splits=told)
    if used and all(kinds[name] in FOLDER_KINDS for name in used):
        found = replace(found, compared=_compare_folders(folders, choice))
    return found, set(used)


def _compare_folders(folders: PackedFolders, choice: LayoutOptions) -> ComparedTexts:
    level = "last" if folders.level == LAST_LEVEL else folders.level
    return ComparedTexts(
        readings=lambda: f"choose: `classes_at` {level} for the class folders in the tars",
        inside=tuple(folders.texts),
        is_default_split=folders.is_default_split,
        checks_classes=choice.level is None,
        is_decided=choice.level is not None,
    )


def _detect_folders(
    root: Path, kinds: Mapping[str, str], labels: LabelSources, choice: LayoutOptions, prefix: str
) -> PackedFolders:
    packed = [name for name, kind in kinds.items() if kind in FOLDER_KINDS]
    alone = choice if len(packed) == len(kinds) else replace(choice, split="")
    return detect_packed_folders(root, packed, prefix, alone, labels) if packed else PackedFolders({}, [])


def _describe_archives(kinds: Mapping[str, str], used: Sequence[str]) -> str:
    """Describe what the archives are; ImageNet's only where names of ImageNet are in them."""
    if used and all(kinds[name] in FOLDER_KINDS for name in used):
        nested = all(kinds[name] == "tars" for name in used)
        return "class folders packed as tars in a tar" if nested else "class folders packed as tar"
    return "imagenet: original archives"


def _iter_candidates(
    root: Path, kinds: Mapping[str, str], labels: LabelSources, folders: PackedFolders, prefix: str
) -> Iterator[tuple[str, list[str], SplitLister]]:
    """Yield what each split may be made of, the best first: split, names of the tars, lister."""
    kit = labels.devkit
    train, notices = _find_train_tars(root, kinds)
    if train:
        lister = partial(_list_classes, _join_paths(root, train), prefix, "train", kit)
        yield "train", train, with_log(lister, [], notices)
    labelled = [name for name, kind in kinds.items() if kind == "class-val"]
    if labelled:
        yield "val", labelled, partial(_list_classes, _join_paths(root, labelled), prefix, "val", kit)
    for split, (names, make) in folders.splits.items():
        labelled += names if split == "val" else []
        yield split, names, make
    val = _find_val_tar(root, kinds)
    if val and not labelled:
        if labels.val_labels is None:
            raise SourceError(
                f"{root}: {val} holds images without labels, and no devkit is beside it; {_fetch_remedy(root)}"
            )
        said = ilsvrc.size_notices(val, (root / val).stat().st_size, ilsvrc.VAL_TAR)
        yield "val", [val], with_log(partial(list_flat_tar, root / val, prefix + val, labels.val_labels), [], said)


def _join_paths(root: Path, names: Sequence[str]) -> dict[str, Path]:
    return {name: root / name for name in names}


def skip_reason(kind: str, name: str) -> str:
    """Return the reason why a tar of this kind, which no split uses, is skipped."""
    reasons = {
        "train": "a second tar of tars: task 3 (dogs) or a copy, no training data of the classification task",
        "test": TEST_IMAGES,
        "unlabelled": "images without labels",
        "devkit": "development kit, no images",
        "empty": "an empty tar",
    }
    return reasons.get(kind, f"beside the archives that are used; shard {name} on its own if you want it")


def detect_class_tars(
    root: Path, kinds: Mapping[str, str], split: str, prefix: str = ""
) -> tuple[DetectedSource, set[str]]:
    """Use each tar of images in ``root`` as the class that it is named for (``cat.tar``)."""
    used = [name for name, kind in kinds.items() if kind in _NAMED_KINDS]
    if not used:
        raise _no_archive_error(root, kinds)
    make = partial(_list_named_tars, _join_paths(root, used), prefix, split)
    says = f"tars named for their class ({', '.join(_abbreviate(used))})"
    return DetectedSource(kind="archives", description=says, splits={split: make}), set(used)


def tar_names_hint(kinds: Mapping[str, str]) -> str:
    """Return the hint that tars of nothing but images may be classes by name, or "" for fewer than two."""
    names = sorted(name.removesuffix(".tar") for name, kind in kinds.items() if kind == "unlabelled")
    if len(names) < 2:
        return ""
    return f"; if the tars are named for their class: `classes_at` 0 for {len(names)} classes ({', '.join(names[:4])})"


def check_tars_beside_folders(root: Path, kinds: Mapping[str, str], folders: Sequence[str]) -> None:
    """Raise SourceError for several tars of flat images beside class folders: each tar may be a class, too."""
    flat = [name for name, kind in kinds.items() if kind == "unlabelled" and split_of_file(name) is None]
    if hint := tar_names_hint({name: "unlabelled" for name in flat if count_tar_images(root / name)}):
        raise SourceError(
            f"{root}: tars of images lie beside class folders ({folders[0]}/ …), and may be classes, too; choose, with "
            f"`source` {root}: `classes_at` 1, 2 … or last for the folders alone{hint}; to read both, unpack the tars"
        )


def check_class_tars(root: Path, kinds: Mapping[str, str], choice: LayoutOptions) -> None:
    """Raise SourceError for tars of flat images beside tars of folders: each tar may be a class."""
    folders = [name for name, kind in kinds.items() if kind in FOLDER_KINDS]
    unlabelled = [name for name, kind in kinds.items() if kind == "unlabelled"]
    if choice.level is None and unlabelled and folders and len(folders) + len(unlabelled) == len(kinds):
        classes = ", ".join(sorted(name.removesuffix(".tar") for name in kinds)[:4])
        raise SourceError(
            f"{root}: {folders[0]} holds folders, and {unlabelled[0]} ({len(unlabelled)} such) images without; "
            f"choose: `classes_at` 0 for {len(kinds)} classes named by the tars ({classes}), or `classes_at` 1 for the "
            f"folders in {folders[0]} alone"
        )


def _list_named_tars(tars: Mapping[str, Path], prefix: str, split: str, log: ListingLog) -> SourceSplit:
    return _make_split(_iter_named_entries(tars, prefix, log), split, None, log)


def _iter_named_entries(tars: Mapping[str, Path], prefix: str, log: ListingLog) -> Iterator[Entry]:
    for name, path in tars.items():
        with open_range_file(path) as file:
            members = iter_nested_members(file, prefix + name, InnerTars())
            yield from _iter_class_entries(members, prefix + name, prefix + name, path.stem, log)


def list_members(path: Path, container: str, reason: str) -> Excluded:
    """List the members of a skipped tar, each with the reason: they are counted as images."""
    with open_range_file(path) as file:
        return [
            (f"{container}/{member.name}", "system file" if has_system_part(member.name) else member.reason or reason)
            for member in iter_last_members(file, container)
        ]


def _no_archive_error(root: Path, kinds: Mapping[str, str]) -> SourceError:
    unlabelled = [name for name, kind in kinds.items() if kind == "unlabelled"]
    if unlabelled:
        return SourceError(
            f"{root}: {unlabelled[0]} ({len(unlabelled)} such) holds images without class folders "
            f"({skip_reason('unlabelled', unlabelled[0])}); if each tar is named for its class, choose "
            "`classes_at` 0; else give a table of the labels: `labels` FILE"
        )
    held = ", ".join(f"{name} ({skip_reason(kind, name)})" for name, kind in sorted(kinds.items()))
    return SourceError(
        f"{root}: no archive with images to train on or to validate with; it holds {held}; "
        f"fetch {ilsvrc.TRAIN_TAR} ({ilsvrc.ARCHIVE_BYTES[ilsvrc.TRAIN_TAR]:,} bytes)"
    )


def _fetch_remedy(root: Path) -> str:
    return ilsvrc.FETCH_DEVKIT.replace("that folder", str(root))


def _abbreviate(names: list[str]) -> list[str]:
    return names if len(names) <= 3 else [names[0], "…", names[-1]]


def _find_train_tars(root: Path, kinds: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the names of the training tars (the tar of tars, or the class tars), and notices."""
    outer = [name for name, kind in kinds.items() if kind == "train"]
    inner = [name for name, kind in kinds.items() if kind == "class"]
    if not outer:
        return sorted(inner), []
    dogs = {name: _count_dog_classes(root / name) for name in outer}
    task_3 = {
        n for n in outer if "_t3" in n or dogs[n] >= 100 or (len(outer) > 1 and dogs[n] and n != ilsvrc.TRAIN_TAR)
    }
    train = [name for name in outer if name not in task_3]
    if ilsvrc.TRAIN_TAR in train:
        train = [ilsvrc.TRAIN_TAR]
    if len(train) > 1:
        raise SourceError(f"{root}: {' and '.join(train)} are both tars of tars; leave only {ilsvrc.TRAIN_TAR} there")
    return train, [
        said for name in train for said in ilsvrc.size_notices(name, (root / name).stat().st_size, ilsvrc.TRAIN_TAR)
    ]


def _count_dog_classes(path: Path) -> int:
    """Return the number of classes of a tar of tars if all are dogs (task 3); else 0."""
    with open_range_file(path) as file:
        wnids = [_member_stem(m) for m in walk_tar(file, path.name) if not m.reason and not has_system_part(m.name)]
    return len(wnids) if all(map(ilsvrc.is_dog, wnids)) else 0


def _find_val_tar(root: Path, kinds: Mapping[str, str]) -> str | None:
    found = [name for name, kind in kinds.items() if kind == "val"]
    if len(found) > 1:
        raise SourceError(f"{root}: {' and '.join(found)} both hold validation images; leave only one there")
    return found[0] if found else None


def _member_stem(member: ArchiveMember) -> str:
    return member.name.rpartition("/")[2].partition(".")[0]


def _make_split(entries: Iterator[Entry], split: str, kit: Devkit | None, log: ListingLog) -> SourceSplit:
    return SourceSplit(
        entries=ilsvrc.check_counts(entries, split, log),
        ilsvrc2012_ids=kit.ids if kit else {},
        class_names=kit.names if kit else {},
    )


def _list_classes(
    tars: Mapping[str, Path], prefix: str, split: str, kit: Devkit | None, log: ListingLog
) -> SourceSplit:
    return _make_split(_iter_tar_entries(tars, prefix, log), split, kit, log)


def _iter_tar_entries(tars: Mapping[str, Path], prefix: str, log: ListingLog) -> Iterator[Entry]:
    for name, path in tars.items():
        container = prefix + name
        with open_range_file(path) as file:
            if detect_tar_kind(path) == "train":
                inner = _iter_inner_tars(iter_last_members(file, container), container, log)
            else:
                inner = iter([(container, path.stem if ilsvrc.is_wnid(path.stem) else None, 0, file.size)])
            for where, wnid, start, end in inner:
                yield from _iter_class_entries(iter_last_members(file, where, start, end), where, container, wnid, log)


def _iter_class_entries(
    members: Iterator[ArchiveMember], where: str, container: str, wnid: str | None, log: ListingLog
) -> Iterator[Entry]:
    """Yield the images of a class tar; where ``wnid`` is None, the class of each comes from its name."""
    for member in members:
        inside = f"{where}/{member.name}"
        base = member.name.rpartition("/")[2]
        name, told = (base, wnid) if wnid is not None else ilsvrc.canonical_name(base)
        if member.reason or has_system_part(member.name):
            log.exclude(inside, member.reason or "system file")
        elif told is None:
            log.exclude(inside, "its name tells no class")
        else:
            yield Entry(told, f"{told}/{name}", inside, container, member.offset, member.size)


def _iter_inner_tars(
    members: Iterator[ArchiveMember], where: str, log: ListingLog
) -> Iterator[tuple[str, str | None, int, int]]:
    for member in members:
        inside = f"{where}/{member.name}"
        if member.reason or has_system_part(member.name):
            log.exclude(inside, member.reason or "system file")
        elif not member.name.lower().endswith(".tar"):
            log.exclude(inside, "no tar of a class")
        else:
            yield inside, _member_stem(member), member.offset, member.offset + member.size
