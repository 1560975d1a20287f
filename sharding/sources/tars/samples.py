"""Read the samples of WebDataset tars: the members that share a key, which is the name up to its first dot.

Labels come from ``.cls``, else from ``.json``; ``KEY.0.jpg`` and ``KEY.0.cls`` are a sample of KEY. The
members of one tar are held in memory, without the images' bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.text import quote_value
from alexstream.sharding.sources.files import RangeFile, is_system, open_range_file
from alexstream.sharding.sources.labels.sample_labels import (
    Label,
    find_contradiction,
    list_json_fields,
    parse_cls_label,
    parse_json_label,
)
from alexstream.sharding.sources.readings import are_parts
from alexstream.sharding.sources.tars.kind import IMAGE_EXTENSIONS, LABEL_EXTENSIONS
from alexstream.sharding.sources.tars.walk import ArchiveMember, mark_replaced, walk_tar
from alexstream.sharding.sources.types import ListingLog

_MAX_LABEL_BYTES = 1 << 20  # bytes of a .cls or .json
_MAX_EAGER_BYTES = 1 << 16
ReadContent = Callable[[ArchiveMember], bytes]


class Sample(NamedTuple):
    """A sample: its tar, its key, its image, and its label as a number or a class name."""

    tar: str
    key: str
    image: ArchiveMember
    label: Label


class NoSamplesError(SourceError):
    """No sample has an image and a label."""


def has_labels(root: Path, tars: Sequence[str]) -> bool:
    """Return whether any sample has an image and a label. Raises SourceError for malformed labels."""
    try:
        return any(iter_samples(root, tars, ListingLog(), check_folders=False))
    except NoSamplesError:
        return False


def iter_samples(root: Path, tars: Sequence[str], log: ListingLog, *, check_folders: bool = True) -> Iterator[Sample]:
    """Yield the samples with an image and a label; record other members, and counts, in ``log``.

    The members of a sample may be anywhere in its tar. Raises NoSamplesError if no sample is complete, and SourceError
    if image and label of a sample are in two tars, or, with ``check_folders``, if folders seem to be other classes.
    """
    tally, folders = _SampleCounts(), _FolderLabels()
    for tar in tars:
        with open_range_file(root / tar if root.is_dir() else root) as file:
            members, contents = _read_members(file, tar)
            for key, group in _group_by_key(members, tar, log).items():
                sample = _make_sample(tar, key, group, contents, tally)
                log.excluded.extend((f"{tar}/{member.name}", why) for member, why in sample.left_out)
                if sample.whole is not None:
                    folders.add(sample.whole)
                    yield sample.whole
    tally.check(root)
    if check_folders:
        folders.check(root)
    log.notices.extend(tally.notices())


class _GroupResult(NamedTuple):
    """The result for the members of one key: a sample or None, and the members left out with the reason."""

    whole: Sample | None
    left_out: list[tuple[ArchiveMember, str]]


def _make_sample(
    tar: str, key: str, members: Sequence[ArchiveMember], contents: ReadContent, tally: _SampleCounts
) -> _GroupResult:
    images = [member for member in members if _get_kind(member) in IMAGE_EXTENSIONS]
    paired = _find_labeled_images(images, members, contents, tar)
    if len(paired) > 1:
        one, two = list(paired.values())[:2]
        raise SourceError(
            f"{tar}: {quote_value(one.name)} and {quote_value(two.name)} each have a label of their own, but are "
            "one sample, "
            f"{quote_value(key)}: the key of a WebDataset sample ends at the first dot; pack them anew under names "
            "without dots"
        )
    images.sort(key=lambda image: image not in paired.values())
    label = _read_label(members, contents, tar, next(iter(paired), "")) if images else None
    if label is None:
        why = "sample without a label" if images else "sample without an image"
        tally.add_incomplete(tar, key, members, contents, has_image=bool(images))
        return _GroupResult(None, [(member, why) for member in members])
    tally.num_whole += 1
    tally.extras.update(_get_extension(m) for m in members if m not in images and _get_kind(m) != "cls")
    second = [(image, "second image of a sample") for image in images[1:]]
    return _GroupResult(Sample(tar, key, images[0], label), second)


@dataclass(slots=True)
class _SampleCounts:
    """Counts what incomplete samples lack, and what complete ones hold beside image and label."""

    num_whole: int = 0
    extras: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)  # extensions in incomplete samples
    json_fields: list[str] = field(default_factory=list)  # of the first sidecar that has no label
    no_label: dict[str, str] = field(default_factory=dict)  # key to the tar
    no_image: dict[str, str] = field(default_factory=dict)

    def add_incomplete(
        self, tar: str, key: str, members: Sequence[ArchiveMember], contents: ReadContent, *, has_image: bool
    ) -> None:
        """Count a sample that has no label, or no image."""
        self.seen.update(map(_get_extension, members))
        if has_image:
            self.no_label.setdefault(key, tar)
            sidecars = (contents(member) for member in members if _get_kind(member) == "json")
            self.json_fields = self.json_fields or [name for data in sidecars for name in list_json_fields(data)]
        elif any(_get_kind(member) in LABEL_EXTENSIONS for member in members):
            self.no_image.setdefault(key, tar)

    def check(self, root: Path) -> None:
        """Raise SourceError if no sample is complete, or if one is split between two tars."""
        torn = next((key for key in self.no_label if key in self.no_image), None)
        if torn is not None:
            raise SourceError(
                f"{root}: sample {quote_value(torn)} has its image in {self.no_label[torn]} and its label in "
                f"{self.no_image[torn]}; pack both into one tar"
            )
        if not self.num_whole and self.seen:
            seen = ", ".join(f".{name} ({count:,})" for name, count in self.seen.most_common(5))
            fields = f"; the .json has the fields {', '.join(self.json_fields[:12])}" if self.json_fields else ""
            raise NoSamplesError(
                f"{root}: no sample has an image and a label; members are {seen}{fields}; expected KEY.jpg with "
                "KEY.cls, or with KEY.json and a field 'label' in it"
            )

    def notices(self) -> list[str]:
        """Return a notice of what complete samples hold beside image and label."""
        listed = ", ".join(f".{name} ({count:,})" for name, count in sorted(self.extras.items())[:5])
        return [f"what samples hold beside image and label is not taken over: {listed}"] if listed else []


@dataclass(slots=True)
class _FolderLabels:
    """The first label and sample of each folder that samples lie in, to see whether folders and labels disagree."""

    first: dict[str, Sample] = field(default_factory=dict)
    varying: bool = False  # a folder has several labels: it is no class
    misplaced: Sample | None = None  # the first sample whose label is not the name of its folder

    def add(self, sample: Sample) -> None:
        """Compare a sample with the others of its folder."""
        folder = sample.key.rpartition("/")[0].rpartition("/")[2]
        if self.first.setdefault(folder, sample).label != sample.label:
            self.varying = True
        if self.misplaced is None and sample.label != folder:
            self.misplaced = sample

    def check(self, root: Path) -> None:
        """Raise SourceError if folders may be classes, and labels are fewer, or the names of other folders."""
        labels = {sample.label for sample in self.first.values()}
        crossed = self.misplaced is not None and self.misplaced.label in self.first
        if "" in self.first or len(self.first) < 2 or _are_numbers(self.first):
            return
        if crossed or (not self.varying and len(labels) < len(self.first) and not are_parts(self.first)):
            folders = sorted(self.first)
            wrong = self.misplaced or next(iter(self.first.values()))
            raise SourceError(
                f"{root}: {quote_value(wrong.image.name)} has the label {quote_value(wrong.label)}, and lies in a "
                f"folder that may be its class; choose: `classes_at` last for {len(folders)} classes by the folders "
                f"({', '.join(folders[:4])}), or `classes` FILE with the names of the labels"
            )


def _are_numbers(names: Collection[str]) -> bool:
    return all(name.isdigit() for name in names)


def _read_members(file: RangeFile, tar: str) -> tuple[list[ArchiveMember], ReadContent]:
    """Return all members of a tar, and a function that reads a label; small labels are read during the walk."""
    members: list[ArchiveMember] = []
    read: dict[int, bytes] = {}
    for member in walk_tar(file, tar):
        members.append(member)
        if _get_kind(member) in LABEL_EXTENSIONS and member.size <= _MAX_EAGER_BYTES and not member.reason:
            read[member.offset] = file.peek_at(member.offset, member.size)

    def content(member: ArchiveMember) -> bytes:
        if member.size > _MAX_LABEL_BYTES:
            raise ValueError(f"has {member.size:,} bytes, at most {_MAX_LABEL_BYTES:,} are read")
        return read[member.offset] if member.offset in read else file.read_at(member.offset, member.size)

    return members, content


def _group_by_key(members: Collection[ArchiveMember], tar: str, log: ListingLog) -> dict[str, list[ArchiveMember]]:
    """Group the members by key; record system files and special members in ``log``."""
    groups: dict[str, list[ArchiveMember]] = {}
    for member in mark_replaced(members):
        if member.reason or is_system(member.name.rpartition("/")[2]):
            log.exclude(f"{tar}/{member.name}", member.reason or "system file")
        else:
            groups.setdefault(_sample_key(member.name), []).append(member)
    return groups


def _sample_key(name: str) -> str:
    folder, slash, base = name.removeprefix("./").rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _get_extension(member: ArchiveMember) -> str:
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def _get_kind(member: ArchiveMember) -> str:
    """Return the last part of a name, by which the contents are told: ``jpg`` of ``a.left.jpg``."""
    return _get_extension(member).rpartition(".")[2]


def _find_labeled_images(
    images: Sequence[ArchiveMember], members: Sequence[ArchiveMember], contents: ReadContent, tar: str
) -> dict[str, ArchiveMember]:
    """Find the first image of each middle part of a name (``0`` of ``a.0.jpg``, "" for none) that has a label too.

    Nothing is looked for where no image has such a part.
    """
    by_middle: dict[str, ArchiveMember] = {}
    if not any("." in _get_extension(image) for image in images):
        return by_middle
    for image in images:
        by_middle.setdefault(_get_extension(image).rpartition(".")[0], image)
    return {
        middle: image for middle, image in by_middle.items() if _read_label(members, contents, tar, middle) is not None
    }


def _read_label(members: Sequence[ArchiveMember], contents: ReadContent, tar: str, middle: str = "") -> Label | None:
    """Return the label of a sample; None if it has none. Raises SourceError for one that is no number and no word.

    ``middle`` is what stands between the key and the extension, "" where there is nothing.
    """
    by_extension = {_get_extension(member): member for member in members}
    for kind, read in (("cls", parse_cls_label), ("json", parse_json_label)):
        extension = f"{middle}.{kind}" if middle else kind
        if extension in by_extension:
            member = by_extension[extension]
            try:
                label = read(contents(member))
            except ValueError as error:
                if middle and kind == "json":
                    continue  # facts about a second image, say, and no label
                raise SourceError(
                    f"{tar}: the label in {quote_value(member.name)} {error}; expected a whole number from 0, or "
                    "the name of a class: write all labels so"
                ) from error
            sidecar = by_extension.get(f"{middle}.json" if middle else "json")
            if kind == "cls" and label is not None and sidecar is not None:
                _check_sidecar(label, member, sidecar, contents, tar)
            return label
    return None


def _check_sidecar(
    label: Label, member: ArchiveMember, sidecar: ArchiveMember, contents: ReadContent, tar: str
) -> None:
    """Raise SourceError if the ``.json`` of a sample has another label than its ``.cls``."""
    other = find_contradiction(label, contents(sidecar)) if sidecar.size <= _MAX_LABEL_BYTES else None
    if other is not None:
        raise SourceError(
            f"{tar}: the label in {quote_value(member.name)} is {quote_value(label)} and that in "
            f"{quote_value(sidecar.name)} {quote_value(other)}; pack the samples again with the right one alone, or "
            "give a table with `labels` FILE"
        )
