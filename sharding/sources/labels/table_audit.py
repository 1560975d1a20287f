"""Compare the classes that folders tell with the tables beside them, while the images are listed.

A table that says the same gets a notice; one that says something else ends the listing, with the options to choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from alexstream.core.errors import SourceError
from alexstream.core.text import normalize_nfc, quote_value
from alexstream.sharding.sources.labels.image_table import ImageTable, is_number
from alexstream.sharding.sources.labels.label_table import is_class_column
from alexstream.sharding.sources.labels.split_claims import CUB_FLAGS
from alexstream.sharding.sources.labels.text_files import TextFile
from alexstream.sharding.sources.types import DetectedSource, Entry, ListingLog, SourceSplit, SplitLister

_SUBMISSIONS = ("submission", "sample_submission", "samplesubmission")
_MAX_PAIRS = 10_000  # of class and cell that are compared, to see whether they match one to one


class _Comparison:
    """What the rows of a table say about the images of one split, by one of its columns of files.

    A name without folders may be that of several images: a row agrees if it does with one of them.
    """

    def __init__(self, table: ImageTable, file: int) -> None:
        columns = [c for c in range(len(table.header)) if c != file]
        self.table, self.file = table, file
        self.num_images = self.num_with_folder = 0
        self._agreeing = {c: bytearray(len(table.cells)) for c in columns}  # by column: 1 for each row that agrees
        self._differing: dict[int, dict[int, Entry]] = {c: {} for c in columns}  # and the image of rows that do not
        self._classes: dict[int, dict[str, str]] = {c: {} for c in columns}  # and the class of each cell's first image
        self._paired = set(columns)  # columns where cell and class match one to one

    def add(self, entry: Entry) -> None:
        """Compare the rows that name an image with its class."""
        rows = self.table.files[self.file].find(entry.path)
        if not rows:
            return
        self.num_images += 1
        named = _plain(entry.wnid)
        self.num_with_folder += any(named in map(_plain, self.table.cells[i][self.file].split("/")) for i in rows)
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


def audit_tables(found: DetectedSource, files: Sequence[TextFile], readings: Callable[[], str]) -> DetectedSource:
    """Return a source whose classes are compared with the tables beside the images while they are listed.

    ``readings`` returns those of the folders, with their options, for errors.
    """
    tables = [ImageTable(f) for f in files if f.name != CUB_FLAGS and not f.name.lower().startswith(_SUBMISSIONS)]
    if not tables:
        return found
    splits = {split: _audited(lister, split, tables, readings) for split, lister in found.splits.items()}
    return replace(found, splits=splits)


def _audited(lister: SplitLister, split: str, tables: Sequence[ImageTable], readings: Callable[[], str]) -> SplitLister:
    def list_split(log: ListingLog) -> SourceSplit:
        found = lister(log)
        of_split = [table for table in tables if table.file.told in (None, split)]
        compared = [_Comparison(table, file) for table in of_split if table.cells for file in table.files]
        return replace(found, entries=_compare(found.entries, compared, readings, log)) if compared else found

    return list_split


def _compare(
    entries: Iterable[Entry], compared: Sequence[_Comparison], readings: Callable[[], str], log: ListingLog
) -> Iterator[Entry]:
    count = 0
    for entry in entries:
        count += 1
        for comparison in compared:
            comparison.add(entry)
        yield entry
    best: dict[str, _Comparison] = {}
    for comparison in compared:
        where = comparison.table.where
        if comparison.num_images > (best[where].num_images if where in best else 0):
            best[where] = comparison
    for comparison in best.values():
        _judge_classes(comparison, count, readings, log)


def _judge_classes(found: _Comparison, count: int, readings: Callable[[], str], log: ListingLog) -> None:
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
                f"folder that it is {quote_value(entry.wnid)};"
                f" {readings()}{_or_table(table, ' for the classes of the table')}"
            )
    if table.other_columns(file) and not found.num_with_folder and found.num_images * 2 >= count:
        raise SourceError(
            f"{table.where} names images without the folders that they lie in; {readings()}"
            f"{_or_table(table, ' if the table tells the classes')}"
        )


def _or_table(table: ImageTable, why: str) -> str:
    return f", or {table.option}{why}" if table.option else ""


def _in_column(table: ImageTable, column: int) -> str:
    return f" (column {quote_value(table.header[column])})" if table.header[column] else ""
