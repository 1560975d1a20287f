"""Read a table beside class folders leniently: which column names images, and which classes and splits."""

from __future__ import annotations

from functools import cached_property

from alexstream.core.text import quote_value
from alexstream.sharding.sources.files import is_image_name
from alexstream.sharding.sources.labels.label_table import is_class_column, is_file_column
from alexstream.sharding.sources.labels.name_index import NameIndex
from alexstream.sharding.sources.labels.split_columns import (
    is_split_column,
    is_split_column_name,
    normalize_column_name,
    parse_split_column,
)
from alexstream.sharding.sources.labels.text_files import TextFile

_TYPES_WITH_HEADER = (".csv", ".tsv", ".jsonl", ".json")
_FOLDER_NAMES = frozenset(["folder", "foldername", "dir", "directory", "subdir", "subfolder", "batch", "part"])


class ImageTable:
    """A table, its rows by the image that they name, and its columns of classes and splits.

    ``where`` is its path relative to the source, ``option`` the option that reads it as labels, or "".
    ``split_problem`` says what is wrong with a column of splits; it is set once ``splits`` was asked for.
    """

    def __init__(self, file: TextFile) -> None:
        self.file, self.split_problem = file, ""
        self.where, self.option = file.where, file.option

    @cached_property
    def cells(self) -> list[list[str]]:
        """All rows; rows of one cell are lists of names, which say nothing about classes."""
        rows = self.file.rows
        named_so = rows and any(normalize_column_name(cell) == "predictionstring" for cell in rows[0])
        return rows if rows and len(rows[0]) > 1 and not named_so else []  # ImageNet's names boxes, too

    @cached_property
    def header(self) -> list[str]:
        """The names of the columns; "" where the first row is none."""
        first = self.cells[0]
        known = any(is_class_column(cell) or is_file_column(cell) or is_split_column_name(cell) for cell in first)
        has_header = known or self.file.name.lower().endswith(_TYPES_WITH_HEADER)
        values = any(is_image_name(cell) or is_number(cell) for cell in first)
        return first if has_header and not values else [""] * len(first)

    @cached_property
    def files(self) -> dict[int, NameIndex]:
        """The rows by the image named in a column, for each column that may name images."""
        found: dict[int, NameIndex] = {}
        body = self.cells[1:] if any(self.header) else self.cells
        for c, name in enumerate(self.header):
            values = [row[c] for row in body]
            named = sum(map(is_image_name, values)) * 2 > len(values)
            ids = len(set(values)) * 10 > len(values) * 9 and not all(map(is_number, values))
            if named or is_file_column(name) or (ids and not is_class_column(name)):
                found[c] = NameIndex()
                for row, value in enumerate(self.cells):
                    found[c].add(value[c], row)
        return found

    @cached_property
    def splits(self) -> list[str | None]:
        """The split of each row; None where no column tells it."""
        rows: list[str | None] = [None] * len(self.cells)
        body = slice(1 if any(self.header) else 0, None)
        for c, name in enumerate(self.header):
            cells = [row[c] for row in self.cells[body]] if not is_class_column(name) else []
            if is_split_column(name, cells):
                try:
                    told = parse_split_column(name, cells)
                except ValueError as error:
                    cell, expected = error.args
                    self.split_problem = f"has {quote_value(cell)} in column {quote_value(name)}, {expected}"
                    continue
                rows = [*rows[: len(rows) - len(told)], *told] if told else rows
        return rows

    def class_columns(self, file: int) -> list[int]:
        """Return the columns that are named for classes, or the only one left; ``file`` is the column of files."""
        others = self.other_columns(file)
        named = [c for c in others if is_class_column(self.header[c])]
        return named or (others if len(others) == 1 and not self._is_measure(others[0]) else [])

    def other_columns(self, file: int) -> list[int]:
        """Return the columns beside those of files, splits and folders."""
        return [
            c
            for c, name in enumerate(self.header)
            if c != file and normalize_column_name(name) not in _FOLDER_NAMES and not self._tells_splits(c)
        ]

    def _tells_splits(self, column: int) -> bool:
        return is_split_column(self.header[column], [row[column] for row in self.cells[bool(any(self.header)) :]])

    def _is_measure(self, column: int) -> bool:
        """Return whether a column holds numbers or texts of which hardly any occurs twice."""
        values = [row[column] for row in self.cells[1:]]
        return len(set(values)) * 2 > len(values) + 2 or any("." in value and is_number(value) for value in values)


def is_number(text: str) -> bool:
    """Return whether a cell is a number of any form."""
    try:
        float(text)
    except ValueError:
        return False
    return True
