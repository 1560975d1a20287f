"""Load a table of labels (``--labels FILE``): CSV, TSV, "file label" lines or JSON lines, as columns of text.

The columns of files and classes are found by the header, by their values, or by ``--label-columns``; if several columns
qualify, the error names this option.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.schema import parse_json
from alexstream.core.text import count_of, quote_value
from alexstream.sharding.sources.files import as_path, is_image_name, read_small_file
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.labels.split_columns import (
    is_split_column,
    is_split_column_name,
    normalize_column_name,
    parse_split_column,
)

_FILE_NAMES = (
    "file files filename filenames fname filepath image images imageid imagename imagepath imagefile img imgid imgname "
    "imgpath imgfile imageindex id ids idcode path paths filepath filepaths name photo photoid picture key"
)
_CLASS_NAMES = (
    "dx diagnosis findinglabels "
    "class classes classname classid classlabel cls label labels labelname labelid category categories categoryname "
    "categoryid breed species target groundtruth gt wnid synset predictionstring"
)
_FILES, _CLASSES = frozenset(_FILE_NAMES.split()), frozenset(_CLASS_NAMES.split())
_NON_CLASS_NAMES = frozenset(
    ["text", "caption", "description", "prompt", "title", "url", "width", "height", "bbox", "mask"]
)
_WHOLE_NUMBER = re.compile(r"\d+(?:\.\d*)?(?:[eE][+-]?\d{1,2})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTableOptions:
    """The options ``--labels``, ``--label-columns`` and ``--labels-partial``.

    ``columns``: names, or numbers from 1, of the columns of files and classes, and optionally of splits. ``partial``:
    skip images without a row and rows without an image instead of raising an error.
    """

    file: Path
    columns: tuple[str, ...] = ()
    partial: bool = False

    def __post_init__(self) -> None:
        """Raise SourceError for anything but two or three columns."""
        if len(self.columns) not in (0, 2, 3) or not all(self.columns):
            raise SourceError(
                f"`labels.columns`: received {quote_value(','.join(self.columns))}, expected FILE,CLASS or "
                "FILE,CLASS,SPLIT"
            )


def parse_label_options(file: Path | None, columns: str, *, partial: bool) -> LabelTableOptions | None:
    """Build a ``LabelTableOptions`` from the options as typed; None without ``--labels``.

    Raises SourceError where the other options are given without it.
    """
    if file is None:
        if columns or partial:
            raise SourceError(
                "`labels.columns` and `labels.partial` are about the table of `labels`, which is not given"
            )
        return None
    names = tuple(name.strip() for name in columns.split(",")) if columns else ()
    return LabelTableOptions(file=file, columns=names, partial=partial)


class LabelRow(NamedTuple):
    """A row: its line in the file, the name of an image, its class ("" for none), and its split or None."""

    line: int
    file: str
    label: str
    split: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """A table as read: stripped cells, and the line of each row; ``was_found`` if nobody has named it."""

    path: Path
    lines: list[int]
    cells: list[list[str]]
    names_columns: bool  # in its first row, as JSON does
    was_found: bool = False

    @property
    def where(self) -> str:
        """The file name, for messages."""
        return self.path.name

    @property
    def option(self) -> str:
        """The option that names its columns, and before it the one that names the table where that was found."""
        return f"`labels` {self.path} `labels.columns`" if self.was_found else "`labels.columns`"

    @property
    def columns_remedy(self) -> str:
        """What to do where its columns are not clear."""
        return f"{self.option} FILE,CLASS names the columns, by their header or by number from 1"


def load_table(path: Path) -> LabelTable:
    """Load a table. Raises SourceError if it is missing, not text, empty, or has rows of different lengths."""
    place = as_path(path)
    if not place.is_file():
        raise SourceError(f"{place}: no such table of labels; give `labels` a CSV, TSV or JSON-lines file")
    return parse_table(read_small_file(place), place)


def parse_table(data: bytes, place: Path) -> LabelTable:
    """Parse the bytes of a table; ``place`` names it in errors, which are those of ``load_table``."""
    text = decode_text(data, place)
    suffix = place.name.lower().rpartition(".")[2]
    try:
        is_json = text.lstrip()[:1] in ("{", "[")
        rows = parse_json_rows(text, suffix) if is_json else _parse_delimited(text, suffix)
    except (ValueError, csv.Error) as error:
        raise SourceError(f"{place}: no table of labels ({error}); expected CSV, TSV or JSON lines") from error
    if not rows:
        raise SourceError(f"{place}: the table is empty; expected a row for every image")
    width = len(rows[0][1])
    wrong = next(((line, cells) for line, cells in rows if len(cells) != width), None)
    if wrong or width < 2:
        line, cells = wrong or rows[0]
        raise SourceError(
            f"{place}: line {line} has {count_of(len(cells), 'column')}, expected {max(width, 2)} "
            "(one of files, one of classes); put a text that holds the separator into quotes"
        )
    lines = [line for line, _ in rows]
    return LabelTable(path=place, lines=lines, cells=[row for _, row in rows], names_columns=is_json)


def decode_text(data: bytes, place: Path) -> str:
    """Decode UTF-8 or UTF-16 with its mark. Raises SourceError, which calls the text ``place``, for anything else."""
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{place}: byte {error.start:,} is no UTF-8; save the table as UTF-8") from error


def _parse_delimited(text: str, suffix: str) -> list[tuple[int, list[str]]]:
    """Split rows at the first separator that gives the first lines equal widths; else at blanks ("file label")."""
    if text.startswith("sep="):  # a line by which Excel tells itself the separator
        text = "\n" + text.partition("\n")[2]
    separators = "\t,;|" if suffix in ("tsv", "tab") else ",\t;|"
    start = "\n".join([line for line in text.splitlines() if line.strip()][:20])
    for separator in separators:
        widths = {len(row) for row in csv.reader(io.StringIO(start), delimiter=separator, skipinitialspace=True)}
        if len(widths) == 1 and min(widths) > 1:
            return _parse_csv(text, separator)
    if any(separator in line for line in start.split("\n")[:1] for separator in ",\t"):
        return _parse_csv(text, next(one for one in separators if one in start))
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    while len(lines) > 1 and lines[0][1].startswith("#"):  # comments above a list, as in Oxford's Pets
        del lines[0]
    one_width = len({len(line.split()) for _, line in lines}) == 1
    return [(number, line.split() if one_width else line.rsplit(None, 1)) for number, line in lines]


def _parse_csv(text: str, separator: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    rows = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
    return [(line, row) for line, row in rows if any(row)]


def parse_json_rows(text: str, suffix: str) -> list[tuple[int, list[str]]]:
    """Parse one object per line, a list of objects, or one object of file → class; row 1 has the field names."""
    lines = [line for line in text.splitlines() if line.strip()]
    if suffix in ("jsonl", "ndjson") or (len(lines) > 1 and lines[0].startswith("{") and _is_json(lines[0])):
        held: Any = [parse_json(line) for line in lines]
    else:
        held = parse_json(text)
        if isinstance(held, dict):
            held = [{"file": file, "label": label} for file, label in held.items()]
    if not all(isinstance(row, dict) for row in held):
        raise ValueError("a row is no JSON object")
    names = list(dict.fromkeys(name for row in held for name in row))
    return [(1, names)] + [(line, [_cell_text(row.get(name)) for name in names]) for line, row in enumerate(held, 1)]


def _is_json(line: str) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


class _JsonBoolean(str):
    """``true`` or ``false`` as a value of JSON, to be told from the same text."""

    __slots__ = ()


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return _JsonBoolean(json.dumps(value))
    return value.strip() if isinstance(value, str) else json.dumps(value)


def parse_rows(table: LabelTable, asked: Sequence[str], is_file: Callable[[str], bool]) -> tuple[list[LabelRow], str]:
    """Return the rows of a table, and its columns in words; ``is_file`` returns whether a name is that of an image.

    Raises SourceError, with the option to use, where it is unclear which columns are meant.
    """
    has_header = _has_header(table, asked, is_file)
    body = range(int(has_header), len(table.cells))
    if not body:
        raise SourceError(f"{table.path}: has a header and no rows; expected a row for every image")
    header = table.cells[0] if has_header else [str(number) for number in range(1, len(table.cells[0]) + 1)]
    if asked:
        file, label, *split = _find_given_columns(table, header, asked)
    else:
        split = _find_split_columns(table, header, body) if has_header else []
        file, label = _guess_columns(table, header, body, is_file, has_header, split)
    split, splits = _parse_splits(table, header, body, split, asked)
    labels = _parse_labels(table, header, body, label)
    rows = [LabelRow(table.lines[i], table.cells[i][file], labels[n], splits[n]) for n, i in enumerate(body)]
    named = ", ".join(header[i] for i in (file, label, *split))
    return rows, f"column{'s' if has_header else ' numbers'} {named}"


def is_class_column(name: str) -> bool:
    """Return whether a column name is one of those in use for classes."""
    return normalize_column_name(name) in _CLASSES


def is_file_column(name: str) -> bool:
    """Return whether a column name is one of those in use for names of images."""
    return normalize_column_name(name) in _FILES


def _has_header(table: LabelTable, asked: Sequence[str], is_file: Callable[[str], bool]) -> bool:
    first = table.cells[0]
    if table.names_columns or any(map(is_file, first)):
        return table.names_columns
    known = _FILES | _CLASSES
    return any(normalize_column_name(cell) in known or is_split_column_name(cell) for cell in first) or (
        bool(asked) and all(name in first for name in asked)
    )


def _find_given_columns(table: LabelTable, header: Sequence[str], asked: Sequence[str]) -> list[int]:
    numbers = {str(number): number - 1 for number in range(1, len(header) + 1)}
    places = [header.index(name) if name in header else numbers.get(name) for name in asked]
    missing = next((name for name, place in zip(asked, places, strict=True) if place is None), None)
    if missing is not None or len(set(places)) < len(places):
        raise SourceError(
            f"{table.path}: no column {quote_value(missing)}, or one named twice; it has {_format_header(header)}: "
            f"give others to {table.option}"
        )
    return [place for place in places if place is not None]


def _format_header(header: Sequence[str]) -> str:
    return ", ".join(map(quote_value, header[:20])) + (" …" if len(header) > 20 else "")


def _guess_columns(
    table: LabelTable,
    header: Sequence[str],
    body: range,
    is_file: Callable[[str], bool],
    has_header: bool,
    splits: Sequence[int],
) -> tuple[int, int]:
    """Return the columns of files and of classes, given those of splits."""
    columns = range(len(header))
    names = [normalize_column_name(name) if has_header else "" for name in header]
    sample = [table.cells[i] for i in body[:: max(1, len(body) // 200)]]
    files = [c for c in columns if any(is_file(row[c]) for row in sample)]
    if len(files) != 1:
        files = _narrow_file_columns(files, names, sample) if files else [c for c in columns if names[c] in _FILES]
    if len(files) != 1:
        which = f"{len(files)} columns may name the images" if files else "no column names images that are there"
        raise SourceError(
            f"{table.path}: {which}, of {_format_header(header)} (first row: {_format_header(sample[0])}); "
            f"{table.columns_remedy}"
        )
    rest = [c for c in columns if c not in files and c not in splits and names[c] not in _NON_CLASS_NAMES]
    classes = [c for c in rest if names[c] in _CLASSES] or (rest if len(rest) == 1 else [])
    _check_no_one_hot(table, header, body, [c for c in rest if names[c] not in _CLASSES])
    if not classes and not has_header:
        classes = [c for c in rest if not all(_is_number(row[c]) for row in sample)]
    if len(classes) != 1:
        which = f"{len(classes)} columns may be the class" if classes else "no column is known to be the class"
        raise SourceError(f"{table.path}: {which}, of {_format_header(header)}; {table.columns_remedy}")
    _check_class_repeats(table, header, body, classes[0], sure=names[classes[0]] in _CLASSES)
    return files[0], classes[0]


def _check_no_one_hot(table: LabelTable, header: Sequence[str], body: range, columns: Sequence[int]) -> None:
    """Raise SourceError for a table with a column for each class, of which each row has 1 in its own."""
    named = [c for c in columns if {table.cells[i][c] for i in body} <= {"0", "1", "0.0", "1.0"}]
    if len(named) > 1 and all(sum(table.cells[i][c] in ("1", "1.0") for c in named) == 1 for i in body):
        shown = _format_header([header[c] for c in named])
        raise SourceError(
            f"{table.path}: has a column of 0 and 1 for each class ({shown}), which no option reads; write a table of "
            "file and class"
        )


def _narrow_file_columns(files: Sequence[int], names: Sequence[str], sample: Sequence[Sequence[str]]) -> list[int]:
    """Reduce several columns of image names to those named so, else to those with image extensions."""
    named = [c for c in files if names[c] in _FILES]
    others = [c for c in files if names[c] not in _CLASSES]
    ended = [c for c in others if all(is_image_name(row[c]) for row in sample)]
    return ended if len(ended) == 1 else named or others


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d*\.?\d*(?:[eE][+-]?\d+)?", text) is not None


def _check_class_repeats(table: LabelTable, header: Sequence[str], body: range, label: int, *, sure: bool) -> None:
    """Raise SourceError if a column that was only presumed to be the class differs in every row."""
    labels = {table.cells[i][label] for i in body}
    if not sure and len(body) > 2 and len(labels) == len(body) and not all(one.isdigit() for one in labels):
        raise SourceError(
            f"{table.path}: every row has a class of its own in column {quote_value(header[label])}; if it is the "
            f"class, say so: {table.columns_remedy}"
        )


def _find_split_columns(table: LabelTable, header: Sequence[str], body: range) -> list[int]:
    """Return the columns that are named for splits, or hold nothing but words for splits and no classes."""
    return [
        c
        for c, name in enumerate(header)
        if not is_class_column(name) and is_split_column(name, [table.cells[i][c] for i in body])
    ]


def _parse_splits(
    table: LabelTable, header: Sequence[str], body: range, columns: Sequence[int], asked: Sequence[str]
) -> tuple[list[int], list[str | None]]:
    """Return the columns that do tell splits, and the split of each row; None where no column does.

    Raises SourceError for a cell that tells none, and for columns that contradict each other.
    """
    used: list[int] = []
    splits: list[str | None] = [None] * len(body)
    for column in columns:
        name = "split" if len(asked) == 3 and not is_split_column_name(header[column]) else header[column]
        try:
            told = parse_split_column(name, [table.cells[i][column] for i in body])
        except ValueError as error:
            cell, expected = error.args
            line = next(table.lines[i] for i in body if table.cells[i][column] == cell)
            raise SourceError(
                f"{table.path}: line {line} has {quote_value(cell)} in column {quote_value(header[column])}, "
                f"{expected}; {table.option} FILE,CLASS leaves this column aside"
            ) from error
        wrong = next((n for n, split in enumerate(told or ()) if splits[n] not in (None, split)), None)
        if wrong is not None:
            raise SourceError(
                f"{table.path}: line {table.lines[body[wrong]]} tells two splits, in columns "
                f"{quote_value(header[used[0]])} and {quote_value(header[column])}; {table.option} FILE,CLASS,SPLIT "
                "chooses one"
            )
        if told is not None:
            used.append(column)
            splits = told
    return used, splits


def _parse_labels(table: LabelTable, header: Sequence[str], body: range, column: int) -> list[str]:
    """Return the classes as text; if all are numbers, normalized to ``3`` however they are written."""
    labels = [table.cells[i][column] for i in body]
    if normalize_column_name(header[column]) == "predictionstring":
        return [_parse_prediction_string(table, table.lines[i], table.cells[i][column]) for i in body]
    if all(_WHOLE_NUMBER.fullmatch(label) or not label for label in labels):
        labels = [label if label.isdigit() or not label else _parse_whole_number(label) for label in labels]
    known = set(labels)
    for i, label in zip(body, labels, strict=True):
        if isinstance(label, _JsonBoolean) or _is_label_list(label, known) or _is_no_class(label):
            raise SourceError(
                f"{table.path}: line {table.lines[i]} has {quote_value(label[:40])} in column "
                f"{quote_value(header[column])}, expected one class, by name or number from 0; {table.columns_remedy}"
            )
    _check_spellings(table, header, body, column, labels)
    return labels


def _parse_whole_number(text: str) -> str:
    """Return ``7.0`` and ``7.0e+00``, as programs write whole numbers, as 7; text of other numbers as it is."""
    value = float(text)
    return str(int(value)) if value == value // 1 and value < 1 << 53 else text


def _is_no_class(label: str) -> bool:
    """Return whether a label is a list, no value, has control characters, or is a fraction or negative."""
    return (
        any((one < " " and one not in "\t\r\n") or one == "\x7f" for one in label)
        or label[:1] in ("[", "{")
        or label.lower() in ("nan", "null")
        or re.fullmatch(r"-\d.*|\d+\.\d+|\d+\.?\d*[eE][+-]?\d+", label) is not None
    )


def _check_spellings(table: LabelTable, header: Sequence[str], body: range, column: int, labels: Sequence[str]) -> None:
    """Raise SourceError if all classes are numbers and one is written in two ways, as 1 and 01."""
    first: dict[int, int] = {}
    if not all(label.isascii() and label.isdigit() and len(label) < 8 for label in labels if label):
        return
    for n, label in enumerate(labels):
        if label and labels[other := first.setdefault(int(label), n)] != label:
            raise SourceError(
                f"{table.path}: line {table.lines[body[other]]} has {quote_value(labels[other])} and line "
                f"{table.lines[body[n]]} {quote_value(label)} in column {quote_value(header[column])}: one class, or "
                "two? Write each number in one way"
            )


def _is_label_list(label: str, known: Collection[str]) -> bool:
    """Return whether a label names several classes: numbers side by side, or ``a|b`` where a and b are classes."""
    if re.fullmatch(r"\d+(?:[\s,;|]+\d+)+", label):
        return True
    parts = [part.strip() for part in re.split(r"[|,;]", label)]
    return len(parts) > 1 and all(part in known for part in parts)


def _parse_prediction_string(table: LabelTable, line: int, text: str) -> str:
    """Return the class in ImageNet's ``n03995372 85 1 499 272 …``, which names a class before every box."""
    wnids = {word for word in text.split() if ilsvrc.is_wnid(word)}
    if len(wnids) != 1:
        raise SourceError(f"{table.path}: line {line} names {len(wnids)} classes, expected one; fetch the table again")
    return wnids.pop()
