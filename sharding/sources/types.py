"""The vocabulary of sources: an image in one, a split that is being listed and its log, and what was detected."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from alexstream.sharding.dataset_v1.layout import SPLITS

WHOLE_FILE = -1
Excluded = list[tuple[str, str]]  # path and reason


class Entry(NamedTuple):
    """One image of a source, before it has a label and a key.

    ``name``: ``class/…/file.ext``, the same whatever the form of the source, since keys are made from it. ``path``: for
    people, such as ``ILSVRC2012_img_train.tar/n01440764.tar/n01440764_18.JPEG``. The image is ``size`` bytes from
    ``offset`` of the file ``container``; the whole file where ``offset`` is WHOLE_FILE; in a Parquet file, row ``size``
    of row group ``offset``. ``container`` and ``path`` are relative to the source and use forward slashes.
    """

    wnid: str
    name: str
    path: str
    container: str
    offset: int = WHOLE_FILE
    size: int = 0


@dataclass(slots=True)
class ListingLog:
    """Collect what is noticed while a split is listed; complete when its entries are exhausted.

    ``excluded``: path and reason of what is not tried as an image. ``notices``: sentences for the person who converts.
    ``inodes``: those of the entries' files, in the order of the entries; empty where the source has none.
    """

    excluded: Excluded = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    inodes: array[int] = field(default_factory=lambda: array("Q"))

    def exclude(self, path: str, reason: str) -> None:
        """Record a file that is not tried as an image."""
        self.excluded.append((path, reason))

    def extend(self, excluded: Iterable[tuple[str, str]], notices: Iterable[str]) -> None:
        """Record several files that are not tried as images, and notices."""
        self.excluded.extend(excluded)
        self.notices.extend(notices)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSplit:
    """The entries of a split, to be read once, and facts about its classes.

    ``classes``: the label order if the source fixes one; else classes are sorted. ``readings``: other interpretations
    of the folders, where only one class was found.
    """

    entries: Iterable[Entry]
    classes: tuple[str, ...] | None = None
    ilsvrc2012_ids: Mapping[str, int] = field(default_factory=dict)
    class_names: Mapping[str, str] = field(default_factory=dict)
    readings: str = ""


# Lists a split; what is noticed on the way, also while the entries are read, goes to the log.
SplitLister = Callable[[ListingLog], SourceSplit]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedTexts:
    """How a source is compared with the tables and lists of splits around its images.

    ``ways``: the folders of its splits, relative to the source, on the way to which texts are looked for. ``inside``:
    texts in its archives, as ``TextFile``. ``used``: tables that are read for labels already. ``readings``: returns the
    readings of the images as they lie, with the options, for errors. ``is_default_split``: nothing tells the split of
    its images. ``checks_classes``: folders are classes, to be compared with tables. ``is_decided``: the caller has
    decided against lists.
    """

    readings: Callable[[], str]
    ways: tuple[tuple[str, ...], ...] = ()
    inside: tuple[Any, ...] = ()
    used: tuple[Path, ...] = ()
    is_default_split: bool = False
    checks_classes: bool = False
    is_decided: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectedSource:
    """A detected source: ``kind`` is an identifier, ``description`` a sentence for people.

    ``splits``: a lister for each split, in the order train, val, test. ``read``: the files, or folders of data sets,
    that are read, where these are no class folders; ``unread``: folders beside them, which no lister reports;
    ``tells_splits``: their names, and not a default, tell the splits; ``compared``: how it is compared with texts
    around its images, if it is. All paths are relative to the source.
    """

    kind: str
    description: str
    splits: dict[str, SplitLister]
    read: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    tells_splits: bool = True
    compared: ComparedTexts | None = None

    def __post_init__(self) -> None:
        """Sort the splits in the order train, val, test."""
        ordered = {name: self.splits[name] for name in SPLITS if name in self.splits}
        object.__setattr__(self, "splits", ordered)


def with_log(lister: SplitLister, excluded: Iterable[tuple[str, str]], notices: Iterable[str]) -> SplitLister:
    """Return a lister that also records what was known before: files that are not tried as images, and notices."""

    def list_split(log: ListingLog) -> SourceSplit:
        split = lister(log)
        log.extend(excluded, notices)
        return split

    return list_split


def map_listing(
    lister: SplitLister, map_entry: Callable[[Entry], Entry], map_row: Callable[[str, str], Excluded]
) -> SplitLister:
    """Return a lister that changes each entry, and each path and reason of what is not tried as an image."""

    def list_split(log: ListingLog) -> SourceSplit:
        inner = ListingLog()
        split = lister(inner)
        return replace(split, entries=_iter_mapped(split.entries, inner, log))

    def _iter_mapped(entries: Iterable[Entry], inner: ListingLog, log: ListingLog) -> Iterator[Entry]:
        yield from map(map_entry, entries)
        log.extend((row for path, reason in inner.excluded for row in map_row(path, reason)), inner.notices)
        log.inodes.extend(inner.inodes)

    return list_split


def with_left_out(found: DetectedSource, excluded: Excluded, notices: Sequence[str]) -> DetectedSource:
    """Return ``found``, whose first split also reports what is left out, so that it is counted once."""
    if not excluded and not notices:
        return found
    splits = dict(found.splits)
    first = next(iter(splits))
    splits[first] = with_log(splits[first], excluded, notices)
    return replace(found, splits=splits)
