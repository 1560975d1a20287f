"""What a source is, told by its content and said in one sentence; the one door to every form of source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sharding.errors import SourceError
from sharding.listing import Found
from sharding.sources import ilsvrc
from sharding.sources.archives import archives, leftover_reason
from sharding.sources.devkit import Devkit, Truth, find_devkit
from sharding.sources.flat_val import flat_folder, looks_flat
from sharding.sources.folder import class_folders, split_folders
from sharding.sources.form import SPLIT_NAMES, split_named
from sharding.sources.form import Recognised as Recognised
from sharding.sources.kaggle import kaggle
from sharding.sources.parquet import parquet
from sharding.sources.place import Item, as_place, files_of, is_gzip, is_parquet, is_system, items
from sharding.sources.tar_kind import tar_kind, tar_kinds
from sharding.sources.webdataset import dataset_v1, webdataset

Kit = tuple[str, Devkit] | None
Left = list[tuple[str, str]]
_QUIET = ("system file", "development kit, no images")  # left out without a sentence of their own


def recognise(src: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Recognised:
    """What the source ``src`` is, and its splits, which are listed only when they are called.

    ``classes`` names label numbers where the source does not (``--classes``). Raises SourceError, saying what to do,
    for a source that is missing, empty, cut off, of no known form, or whose labels are missing.
    """
    root = as_place(src)
    if not root.exists():
        raise SourceError(f"source folder {root} does not exist; give --src a folder with one folder per class")
    if not root.is_dir():
        return _file(root, classes)
    listed = items(root)
    if not listed:
        raise SourceError(f"source folder {root} is empty; expected one folder per class with image files in it")
    labelled = dataset_v1(root) or kaggle(root)
    return labelled or _tars(root, listed, classes) or parquet(root, classes) or _folders(root, listed)


def _file(path: Path, classes: Sequence[str] | None) -> Recognised:
    """The one file that is a source: a tar or a Parquet file."""
    if path.name.lower().endswith(".parquet") and is_parquet(path):
        found = parquet(path, classes)
    elif path.name.lower().endswith(".tar"):
        kind = tar_kind(path)
        if kind == "samples":
            found = webdataset(path, classes)
        else:
            beside = find_devkit(path.parent, items(path.parent)) if kind == "val" else None
            found = archives(path.parent, {path.name: kind}, beside, beside[1].truth() if beside else None)[0]
    elif is_gzip(path):
        raise SourceError(f"{path}: is compressed, so that images cannot be read in place; unpack it (gunzip) first")
    else:
        found = None
    if found is None:
        raise SourceError(f"source {path} is a file; expected a folder with one folder per class, a tar or Parquet")
    return found


def _tars(root: Path, listed: Sequence[Item], classes: Sequence[str] | None) -> Recognised | None:
    """Archives or WebDataset tars, in ``root`` or in folders of its splits."""
    folders = [item.name for item in listed if item.is_dir and not is_system(item.name)]
    kinds = tar_kinds(root, listed)
    originals = [name for name, kind in kinds.items() if kind in ("train", "class", "class-val", "val", "folders")]
    if "samples" in kinds.values() and originals:
        raise SourceError(
            f"{root}: holds WebDataset tars and, beside them, {originals[0]} ({len(originals)} archives of images); "
            "move one of the two away"
        )
    if originals:
        return _archives(root, listed, kinds)
    if "samples" in kinds.values() or _samples_in_splits(root, listed):
        return webdataset(root, classes)
    if kinds and not folders:
        name, kind = next(iter(kinds.items()))
        raise SourceError(f"{root}: {name} holds no images with labels ({leftover_reason(kind, name)})")
    return None


def _samples_in_splits(root: Path, listed: Sequence[Item]) -> bool:
    folders = [i.name for i in listed if i.is_dir and i.name in ("train", "val", "validation", "valid", "test")]
    for folder in folders:
        tars = files_of(items(root / folder), ".tar")
        if tars and tar_kind(root / folder / tars[0]) == "samples":
            return True
    return False


def _archives(root: Path, listed: Sequence[Item], kinds: Mapping[str, str]) -> Recognised:
    """Original archives, and folders of splits for which there is no archive (``train/`` beside the val archive)."""
    kit = find_devkit(root, listed)
    folders = {SPLIT_NAMES[i.name]: i.name for i in listed if i.is_dir and i.name in SPLIT_NAMES and i.name != "test"}
    twice = [item.name for item in listed if item.is_dir and f"{item.name}.tar" in kinds and ilsvrc.is_wnid(item.name)]
    if twice:
        raise SourceError(f"{root}: holds {twice[0]}.tar and {twice[0]}/, the same class; move all tars or all folders")
    truth = kit[1].truth() if kit and "val" in kinds.values() else None
    found, used = archives(root, kinds, kit, truth, may_be_none=bool(folders))
    unpacked = {split: name for split, name in folders.items() if split not in found.splits}
    splits = {**found.splits, **{split: _split(root, name, split, kit) for split, name in unpacked.items()}}
    says = found.says + "".join(f", and {name}/" for name in unpacked.values())
    left = [(i.name, _beside(i, kit, kinds)) for i in listed if i.name not in {*used, *unpacked.values()}]
    named = {item.name for item in listed if item.is_dir or item.name in kinds}
    notices = [f"{name}: left out: {why}" for name, why in left if name in named and why not in _QUIET]
    return _with_left(Recognised(kind=found.kind, says=says, splits=splits), left, notices)


def _beside(item: Item, kit: Kit, kinds: Mapping[str, str]) -> str:
    if is_system(item.name):
        return _QUIET[0]
    if kit and kit[0] in (item.name, "."):
        return _QUIET[1]
    if item.name in kinds:
        return leftover_reason(kinds[item.name], item.name)
    return "folder beside the archives" if item.is_dir else "no archive of images"


def _folders(root: Path, listed: Sequence[Item]) -> Recognised:
    """Class folders, one split or several, and flat validation images with a devkit beside them."""
    flat_root = looks_flat(root)
    kit = find_devkit(root, listed) if flat_root or not _only_classes(listed) else None
    beside = [kit[0]] if kit else []
    splits = split_folders(root, listed, beside)
    if not splits:
        return _one_split(root, listed, kit, flat=flat_root)
    made: dict[str, Callable[[], Found]] = {}
    left = [(i.name, _loose(i, kit)) for i in listed if i.name not in splits.values()]
    notices: list[str] = []
    for split, name in splits.items():
        folder = root / name
        if split == "test" and not any(item.is_dir for item in items(folder)):
            count = len(items(folder))
            left.append((name, f"test images, which have no labels ({count:,} files)"))
            notices.append(f"{name}/: {count:,} test images, which have no labels, were left out")
        else:
            made[split] = _split(root, name, split, kit)
    says = f"one folder per class ({', '.join(f'{n}/' for s, n in splits.items() if s in made)}{_kit_said(kit)})"
    return _with_left(Recognised(kind="folder", says=says, splits=made), left, notices)


def _split(root: Path, name: str, split: str, kit: Kit) -> Callable[[], Found]:
    """A folder of one split: flat validation images, inner tars, or class folders."""
    folder = root / name
    if split == "val" and looks_flat(folder):
        return partial(flat_folder, folder, name, _truth(folder, kit, root))
    if files_of(items(folder), ".tar"):
        return _inner_archives(root, name, split, kit)
    return partial(class_folders, folder, name, split, kit[1] if kit else None)


def _one_split(root: Path, listed: Sequence[Item], kit: Kit, *, flat: bool) -> Recognised:
    if flat:
        kit = kit or find_devkit(root.parent, items(root.parent))
        truth = _truth(root, kit, root)
        says = f"imagenet: flat validation images, labels from {truth.where}"
        return Recognised(kind="flat-val", says=says, splits={"val": partial(flat_folder, root, "", truth)})
    if not any(item.is_dir and not is_system(item.name) for item in listed):
        packed = files_of(listed, ".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z")
        if packed:
            raise SourceError(
                f"{root}: {packed[0]} ({len(packed)} such) is compressed, so that images cannot be read in place; "
                "turn it into a plain .tar, or unpack it, first"
            )
        raise SourceError(
            f"{root}: no images found; expected one folder per class with image files in it "
            f"(received 0 class folders, {len(listed)} other entries)"
        )
    split = split_named(root.name)
    found = partial(class_folders, root, "", split)
    return Recognised(kind="folder", says=f"one folder per class ({split})", splits={split: found})


def _only_classes(listed: Sequence[Item]) -> bool:
    """Whether all is folders, none of them a split: a thousand classes need not be searched for a devkit."""
    return all(item.is_dir and item.name != "train" for item in listed)


def _truth(folder: Path, kit: Kit, root: Path) -> Truth:
    if kit is None:
        raise SourceError(
            f"{folder}: validation images without class folders, whose labels are in the devkit, and no devkit is in "
            f"{root}; {ilsvrc.FETCH_DEVKIT.replace('that folder', str(root))}"
        )
    return kit[1].truth()


def _inner_archives(root: Path, name: str, split: str, kit: Kit) -> Callable[[], Found]:
    """A split whose folder holds the inner tars (``train/n01440764.tar``) or a tar of images."""
    folder = root / name
    listed = items(folder)
    classes = [item.name for item in listed if item.is_dir and not is_system(item.name)]
    if classes:
        raise SourceError(f"{folder}: holds tars and, beside them, class folders ({classes[0]}); move one of the two")
    kinds = tar_kinds(folder, listed)
    truth = kit[1].truth() if kit and "val" in kinds.values() else None
    found, used = archives(folder, kinds, kit, truth, prefix=f"{name}/")
    if split not in found.splits:
        raise SourceError(f"{folder}: its tars hold {', '.join(found.splits)} images, not {split}; rename the folder")
    left = [(f"{name}/{item.name}", _beside(item, None, kinds)) for item in listed if item.name not in used]
    return _with_left(found, left, []).splits[split]


def _loose(item: Item, kit: Kit) -> str:
    if is_system(item.name):
        return "system file"
    return "development kit, no images" if kit and kit[0] == item.name else "not inside a class folder"


def _kit_said(kit: Kit) -> str:
    return f", labels from {kit[1].where}" if kit else ""


def _with_left(found: Recognised, left: Left, notices: Sequence[str]) -> Recognised:
    """Account for what lies beside the splits: with the first of them, once."""
    splits = dict(found.splits)
    first = next(iter(splits))
    splits[first] = partial(_extended, splits[first], left, notices)
    return Recognised(kind=found.kind, says=found.says, splits=splits)


def _extended(make: Callable[[], Found], left: Iterable[tuple[str, str]], notices: Iterable[str]) -> Found:
    found = make()
    found.excluded.extend(left)
    found.notices.extend(notices)
    return found
