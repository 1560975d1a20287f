"""Compare the classes and splits that folders tell with the tables beside them, while the images are listed.

A table that says the same gets a notice; one that says something else ends the listing, with the options to choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.core.text import normalize_nfc, quote_value
from alexstream.sharding.sources.labels.image_table import ImageTable, is_number
from alexstream.sharding.sources.labels.label_table import is_class_column
from alexstream.sharding.sources.labels.name_index import find_table_files
from alexstream.sharding.sources.labels.split_lists import CUB_FLAGS
from alexstream.sharding.sources.split_words import split_of_file
from alexstream.sharding.sources.types import DetectedSource, Entry, ListingLog, SourceSplit, SplitLister

_SUBMISSIONS = ("submission", "sample_submission", "samplesubmission")
_MAX_PAIRS = 10_000  # of class and cell that are compared, to see whether they match one to one


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """What decides an audit: the ``readings`` of the folders with their options, and what the caller has decided.

    ``check_classes`` is False where the level of the classes is given, ``check_splits`` where the split is.
    """

    readings: str
    check_classes: bool = True
    check_splits: bool = True


class _Comparison:
    """What the rows of a table say about the images of one split, by one of its columns of files.

    A name without folders may be that of several images: a row agrees if it does with one of them.
    """

    def __init__(self, table: ImageTable, file: int) -> None:
        columns = [c for c in range(len(table.header)) if c != file]
        self.table, self.file = table, file
        self.num_images = self.num_with_folder = 0
        self.other_split = ""  # the first image of another split
        self._agreeing = {c: bytearray(len(table.cells)) for c in columns}  # by column: 1 for each row that agrees
        self._differing: dict[int, dict[int, Entry]] = {c: {} for c in columns}  # and the image of rows that do not
        self._classes: dict[int, dict[str, str]] = {c: {} for c in columns}  # and the class of each cell's first image
        self._paired = set(columns)  # columns where cell and class match one to one

    def add(self, entry: Entry, split: str) -> None:
        """Compare the rows that name an image with its class and split."""
        rows = self.table.files[self.file].find(entry.path)
        if not rows:
            return
        self.num_images += 1
        named = _plain(entry.wnid)
        self.num_with_folder += any(named in map(_plain, self.table.cells[i][self.file].split("/")) for i in rows)
        told = {self.table.splits[i] for i in rows} - {None}
        if told and split not in told and not self.other_split:
            self.other_split = f"{entry.path} is in {told.pop()}"
        for c in self._agreeing:
            for row in rows:
                self._add_cell(c, row, entry, named)

    def _add_cell(self, column: int, row: int, entry: Entry, named: str) -> None:
        cell, differing, classes = self.table.cells[row][column], self._differing[column], self._classes[column]
        if _plain(cell) == named:
            self._agreeing[column][row] = 1
            differing.pop(row, None)
        elif cell and not self._agreeing[column][row] and len(differing) < _MAX_PAIRS:
            differing.setdefault(row, entry)
        if column in self._paired and (len(classes) >= _MAX_PAIRS or classes.setdefault(cell, named) != named):
            self._paired.discard(column)

    def agrees(self, column: int) -> bool:
        """Return whether a column has the class of the folder in every row that names an image."""
        return not self._differing[column] and any(self._agreeing[column])

    def find_difference(self, column: int) -> tuple[Entry, str] | None:
        """Return the first image of which a column says another class, and that class; None for none."""
        row = min(self._differing[column], default=None)
        return None if row is None else (self._differing[column][row], self.table.cells[row][column])

    def is_one_to_one(self, column: int) -> bool:
        """Return whether each class has a number of its own in a column."""
        cells = self._classes[column]
        return column in self._paired and len(set(cells.values())) == len(cells) and all(map(is_number, cells))


def _plain(name: str) -> str:
    """Return a name without case, blanks and marks: ``Air hockey`` and ``air_hockey`` are one class."""
    return "".join(one for one in normalize_nfc(name).casefold() if one.isalnum()) or name


def audit_tables(
    found: DetectedSource, root: Path, ways: Sequence[Sequence[str]], options: AuditOptions
) -> DetectedSource:
    """Return a source whose splits are compared with the tables beside the images while they are listed.

    ``ways`` are the paths of the folders of the splits, relative to ``root``.
    """
    paths = [path for path in find_table_files(root, ways) if path.name != CUB_FLAGS]
    tables = [ImageTable(root, path) for path in paths if not path.name.lower().startswith(_SUBMISSIONS)]
    if not tables:
        return found
    splits = {split: _audited(lister, split, tables, options) for split, lister in found.splits.items()}
    return replace(found, splits=splits)


def _audited(lister: SplitLister, split: str, tables: Sequence[ImageTable], options: AuditOptions) -> SplitLister:
    def list_split(log: ListingLog) -> SourceSplit:
        found = lister(log)
        of_split = [table for table in tables if split_of_file(table.where.rpartition("/")[2]) in (None, split)]
        compared = [_Comparison(table, file) for table in of_split if table.cells for file in table.files]
        return replace(found, entries=_compare(found.entries, split, compared, options, log)) if compared else found

    return list_split


def _compare(
    entries: Iterable[Entry], split: str, compared: Sequence[_Comparison], options: AuditOptions, log: ListingLog
) -> Iterator[Entry]:
    count = 0
    for entry in entries:
        count += 1
        for comparison in compared:
            comparison.add(entry, split)
        yield entry
    best: dict[str, _Comparison] = {}
    for comparison in compared:
        where = comparison.table.where
        if comparison.num_images > (best[where].num_images if where in best else 0):
            best[where] = comparison
    for comparison in best.values():
        if options.check_splits and (comparison.other_split or comparison.table.split_problem):
            raise _split_error(comparison, split)
        if options.check_classes:
            _judge_classes(comparison, count, options, log)


def _split_error(found: _Comparison, split: str) -> SourceError:
    says = f"says that {found.other_split}" if found.other_split else found.table.split_problem
    return SourceError(
        f"{found.table.where} {says}, and its images are read as {split}; choose: {found.table.option} for the splits "
        f"and classes of the table, or `split` {split} for the folders read as {split}, whatever the table says"
    )


def _judge_classes(found: _Comparison, count: int, options: AuditOptions, log: ListingLog) -> None:
    """Add a notice where a table says what the folders say; raise SourceError where it says something else."""
    table, file = found.table, found.file
    classes = table.class_columns(file)
    named = any(is_class_column(table.header[c]) for c in classes)
    agreeing = [c for c in (classes if named else table.other_columns(file)) if found.agrees(c)]
    if agreeing:
        log.notices.append(f"{table.where} tells the same classes as the folders{_in_column(table, agreeing[0])}")
        return
    if numbered := [c for c in classes if found.is_one_to_one(c)]:
        log.notices.append(
            f"{table.where} has a number for each class folder{_in_column(table, numbered[0])}; the folders' "
            "names are the classes"
        )
        return
    for column in classes:
        if (difference := found.find_difference(column)) is not None:
            entry, cell = difference
            raise SourceError(
                f"{table.where} says that {entry.path} is {quote_value(cell)}{_in_column(table, column)}, and its "
                f"folder that it is {quote_value(entry.wnid)}; {options.readings}, or {table.option} for the classes "
                "of the table"
            )
    if table.other_columns(file) and not found.num_with_folder and found.num_images * 2 >= count:
        raise SourceError(
            f"{table.where} names images without the folders that they lie in; {options.readings}, or "
            f"{table.option} if the table tells the classes"
        )


def _in_column(table: ImageTable, column: int) -> str:
    return f" (column {quote_value(table.header[column])})" if table.header[column] else ""
