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
from sharding.sources.tar_kind import tar_kind
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
    kit = devkit[1] if devkit else None
    splits: dict[str, Callable[[], Found]] = {}
    used: list[str] = []
    for split, names, make in _candidates(root, kinds, kit, truth, prefix):
        if split not in splits:
            splits[split] = make
            used += names
    if not splits and not may_be_none:
        raise _none(root, kinds)
    kit_used = [devkit[0]] if devkit and devkit[0] != "." else []
    says = f"imagenet: original archives ({', '.join([*_few(used), *kit_used])})"
    return Recognised(kind="archives", says=says, splits=splits), set(used)


def _candidates(
    root: Path, kinds: Mapping[str, str], kit: Devkit | None, truth: Truth | None, prefix: str
) -> Iterator[tuple[str, list[str], Callable[[], Found]]]:
    """What the splits may be made of, the best first: split, names of the tars, and how to list them."""
    train, notices = _train_tars(root, kinds)
    if train:
        yield "train", train, partial(_classes, _paths(root, train), prefix, "train", kit, notices)
    labelled = [name for name, kind in kinds.items() if kind == "class-val"]
    if labelled:
        yield "val", labelled, partial(_classes, _paths(root, labelled), prefix, "val", kit, [])
    for split in ("train", "val"):
        packed = [name for name, kind in kinds.items() if kind == "folders" and split_of_file(name) == split]
        if packed:
            labelled += packed if split == "val" else []
            yield split, packed, partial(_folders, _paths(root, packed), prefix, split, kit)
    val = _val_tar(root, kinds)
    if val and not labelled:
        if truth is None:
            raise SourceError(f"{root}: {val} holds images without labels, and no devkit is beside it; {_fetch(root)}")
        said = ilsvrc.size_notice(val, (root / val).stat().st_size)
        yield "val", [val], partial(_val, root / val, prefix + val, truth, said)


def _paths(root: Path, names: Sequence[str]) -> dict[str, Path]:
    return {name: root / name for name in names}


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


def _train_tars(root: Path, kinds: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The tar of tars that holds the training images, or the inner tars where these lie side by side; and notices."""
    outer = [name for name, kind in kinds.items() if kind == "train"]
    inner = [name for name, kind in kinds.items() if kind == "class"]
    if not outer:
        return sorted(inner), []
    dogs = {name: _only_dogs(root / name) for name in outer}
    task_3 = {
        n for n in outer if "_t3" in n or dogs[n] >= 100 or (len(outer) > 1 and dogs[n] and n != ilsvrc.TRAIN_TAR)
    }
    train = [name for name in outer if name not in task_3]
    if ilsvrc.TRAIN_TAR in train:
        train = [ilsvrc.TRAIN_TAR]
    if len(train) > 1:
        raise SourceError(f"{root}: {' and '.join(train)} are both tars of tars; leave only {ilsvrc.TRAIN_TAR} there")
    return train, [said for name in train for said in ilsvrc.size_notice(name, (root / name).stat().st_size)]


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


def _made(entries: Iterator[Entry], split: str, kit: Devkit | None, excluded: Excluded, notices: list[str]) -> Found:
    return Found(
        entries=ilsvrc.watched(entries, split, notices),
        excluded=excluded,
        ilsvrc2012_ids=kit.ids if kit else {},
        class_names=kit.names if kit else {},
        notices=notices,
    )


def _classes(tars: Mapping[str, Path], prefix: str, split: str, kit: Devkit | None, notices: Sequence[str]) -> Found:
    excluded: Excluded = []
    return _made(_tar_entries(tars, prefix, excluded), split, kit, excluded, list(notices))


def _tar_entries(tars: Mapping[str, Path], prefix: str, excluded: Excluded) -> Iterator[Entry]:
    for name, path in tars.items():
        container = prefix + name
        with open_ranges(path) as file:
            if tar_kind(path) == "train":
                inner = _inner_tars(walk_tar(file, container), container, excluded)
            else:
                inner = iter([(container, path.stem if ilsvrc.is_wnid(path.stem) else None, 0, file.size)])
            for where, wnid, start, end in inner:
                yield from _class_entries(walk_tar(file, where, start, end), where, container, wnid, excluded)


def _class_entries(
    members: Iterator[Member], where: str, container: str, wnid: str | None, excluded: Excluded
) -> Iterator[Entry]:
    """The images of one class; of the classes that their names tell, where ``wnid`` is None."""
    for member in members:
        inside = f"{where}/{member.name}"
        base = member.name.rpartition("/")[2]
        name, told = (base, wnid) if wnid is not None else ilsvrc.canonical(base)
        if member.reason or has_system_part(member.name):
            excluded.append((inside, member.reason or "system file"))
        elif told is None:
            excluded.append((inside, "its name tells no class"))
        else:
            yield Entry(told, f"{told}/{name}", inside, container, member.offset, member.size)


def _inner_tars(
    members: Iterator[Member], where: str, excluded: Excluded
) -> Iterator[tuple[str, str | None, int, int]]:
    for member in members:
        inside = f"{where}/{member.name}"
        if member.reason or has_system_part(member.name):
            excluded.append((inside, member.reason or "system file"))
        elif not member.name.lower().endswith(".tar"):
            excluded.append((inside, "no tar of a class"))
        else:
            yield inside, _stem(member), member.offset, member.offset + member.size


def _folders(tars: Mapping[str, Path], prefix: str, split: str, kit: Devkit | None) -> Found:
    excluded: Excluded = []
    again = [f"{name}: class folders packed again; its members decide" for name in tars]
    return _made(_folder_entries(tars, prefix, split, excluded), split, kit, excluded, again)


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
