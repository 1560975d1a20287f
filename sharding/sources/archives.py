"""The original archives, as they are downloaded: a tar of tars, a flat validation tar, and the devkit.

Also what people make of them: the inner tars side by side in a folder, and class folders packed again. Images are
byte ranges of these files; nothing is unpacked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from sharding.errors import SourceError
from sharding.listing import Entry, Found
from sharding.sources import ilsvrc
from sharding.sources.devkit import Devkit, Truth
from sharding.sources.flat_val import flat_tar
from sharding.sources.form import SPLIT_NAMES, Recognised, split_of_file
from sharding.sources.place import has_system_part, open_ranges
from sharding.sources.tar_walk import Member, walk_tar

Excluded = list[tuple[str, str]]


def archives(
    root: Path,
    kinds: Mapping[str, str],
    devkit: tuple[str, Devkit] | None,
    truth: Truth | None,
    *,
    prefix: str = "",
    may_be_none: bool = False,
) -> tuple[Recognised, set[str]]:
    """Original archives in ``root``, given the kind of every tar in it; and the names of the tars it makes use of.

    ``prefix`` is the path of ``root`` below the source. Raises SourceError if it is not certain which tar holds the
    training images, if validation images have no labels, or, unless it may be none, if no tar is of any use.
    """
    notices: dict[str, list[str]] = {"train": [], "val": []}
    excluded: dict[str, Excluded] = {"train": [], "val": []}
    splits: dict[str, Callable[[], Found]] = {}
    used: dict[str, str] = {}
    train = _train_tars(root, kinds, excluded["train"], notices["train"])
    kit = devkit[1] if devkit else None
    if train:
        tars = {name: root / name for name in train}
        splits["train"] = partial(_train, tars, prefix, kit, excluded["train"], notices["train"])
        used |= dict.fromkeys(train, "train")
    for split in ("train", "val"):
        found = [n for n, kind in kinds.items() if kind == "folders" and split_of_file(n) == split]
        if found and split not in splits:
            tar = {name: root / name for name in found}
            splits[split] = partial(_folders, tar, prefix, split, kit, excluded[split], notices[split])
            used |= dict.fromkeys(found, split)
    val = _val_tar(root, kinds)
    if val and "val" not in splits:
        if truth is None:
            raise SourceError(f"{root}: {val} holds images without labels, and no devkit is beside it; {_fetch(root)}")
        notices["val"] += ilsvrc.size_notice(val, (root / val).stat().st_size)
        splits["val"] = partial(_val, root / val, prefix + val, truth, notices["val"])
        used[val] = "val"
    if not splits and not may_be_none:
        raise _none(root, kinds)
    kit_used = [devkit[0]] if devkit and devkit[0] != "." else []
    says = f"imagenet: original archives ({', '.join([*_few(list(used)), *kit_used])})"
    return Recognised(kind="archives", says=says, splits=splits), set(used)


def leftover_reason(kind: str, name: str) -> str:
    """Why a tar of this kind, which no split is made of, is left out."""
    reasons = {
        "train": "a second tar of tars: task 3 (dogs) or a copy, no training data of the classification task",
        "test": "test images, which have no labels",
        "unlabelled": "images without labels",
        "devkit": "development kit, no images",
        "empty": "an empty tar",
    }
    return reasons.get(kind, f"beside the archives that are used; shard {name} on its own if you want it")


def _none(root: Path, kinds: Mapping[str, str]) -> SourceError:
    held = ", ".join(f"{name} ({leftover_reason(kind, name)})" for name, kind in sorted(kinds.items()))
    return SourceError(
        f"{root}: no archive with images to train on or to validate with; it holds {held}; "
        f"fetch {ilsvrc.TRAIN_TAR} ({ilsvrc.BYTES[ilsvrc.TRAIN_TAR]:,} bytes)"
    )


def _fetch(root: Path) -> str:
    return ilsvrc.FETCH_DEVKIT.replace("that folder", str(root))


def _few(names: list[str]) -> list[str]:
    return names if len(names) <= 3 else [names[0], "…", names[-1]]


def _train_tars(root: Path, kinds: Mapping[str, str], excluded: Excluded, notices: list[str]) -> list[str]:
    """The tar of tars that holds the training images, or the inner tars where these lie side by side."""
    outer = [name for name, kind in kinds.items() if kind == "train"]
    inner = [name for name, kind in kinds.items() if kind == "class"]
    if not outer:
        return sorted(inner)
    dogs = {name: _only_dogs(root / name) for name in outer}
    task_3 = {
        n for n in outer if "_t3" in n or dogs[n] >= 100 or (len(outer) > 1 and dogs[n] and n != ilsvrc.TRAIN_TAR)
    }
    train = [name for name in outer if name not in task_3]
    if ilsvrc.TRAIN_TAR in train:
        train = [ilsvrc.TRAIN_TAR]
    if len(train) > 1:
        raise SourceError(f"{root}: {' and '.join(train)} are both tars of tars; leave only {ilsvrc.TRAIN_TAR} there")
    for name in train:
        notices += ilsvrc.size_notice(name, (root / name).stat().st_size)
    return train


def _only_dogs(path: Path) -> int:
    """How many classes a tar of tars has, if all are dogs; else 0."""
    with open_ranges(path) as file:
        wnids = [_stem(m) for m in walk_tar(file, path.name) if not m.reason and not has_system_part(m.name)]
    return len(wnids) if all(map(ilsvrc.is_dog, wnids)) else 0


def _val_tar(root: Path, kinds: Mapping[str, str]) -> str | None:
    found = [name for name, kind in kinds.items() if kind == "val"]
    if len(found) > 1:
        raise SourceError(f"{root}: {' and '.join(found)} both hold validation images; leave only one there")
    return found[0] if found else None


def _stem(member: Member) -> str:
    return member.name.rpartition("/")[2].partition(".")[0]


def _val(path: Path, container: str, truth: Truth, notices: list[str]) -> Found:
    found = flat_tar(path, container, truth)
    found.notices.extend(notices)
    return found


def _made(
    entries: Iterator[Entry], split: str, kit: Devkit | None, excluded: Excluded, notices: Sequence[str]
) -> Found:
    said = list(notices)
    return Found(
        entries=ilsvrc.watched(entries, split, said),
        excluded=excluded,
        ilsvrc2012_ids=kit.ids if kit else {},
        class_names=kit.names if kit else {},
        notices=said,
    )


def _train(
    tars: Mapping[str, Path], prefix: str, kit: Devkit | None, excluded: Excluded, notices: Sequence[str]
) -> Found:
    excluded = list(excluded)
    return _made(_train_entries(tars, prefix, excluded), "train", kit, excluded, notices)


def _train_entries(tars: Mapping[str, Path], prefix: str, excluded: Excluded) -> Iterator[Entry]:
    for name, path in tars.items():
        container = prefix + name
        with open_ranges(path) as file:
            if ilsvrc.is_wnid(path.stem):
                inner = iter([(container, path.stem, 0, file.size)])
            else:
                inner = _inner_tars(walk_tar(file, container), container, excluded)
            for where, wnid, start, end in inner:
                for member in walk_tar(file, where, start, end):
                    inside = f"{where}/{member.name}"
                    if member.reason or has_system_part(member.name):
                        excluded.append((inside, member.reason or "system file"))
                    else:
                        base = member.name.rpartition("/")[2]
                        yield Entry(wnid, f"{wnid}/{base}", inside, container, member.offset, member.size)


def _inner_tars(members: Iterator[Member], where: str, excluded: Excluded) -> Iterator[tuple[str, str, int, int]]:
    for member in members:
        inside = f"{where}/{member.name}"
        if member.reason or has_system_part(member.name):
            excluded.append((inside, member.reason or "system file"))
        elif not member.name.lower().endswith(".tar"):
            excluded.append((inside, "no tar of a class"))
        else:
            yield inside, _stem(member), member.offset, member.offset + member.size


def _folders(
    tars: Mapping[str, Path],
    prefix: str,
    split: str,
    kit: Devkit | None,
    excluded: Excluded,
    notices: Sequence[str],
) -> Found:
    excluded = list(excluded)
    again = [f"{name}: class folders packed again; its members decide" for name in tars]
    return _made(_folder_entries(tars, prefix, split, excluded), split, kit, excluded, [*notices, *again])


def _folder_entries(tars: Mapping[str, Path], prefix: str, split: str, excluded: Excluded) -> Iterator[Entry]:
    for name, path in tars.items():
        container = prefix + name
        with open_ranges(path) as file:
            for member in walk_tar(file, container):
                inside = f"{container}/{member.name}"
                parts = _below_split(member.name, split, container)
                if member.reason or has_system_part(member.name):
                    excluded.append((inside, member.reason or "system file"))
                elif len(parts) < 2:
                    excluded.append((inside, "not inside a class folder"))
                else:
                    yield Entry(parts[0], "/".join(parts), inside, container, member.offset, member.size)


def _below_split(name: str, split: str, where: str) -> list[str]:
    """``n01440764/a.JPEG`` of ``./imagenet/train/n01440764/a.JPEG``. Raises SourceError for another split's folder."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    for depth, part in enumerate(parts[:-1]):
        if ilsvrc.is_wnid(part):
            return parts[depth:]
        if part in SPLIT_NAMES and depth < 3:
            if SPLIT_NAMES[part] != split:
                raise SourceError(
                    f"{where}: holds a folder {part}/, but by its name it is the {split} split; pack every split into "
                    "a tar of its own, named for it (train.tar, val.tar)"
                )
            return parts[depth + 1 :]
    return parts
