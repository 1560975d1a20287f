"""Compare the splits of a source with the lists and tables of splits around it, or read its splits from them.

Where nothing else tells the splits, lists that name every image in one split do. Everywhere else they must agree with
what tells them. A doubt is a SourceError that names the options.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of
from alexstream.sharding.dataset_v1.layout import SPLITS
from alexstream.sharding.sources.files import is_image_name
from alexstream.sharding.sources.labels.name_index import NameIndex
from alexstream.sharding.sources.labels.split_claims import UNCLEAR, read_claims
from alexstream.sharding.sources.labels.text_files import TextFile
from alexstream.sharding.sources.split_words import split_of_word
from alexstream.sharding.sources.types import (
    DetectedSource,
    Entry,
    ListingLog,
    SourceSplit,
    SplitLister,
    with_left_out,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListChoice:
    """What decides about lists of splits: ``readings`` returns the options for errors; the caller may have ``decided``.

    ``asked`` is the split that the caller asked for, or "".
    """

    readings: Callable[[], str]
    decided: bool = False
    asked: str = ""


@dataclass(slots=True)
class SplitLists:
    """The rows of all lists of splits: ``splits`` has the split of each row, ``unread`` what could not be read."""

    root: Path
    index: NameIndex
    splits: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    _files: list[tuple[int, TextFile, str]] = field(default_factory=list)  # first row, file, and its problem

    def add(self, file: TextFile, split: str, names: Iterable[str], problem: str) -> None:
        """Add the images that a file says are in a split."""
        start = len(self.splits)
        for name in names:
            self.index.add(name, len(self.splits))
            self.splits.append(split)
        if len(self.splits) > start:
            self._files.append((start, file, problem))

    def file_of(self, row: int) -> TextFile:
        """Return the file of a row."""
        return self._files[self._position(row)][1]

    def problem_of(self, row: int) -> str:
        """Return why the split of a row is not told; "" if it is."""
        return self._files[self._position(row)][2]

    def _position(self, row: int) -> int:
        return bisect_right(self._files, row, key=lambda one: one[0]) - 1

    def describe(self, rows: Iterable[int]) -> str:
        """Return the names of the files that some rows are in."""
        files = list(dict.fromkeys(self._files[at][1].where for at in sorted({self._position(row) for row in rows})))
        return ", ".join(files if len(files) <= 4 else [*files[:3], "…", files[-1]])

    def find(self, entry: Entry) -> list[int]:
        """Return the rows that name an image."""
        return self.index.find(_inner_path(entry))

    def tell(self, rows: Iterable[int]) -> set[str]:
        """Return the splits that some rows tell."""
        return {self.splits[row] for row in rows}


def _inner_path(entry: Entry) -> str:
    """Return the path of an image, in its tar if it is in one."""
    return entry.path.removeprefix(f"{entry.container}/") if entry.container != entry.path else entry.path


def load_lists(root: Path, files: Sequence[TextFile], used: Sequence[Path] = ()) -> SplitLists:
    """Load all that tells splits from texts, except those in ``used``, whose labels and splits are read elsewhere.

    In a source that is named for a split, a list one level above is about images of it only by names with its folder:
    others may be relative to the folder of another split.
    """
    lists = SplitLists(root, NameIndex(_parts_above(root)))
    of_split = split_of_word(root.name) is not None
    tables = {str(_absolute(table)) for table in used}
    for file in (one for one in files if one.path is None or str(_absolute(one.path)) not in tables):
        claims = read_claims(file, files)
        if claims is None:
            lists.unread.append(file.where)
            continue
        for split, names in claims.named.items():
            about = (name for name in names if not (file.is_above and of_split) or root.name in name.split("/")[:-1])
            lists.add(file, split, about, claims.problem)
    return lists


def _parts_above(root: Path) -> Sequence[str]:
    return [part for part in _absolute(root).as_posix().split("/") if part]


def _absolute(path: Path) -> Path:
    return path.absolute() if isinstance(path, Path) else path


def read_split_lists(found: DetectedSource, lists: SplitLists, choice: ListChoice) -> DetectedSource:
    """Return a source whose splits agree with the lists: they are told by these, or compared while they are listed.

    Raises SourceError, also when a split is listed, for an image of which they disagree.
    """
    notices = [f"{where} may be a list of splits or a table of labels, and is not read" for where in lists.unread]
    if not lists.splits:
        return with_left_out(found, [], notices)
    if found.compared is not None and found.compared.is_default_split and len(found.splits) == 1:
        return with_left_out(_take_splits(found, lists, choice), [], notices)
    guard = _SplitGuard(found, lists, choice)
    guarded = {split: guard.wrap(lister, split) for split, lister in found.splits.items()}
    return with_left_out(replace(found, splits=guarded), [], notices)


def _take_splits(found: DetectedSource, lists: SplitLists, choice: ListChoice) -> DetectedSource:
    """Return a source of one split, which nothing in it tells, with the splits of the lists."""
    ((own, lister),) = found.splits.items()
    census = _Census(lists)
    for entry in lister(ListingLog()).entries:
        census.add(entry)
    if not census.rows:
        return with_left_out(found, [], census.notices())
    where = lists.describe(census.rows)
    if choice.decided:
        return with_left_out(found, [], [*census.notices(), *_aside_notices(where, own, census.counts)])
    census.check(where, own, choice)
    names = [split for split in SPLITS if census.counts[split]]
    made = {name: _selected(lister, lists, name, is_first=name == names[0]) for name in names}
    says = _insert_files(found.description, where)
    return with_left_out(replace(found, splits=made, description=says), [], census.notices())


def _insert_files(description: str, where: str) -> str:
    """Return a description that says where the splits are from, in place of the split that was presumed."""
    if match := re.fullmatch(r"(.*) as (?:train|val|test)\)", description):
        return f"{match[1]}, with the splits of {where})"
    presumed = re.fullmatch(r"(.*) \((?:train|val|test)(?:: [0-9,]+ images?)?\)", description)
    return f"{presumed[1] if presumed else description} (with the splits of {where})"


def _aside_notices(where: str, own: str, counts: Counter[str]) -> list[str]:
    """Say how many images the lists that are left aside have in other splits; nothing where they agree."""
    others = {split or "a split not told": count for split, count in counts.items() if split != own}
    told = " and ".join(f"{count_of(count, 'image')} listed in {split}" for split, count in others.items())
    verb = "is" if sum(others.values()) == 1 else "are"
    return [f"{where}: its splits are left aside, so {told} {verb} read as {own}"] if others else []


class _Census:
    """The images of a source, counted by the splits that lists tell."""

    def __init__(self, lists: SplitLists) -> None:
        self.lists = lists
        self.counts: Counter[str] = Counter()
        self.rows: set[int] = set()  # one of each file and split that is about images here
        self._seen: set[tuple[str, str]] = set()
        self._near: dict[str, str] = {}
        self._missing: list[str] = []
        self._clash: tuple[str, list[int]] | None = None
        self._unclear: tuple[str, int] | None = None

    def add(self, entry: Entry) -> None:
        """Count an image."""
        if not is_image_name(entry.path):
            return
        rows = self.lists.find(entry)
        told = self.lists.tell(rows)
        if not rows:
            self._missing.append(entry.path) if len(self._missing) < 1 else self._missing.append("")
            for row in self.lists.index.find_elsewhere(entry.path)[:4]:
                self._near.setdefault(self.lists.file_of(row).where, entry.path)
        for split in told:
            self.counts[split] += 1
        for row in rows:
            key = self.lists.file_of(row).where, self.lists.splits[row]
            if key not in self._seen:
                self._seen.add(key)
                self.rows.add(row)
        if UNCLEAR in told and self._unclear is None:
            self._unclear = entry.path, next(row for row in rows if self.lists.splits[row] == UNCLEAR)
        elif len(told) > 1 and self._clash is None:
            self._clash = entry.path, rows

    def notices(self) -> list[str]:
        """Say which lists have the names of images here in other folders, and so tell nothing about them."""
        read = {where for where, _ in self._seen}
        return [_near_notice(where, path) for where, path in self._near.items() if where not in read]

    def check(self, where: str, own: str, choice: ListChoice) -> None:
        """Raise SourceError unless each image is in one split, and the splits are sure."""
        root, unless = self.lists.root, f", all as {choice.asked or 'train'} unless `split` says another"
        if self._unclear:
            path, row = self._unclear
            _raise_unclear(self.lists, path, row, choice)
        if self._clash:
            path, rows = self._clash
            told = " and ".join(sorted(self.lists.tell(rows)))
            raise SourceError(
                f"{root}: {self.lists.describe(rows)} list the images of splits, and {path} is in {told} at once "
                f"(lists of several folds?); {choice.readings()}{unless}"
            )
        if self._missing:
            told = " and ".join(split for split in SPLITS if self.counts[split])
            raise SourceError(
                f"{root}: {where} list the images of {told}, and {count_of(len(self._missing), 'image')} in none of "
                f"them ({self._missing[0]}, …); list them, or {choice.readings()}{unless}"
            )
        (only,) = self.counts if len(self.counts) == 1 else ("",)
        if only and only not in (own, choice.asked):
            raise SourceError(
                f"{root}: {where} may say that all images are in {only}, or be something else with {only} in its name; "
                f"give `split` {only} if they are, or {choice.readings()}{unless}{self._or_labels()}"
            )

    def _or_labels(self) -> str:
        """Return the option that reads the only list as a table of labels; "" for a list of names."""
        files = [self.lists.file_of(row) for row in self.rows]
        is_table = len(files) == 1 and files[0].option and len(files[0].rows[0]) > 1
        return f", or {files[0].option} if it tells the classes" if is_table else ""


def _near_notice(where: str, path: str) -> str:
    return f"{where} may be a list of splits: it names {path.rpartition('/')[2]}, but not in the folder it lies in"


def _raise_unclear(lists: SplitLists, path: str, row: int, choice: ListChoice) -> NoReturn:
    raise SourceError(
        f"{lists.root}: {lists.file_of(row).where} {lists.problem_of(row)}, and names {path}; write train, val or test "
        f"there, or {choice.readings()}"
    )


def _selected(lister: SplitLister, lists: SplitLists, split: str, *, is_first: bool) -> SplitLister:
    """Return a lister of the images of one split, of a lister of all; what is left out counts once."""

    def list_split(log: ListingLog) -> SourceSplit:
        found = lister(log if is_first else ListingLog())
        return replace(found, entries=(one for one in found.entries if is_here(one)))

    def is_here(entry: Entry) -> bool:
        told = lists.tell(lists.find(entry))
        return told == {split} if told else is_first

    return list_split


class _SplitGuard:
    """Compares the images of each split with the rows of lists, of which each must be right for one image at least.

    A name without folders may be that of images in several splits.
    """

    def __init__(self, found: DetectedSource, lists: SplitLists, choice: ListChoice) -> None:
        self.found, self.lists, self.choice = found, lists, choice
        self._agreed = bytearray(len(lists.splits))
        self._near: dict[str, str] = {}
        self._read: set[str] = set()

    def wrap(self, lister: SplitLister, split: str) -> SplitLister:
        """Return a lister of one split that compares its images."""

        def list_split(log: ListingLog) -> SourceSplit:
            found = lister(log)
            return replace(found, entries=self._compare(found.entries, split, log))

        return list_split

    def _compare(self, entries: Iterable[Entry], split: str, log: ListingLog) -> Iterator[Entry]:
        others: dict[int, str] = {}
        for entry in entries:
            self._add(entry, split, others)
            yield entry
        others = {row: path for row, path in others.items() if not self._agreed[row]}
        for name in self.lists.tell(others) & set(self.found.splits) - {split}:
            for entry in self.found.splits[name](ListingLog()).entries:
                self._add(entry, name, {})
        others = {row: path for row, path in others.items() if not self._agreed[row]}
        if others and not self.choice.decided:
            self._raise_difference(others, split)
        counts = Counter(self.lists.splits[row] for row in others)
        log.notices += _aside_notices(self.lists.describe(others), split, counts)
        log.notices += [_near_notice(where, path) for where, path in self._near.items() if where not in self._read]
        self._read.update(self._near)  # said once

    def _add(self, entry: Entry, split: str, others: dict[int, str]) -> None:
        rows = self.lists.find(entry)
        for row in rows:
            if self.lists.splits[row] == split:
                self._agreed[row] = 1
            elif not self._agreed[row]:
                others.setdefault(row, entry.path)
        if rows:
            self._read.update(self.lists.file_of(row).where for row in rows)
        else:
            for row in self.lists.index.find_elsewhere(entry.path)[:4]:
                if self.lists.splits[row] != split:
                    self._near.setdefault(self.lists.file_of(row).where, entry.path)

    def _raise_difference(self, others: dict[int, str], split: str) -> NoReturn:
        row, path = next(iter(others.items()))
        if self.lists.splits[row] == UNCLEAR:
            _raise_unclear(self.lists, path, row, self.choice)
        more = f" ({len(others):,} such)" if len(others) > 1 else ""
        raise SourceError(
            f"{self.lists.file_of(row).where} says that {path}{more} is in {self.lists.splits[row]}, and it is read as "
            f"{split}; move what is wrong, or {self.choice.readings()}"
        )
