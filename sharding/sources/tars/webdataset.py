"""Detect WebDataset tars, to be sharded again: those of DATASET v1, or of any other tool.

Label numbers get their class from the manifest, ``classes.json``, the caller, or keys that hold wnids; else the number
itself is the class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of, quote_value
from alexstream.sharding.dataset_v1 import layout
from alexstream.sharding.dataset_v1.manifest import load_manifest
from alexstream.sharding.sources.files import TEST_IMAGES, FolderItem, is_system, list_items
from alexstream.sharding.sources.folder import is_dataset_folder
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.imagenet.archives import list_members
from alexstream.sharding.sources.labels.class_list import find_classes_beside
from alexstream.sharding.sources.split_files import assign_splits, find_files, report_missing_parts, skip_reason_beside
from alexstream.sharding.sources.tars.kind import detect_tar_kind
from alexstream.sharding.sources.tars.samples import Sample, has_labels, iter_samples
from alexstream.sharding.sources.types import DetectedSource, Entry, ListingLog, SourceSplit, SplitLister, with_log
from alexstream.sharding.sources.wrappers import step_over_folders

_MAX_LABEL = 1_000_000  # largest label taken for a class; a larger one is some other id
_IMAGENET_STEM = re.compile(r"(n\d{8})_\d+|ILSVRC20\d\d_(?:val|test)_\d{8}")
_NO_SAMPLES = "no WebDataset samples with labels in it"
ClassNames = Mapping[int, str]


def detect_dataset_v1(root: Path) -> DetectedSource | None:
    """Detect a DATASET v1 folder, or a folder of its splits; None if it is neither.

    Raises DatasetError for a damaged manifest, SourceError for a missing shard.
    """
    folders = _find_datasets(root)
    splits: dict[str, SplitLister] = {}
    unread: list[str] = []
    for prefix, folder in folders.items():
        manifest = load_manifest(folder)
        tars = [f"{prefix}{layout.shard_paths(folder, shard.name).tar.name}" for shard in manifest.shards]
        missing = next((tar for tar in tars if not (root / tar).is_file()), None)
        if missing or manifest.split in splits:
            wrong = f"{missing} is missing" if missing else f"the split {manifest.split} is there twice"
            raise SourceError(f"{root}: {wrong}; restore the data set, or shard its source again")
        left = [f"{prefix}{item.name}" for item in list_items(folder) if f"{prefix}{item.name}" not in tars]
        if prefix and not splits:
            left += _list_above(root, folders)
        unread += [path for path in left if not is_system(path.rpartition("/")[2]) and (root / path).is_dir()]
        names = partial(_number_classes, manifest.classes)
        lister = partial(_list_split, root, manifest.split, tars, names, known=True, own=True)
        splits[manifest.split] = with_log(
            lister, [(path, _skip_reason(path)) for path in left if path not in unread], []
        )
    if not splits:
        return None
    return DetectedSource(
        kind="webdataset",
        description=f"DATASET v1 ({', '.join(splits)}), to be sharded again",
        splits=splits,
        read=tuple(prefix.rstrip("/") for prefix in folders if prefix),
        unread=tuple(unread),
    )


def _find_datasets(root: Path) -> dict[str, Path]:
    """Return the data sets of this program: ``root``, or folders in it or in one of its folders, by prefix."""
    if is_dataset_folder(root):
        return {"": root}
    path, listed = step_over_folders(root, list_items(root))
    above = "".join(f"{part}/" for part in path)
    inside = [f"{above}{item.name}" for item in listed if item.is_dir and not is_system(item.name)]
    found = [name for name in inside if is_dataset_folder(root / name)]
    if not found:
        splits = [f"{name}/{split}" for name in inside for split in layout.SPLITS]
        found = [name for name in splits if is_dataset_folder(root / name)]
    return {f"{name}/": root / name for name in found}


def _list_above(root: Path, folders: Mapping[str, Path]) -> list[str]:
    """List what lies in ``root`` and in the folders above the data sets, but for these."""
    ways = {
        "/".join([*prefix.split("/")[:depth], ""]) for prefix in folders for depth in range(1, prefix.count("/") + 1)
    }
    listed = [
        f"{above}{item.name}"
        for above in sorted({"", *ways} - {*folders})
        for item in list_items(root / above if above else root)
    ]
    return [path for path in listed if f"{path}/" not in ways]


def detect_webdataset(root: Path, classes: Sequence[str] | None = None, asked: str = "") -> DetectedSource | None:
    """Detect WebDataset tars in ``root`` or in folders below it, or ``root`` as a tar; None if there are none.

    ``classes`` names the label numbers, where the caller knows them; ``asked`` is the requested split, if any. Raises
    SourceError where the split of a tar is unclear.
    """
    tars, left, unread = _find_tars(root)
    return _sort_into_splits(root, tars, (left, unread), classes, asked, chosen=False) if tars else None


def detect_listed_tars(
    root: Path, tars: Sequence[str], classes: Sequence[str] | None = None, asked: str = ""
) -> DetectedSource:
    """Detect the splits of the WebDataset tars ``tars`` below ``root``, and of nothing else there.

    Raises SourceError if one is missing or holds no samples with labels, or as ``detect_webdataset``.
    """
    missing = [tar for tar in tars if not (root / tar).is_file()]
    if missing:
        raise SourceError(f"{root}: {len(missing)} of {count_of(len(tars), 'listed tar')} missing: {missing[0]} …")
    kinds = {tar: detect_tar_kind(root / tar) for tar in tars}
    for tar, kind in kinds.items():
        if kind != "samples":
            raise SourceError(f"{root / tar}: {_NO_SAMPLES} ({kind}); only WebDataset tars can be listed one by one")
    return _sort_into_splits(root, tars, ([], []), classes, asked, chosen=True)


def _sort_into_splits(
    root: Path,
    tars: Sequence[str],
    others: tuple[list[tuple[str, str]], Sequence[str]],
    classes: Sequence[str] | None,
    asked: str,
    *,
    chosen: bool,
) -> DetectedSource:
    """Sort tars into splits; ``others``: (path, reason) of what is left out, and folders that are not read."""
    left, unread = others
    found = assign_splits(root if root.is_dir() else root.parent, tars, asked, chosen=chosen)
    left += [(path, "of no known split") for path in found.left_out]
    if len(found.files) > 1 and "test" in found.files and not has_labels(root, found.files["test"]):
        for path in found.files.pop("test"):
            left += list_members(root / path, path, TEST_IMAGES)
    known = classes or (find_classes_beside(root) if root.is_dir() else None)
    names = partial(_number_classes, known) if known else cache(partial(_infer_classes, root, found.files))
    splits: dict[str, SplitLister] = {}
    for split, of_split in found.files.items():
        lister = partial(_list_split, root, split, of_split, names, known=bool(known))
        splits[split] = with_log(lister, left if not splits else [], [])
    return DetectedSource(
        kind="webdataset", description=f"WebDataset ({found.describe('tar')})", splits=splits, read=tuple(tars),
        unread=tuple(unread), tells_splits=bool(asked) or not found.is_unnamed,
    )  # fmt: skip


def has_webdataset_tars(root: Path, listed: Sequence[FolderItem]) -> bool:
    """Return whether a folder has WebDataset tars at any depth below it."""
    if not any(item.is_dir and not is_system(item.name) for item in listed):
        return False
    tried: set[str] = set()
    for path in find_files(root, ".tar").files:
        folder = path.rpartition("/")[0]
        if folder and folder not in tried and detect_tar_kind(root / path) == "samples":
            return True
        tried.add(folder)
    return False


def _number_classes(classes: Sequence[str]) -> dict[int, str]:
    return dict(enumerate(classes))


def _skip_reason(path: str) -> str:
    return "not in the manifest" if path.endswith(".tar") else skip_reason_beside(path)


def _find_tars(root: Path) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """Return the tars that hold labelled samples, other files with the reason to skip each, and other folders."""
    if not root.is_dir():
        return [root.name], [], []
    below = find_files(root, ".tar")
    kinds = {path: detect_tar_kind(root / path) for path in below.files}
    unread = [path for path in below.others if not is_system(path.rpartition("/")[2]) and (root / path).is_dir()]
    left = [(path, skip_reason_beside(path)) for path in below.others if path not in unread]
    for path, kind in kinds.items():
        why = f"{_NO_SAMPLES} ({kind})"
        if kind in ("unlabelled", "test"):
            left += list_members(root / path, path, why)
        elif kind != "samples":
            left.append((path, why))
    return [path for path, kind in kinds.items() if kind == "samples"], left, unread


def _list_split(
    root: Path,
    split: str,
    tars: Sequence[str],
    names: Callable[[], ClassNames],
    log: ListingLog,
    *,
    known: bool,
    own: bool = False,
) -> SourceSplit:
    name_of = names()
    log.notices.extend(report_missing_parts(tars))
    if name_of and all(name == str(number) for number, name in name_of.items()) and not own:
        log.notices.append(
            f"{split}: nothing says what the label numbers mean, so classes are called by their number; "
            "--classes FILE names them"
        )
    samples = iter_samples(root, tars, log, check_folders=not known)
    entries = _iter_entries(samples, name_of, own)
    return SourceSplit(
        entries=ilsvrc.check_counts(entries, split, log),
        classes=tuple(name_of[number] for number in sorted(name_of)) or None,
    )


def _iter_entries(samples: Iterable[Sample], name_of: ClassNames, own: bool) -> Iterator[Entry]:
    for sample in samples:
        name = _resolve_class(sample, name_of)
        path = f"{sample.tar}/{sample.image.name}"
        yield Entry(
            name, _make_name(sample, name, own), path, sample.tar, sample.image.offset, sample.image.size
        )  # fmt: skip


def _resolve_class(sample: Sample, name_of: ClassNames) -> str:
    label = sample.label
    if isinstance(label, str):
        if name_of and label not in name_of.values():
            raise SourceError(
                f"{sample.tar}: sample {quote_value(sample.key)} has label {quote_value(label)}, which is not a "
                "known class; write all labels as numbers or all as words, or give the classes with `classes`"
            )
        return label
    if not name_of:
        raise SourceError(
            f"{sample.tar}: sample {quote_value(sample.key)} has the number {label} as its label, where others have "
            "words; write all labels in one way, or give the classes with `classes`"
        )
    if label not in name_of:
        raise SourceError(
            f"{sample.tar}: sample {quote_value(sample.key)} has label {label}, for which there is no class "
            f"({len(name_of)} known); give the list that belongs to it with `classes`"
        )
    return name_of[label]


def _make_name(sample: Sample, wnid: str, own: bool) -> str:
    """Return ``class/file``: a key that is unique in its shard only gets the shard's name; keys of ours are kept."""
    base = sample.image.name.removeprefix("./")
    key = sample.key.rpartition("/")[2]
    if _IMAGENET_STEM.fullmatch(key):
        return f"{wnid}/{base.rpartition('/')[2]}"
    if own:
        prefix = re.sub(r"[^A-Za-z0-9_-]", "-", wnid) + "_"
        return f"{wnid}/{base.removeprefix(prefix)}"
    return f"{wnid}/{sample.tar.rpartition('/')[2].partition('.')[0]}/{base}"


def _infer_classes(root: Path, by_split: Mapping[str, Sequence[str]]) -> dict[int, str]:
    """Return label number → class: the wnid in the keys if all training keys hold one, else the number as text.

    Empty for text labels. Raises SourceError if keys and labels contradict each other.
    """
    tars = by_split.get("train") or next(iter(by_split.values()))
    wnid_of: dict[int, str] = {}
    label_of: dict[str, int] = {}
    canonical, top = True, -1
    for sample in iter_samples(root, tars, ListingLog()):
        number, match = sample.label, _IMAGENET_STEM.fullmatch(sample.key.rpartition("/")[2])
        if isinstance(number, str):
            return {}
        top, canonical = max(top, number), canonical and match is not None and match[1] is not None
        if not canonical:
            continue
        wnid = str(match[1]) if match else ""
        if wnid_of.setdefault(number, wnid) != wnid or label_of.setdefault(wnid, number) != number:
            raise SourceError(
                f"{sample.tar}: sample {quote_value(sample.key)} has label {number}, but other samples say that "
                f"{number} is "
                f"{wnid_of[number]} and {wnid} is {label_of.get(wnid, number)}; give the classes with `classes`"
            )
    if top > _MAX_LABEL:
        raise SourceError(f"{root}: labels go up to {top:,}: no numbers of classes; give the classes with `classes`")
    return wnid_of if canonical else {number: str(number) for number in range(top + 1)}
