"""WebDataset tars, to be sharded again: DATASET v1, or those of any other tool.

A sample is adjacent members with one key (the name up to the first dot of its last part). Labels come from ``.cls``,
else from ``.json``. What a label number means is told by the manifest, by ``classes.json``, by the caller, or by keys
that hold wnids; where nothing tells, classes are called by their number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from sharding import layout
from sharding.errors import SourceError
from sharding.fields import parsed
from sharding.listing import Entry, Found
from sharding.sources import ilsvrc
from sharding.sources.class_list import classes_beside
from sharding.sources.form import SPLIT_NAMES, Recognised, split_of_file
from sharding.sources.place import RangeFile, files_of, is_system, items, open_ranges
from sharding.sources.tar_kind import IMAGE_EXTENSIONS, tar_kind
from sharding.sources.tar_walk import Member, walk_tar

_MAX_NUMBER = 1_000_000  # of a label that stands for a class; more is an id of something else
_MAX_LABEL = 1 << 20  # bytes of a .cls or .json
_CANONICAL = re.compile(r"(n\d{8})_\d+|ILSVRC20\d\d_(?:val|test)_\d{8}")
Names = Mapping[int, str]


class _Sample(NamedTuple):
    tar: str
    key: str
    image: Member
    label: str


def dataset_v1(root: Path) -> Recognised | None:
    """A DATASET v1 folder, or a folder of its splits; None if it is none. Raises DatasetError for a damaged one."""
    if layout.is_dataset(root):
        folders = {"": root}
    else:
        inside = [item.name for item in items(root) if item.is_dir and layout.is_dataset(root / item.name)]
        folders = {f"{name}/": root / name for name in inside}
    splits: dict[str, Callable[[], Found]] = {}
    for prefix, folder in folders.items():
        manifest = layout.load_manifest(folder)
        tars = [f"{prefix}{shard.name}.tar" for shard in manifest.shards]
        missing = next((tar for tar in tars if not (root / tar).is_file()), None)
        if missing or manifest.split in splits:
            wrong = f"{missing} is missing" if missing else f"the split {manifest.split} is there twice"
            raise SourceError(f"{root}: {wrong}; restore the data set, or shard its source again")
        left = [f"{prefix}{item.name}" for item in items(folder) if f"{prefix}{item.name}" not in tars]
        if prefix and not splits:
            left += [item.name for item in items(root) if f"{item.name}/" not in folders]
        names = partial(_numbered, manifest.classes)
        splits[manifest.split] = partial(
            _found, root, manifest.split, tars, names, [(path, _sidecar(path)) for path in left], own=True
        )
    if not splits:
        return None
    return Recognised(kind="webdataset", says=f"DATASET v1 ({', '.join(splits)}), to be sharded again", splits=splits)


def webdataset(root: Path, classes: Sequence[str] | None = None) -> Recognised | None:
    """WebDataset tars in ``root`` or in its folders of splits, or the one tar that ``root`` is; None if there are none.

    ``classes`` names the label numbers, where the caller knows them.
    """
    by_split, left = _tars(root)
    if not by_split:
        return None
    known = classes or (classes_beside(root) if root.is_dir() else None)
    names = partial(_numbered, known) if known else cache(partial(_implied, root, by_split))
    splits: dict[str, Callable[[], Found]] = {}
    for split in by_split:
        splits[split] = partial(_found, root, split, by_split[split], names, left if not splits else [], own=False)
    counts = ", ".join(f"{split}: {len(tars)} tars" for split, tars in by_split.items())
    return Recognised(kind="webdataset", says=f"WebDataset ({counts})", splits=splits)


def _numbered(classes: Sequence[str]) -> dict[int, str]:
    return dict(enumerate(classes))


def _beside(root: Path, path: str) -> str:
    return "folder beside the shards" if (root / path).is_dir() and not is_system(path) else _sidecar(path)


def _sidecar(path: str) -> str:
    if is_system(path.rpartition("/")[2]):
        return "system file"
    return "not in the manifest" if path.endswith(".tar") else "beside the shards, no image"


def _tars(root: Path) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    if not root.is_dir():
        return {split_of_file(root.name): [root.name]}, []
    by_split: dict[str, list[str]] = {}
    left: list[tuple[str, str]] = []
    top = items(root)
    places = {"": top} | {
        item.name: items(root / item.name) for item in top if item.is_dir and item.name in SPLIT_NAMES
    }
    for folder, listed in places.items():
        tars = files_of(listed, ".tar")
        for name in tars:
            path = f"{folder}/{name}".lstrip("/")
            kind = tar_kind(root / path)
            if kind == "samples":
                by_split.setdefault(SPLIT_NAMES.get(folder) or split_of_file(name), []).append(path)
            else:
                left.append((path, f"no WebDataset samples with labels in it ({kind})"))
        left += [
            (f"{folder}/{item.name}".lstrip("/"), _beside(root, f"{folder}/{item.name}".lstrip("/")))
            for item in listed
            if item.name not in tars and not (folder == "" and item.name in places)
        ]
    order = [split for split in ("train", "val", "test") if split in by_split]
    return {split: by_split[split] for split in order}, left


def _found(
    root: Path,
    split: str,
    tars: Sequence[str],
    names: Callable[[], Names],
    left: Iterable[tuple[str, str]],
    *,
    own: bool,
) -> Found:
    name_of = names()
    excluded = list(left)
    notices = [f"{path}/: left out: {why}" for path, why in excluded if why.startswith("folder")]
    if name_of and all(name == str(number) for number, name in name_of.items()) and not own:
        notices.append(
            f"{split}: nothing says what the label numbers mean, so classes are called by their number; "
            "--classes FILE names them"
        )
    entries = _entries(root, tars, name_of, own, excluded, notices)
    return Found(
        entries=ilsvrc.watched(entries, split, notices),
        classes=tuple(name_of[number] for number in sorted(name_of)) or None,
        excluded=excluded,
        notices=notices,
    )


def _entries(
    root: Path,
    tars: Sequence[str],
    name_of: Names,
    own: bool,
    excluded: list[tuple[str, str]],
    notices: list[str],
) -> Iterator[Entry]:
    for sample in _samples(root, tars, excluded, notices):
        name = _class(sample, name_of)
        path = f"{sample.tar}/{sample.image.name}"
        yield Entry(
            name, _name(sample, name, own), path, sample.tar, sample.image.offset, sample.image.size
        )  # fmt: skip


def _class(sample: _Sample, name_of: Names) -> str:
    number = _number(sample.label)
    if number is None:
        if name_of and sample.label not in name_of.values():
            raise SourceError(
                f"{sample.tar}: sample {sample.key!r} has label {sample.label!r}, which is no known class"
            )
        return sample.label
    if number not in name_of:
        raise SourceError(
            f"{sample.tar}: sample {sample.key!r} has label {number}, and there are {len(name_of)} classes; "
            "give the list that belongs to it with --classes"
        )
    return name_of[number]


def _name(sample: _Sample, wnid: str, own: bool) -> str:
    """``class/file``; keys that are unique in their shard alone get its name, those that we made stay what they are."""
    base = sample.image.name.removeprefix("./")
    key = sample.key.rpartition("/")[2]
    if _CANONICAL.fullmatch(key):
        return f"{wnid}/{base.rpartition('/')[2]}"
    if own:
        prefix = re.sub(r"[^A-Za-z0-9_-]", "-", wnid) + "_"
        return f"{wnid}/{base.removeprefix(prefix)}"
    return f"{wnid}/{sample.tar.rpartition('/')[2].partition('.')[0]}/{base}"


def _number(label: str) -> int | None:
    return int(label) if label.isascii() and label.isdigit() and len(label) < 9 else None


def _implied(root: Path, by_split: Mapping[str, Sequence[str]]) -> dict[int, str]:
    """Label number → class, of the training samples' keys if all hold a wnid, else by number; empty for text labels.

    Raises SourceError if keys and labels contradict each other.
    """
    tars = by_split.get("train") or next(iter(by_split.values()))
    wnid_of: dict[int, str] = {}
    label_of: dict[str, int] = {}
    canonical, top = True, -1
    for sample in _samples(root, tars, [], []):
        number, match = _number(sample.label), _CANONICAL.fullmatch(sample.key.rpartition("/")[2])
        if number is None:
            return {}
        top, canonical = max(top, number), canonical and match is not None and match[1] is not None
        if not canonical:
            continue
        wnid = str(match[1]) if match else ""
        if wnid_of.setdefault(number, wnid) != wnid or label_of.setdefault(wnid, number) != number:
            raise SourceError(
                f"{sample.tar}: sample {sample.key!r} has label {number}, but other samples say that {number} is "
                f"{wnid_of[number]} and {wnid} is {label_of.get(wnid, number)}; give the classes with --classes"
            )
    if top > _MAX_NUMBER:
        raise SourceError(f"{root}: labels go up to {top:,}: no numbers of classes; give the classes with --classes")
    return wnid_of if canonical else {number: str(number) for number in range(top + 1)}


def _samples(root: Path, tars: Sequence[str], excluded: list[tuple[str, str]], notices: list[str]) -> Iterator[_Sample]:
    """Samples with an image and a label; the others are excluded, and what else they hold is counted."""
    extras: Counter[str] = Counter()
    for tar in tars:
        with open_ranges(root / tar if root.is_dir() else root) as file:
            for key, group in groupby(_plain(walk_tar(file, tar), tar, excluded), lambda m: _key(m.name)):
                members = list(group)
                images = [m for m in members if _extension(m).rpartition(".")[2] in IMAGE_EXTENSIONS]
                label = _label(file, members, tar) if images else None
                if label is None:
                    reason = "sample without a label" if images else "sample without an image"
                    excluded.extend((f"{tar}/{member.name}", reason) for member in members)
                    continue
                excluded.extend((f"{tar}/{image.name}", "second image of a sample") for image in images[1:])
                extras.update(_extension(m) for m in members if m not in images and _extension(m) != "cls")
                yield _Sample(tar, key, images[0], label)
    if extras:
        listed = ", ".join(f".{name} ({count:,})" for name, count in sorted(extras.items())[:5])
        notices.append(f"members of samples that are neither image nor label are not taken over: {listed}")


def _plain(members: Iterable[Member], tar: str, excluded: list[tuple[str, str]]) -> Iterator[Member]:
    for member in members:
        if member.reason or is_system(member.name.rpartition("/")[2]):
            excluded.append((f"{tar}/{member.name}", member.reason or "system file"))
        else:
            yield member


def _key(name: str) -> str:
    folder, slash, base = name.removeprefix("./").rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _extension(member: Member) -> str:
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def _label(file: RangeFile, members: Sequence[Member], tar: str) -> str | None:
    """The label of a sample as text; None if it has none. Raises SourceError for one that cannot be read."""
    by_extension = {_extension(member): member for member in members}
    try:
        if "cls" in by_extension:
            text = _content(file, by_extension["cls"]).decode("utf-8").strip()
            return str(int(text)) if text.lstrip("-").isdigit() and int(text) >= 0 else _text_label(text)
        if "json" in by_extension:
            held = parsed(_content(file, by_extension["json"]))
            value = next((held[name] for name in ("label", "cls") if held.get(name) is not None), None)
            return None if value is None else _text_label(str(value))
    except (ValueError, AttributeError) as error:
        raise SourceError(f"{tar}: the label of {members[0].name!r} cannot be read ({error})") from error
    return None


def _content(file: RangeFile, member: Member) -> bytes:
    if member.size > _MAX_LABEL:
        raise ValueError(f"{member.size:,} bytes, at most {_MAX_LABEL:,} are read")
    return file.peek_at(member.offset, member.size)


def _text_label(text: str) -> str | None:
    """A label in words; a negative number is how some say that there is none."""
    return None if not text or text.startswith("-") else text
