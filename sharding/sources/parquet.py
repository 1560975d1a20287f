"""Detect, list and read images in Parquet, as the Hugging Face hub stores them: columns of images and of labels.

Listing reads paths and labels only, row group by row group; ``RowGroupImages`` reads the images of one row group.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from alexstream.core.errors import SourceError
from alexstream.core.schema import from_json, parse_json
from alexstream.core.text import count_of, quote_value
from alexstream.sharding.dataset_v1.layout import SPLITS
from alexstream.sharding.sources.files import TEST_IMAGES, is_parquet, is_system, list_items, test_notice
from alexstream.sharding.sources.imagenet import ilsvrc
from alexstream.sharding.sources.labels.split_columns import is_split_column_name, parse_split_column
from alexstream.sharding.sources.parquet_file import MOST_TEXT, ParquetLimitError, SourceParquet, to_source_error
from alexstream.sharding.sources.split_files import (
    FilesBySplit,
    assign_splits,
    find_files,
    report_missing_parts,
    skip_reason_beside,
)
from alexstream.sharding.sources.split_words import split_of_file
from alexstream.sharding.sources.tars.kind import IMAGE_EXTENSIONS
from alexstream.sharding.sources.types import DetectedSource, Entry, ListingLog, SourceSplit, SplitLister, with_log

_LABEL_NAMES = ("label", "labels", "cls", "class", "target", "fine_label")
_RARER_LABEL_NAMES = (
    *_LABEL_NAMES, "class_id", "class_idx", "class_index", "class_label", "class_name", "label_id", "label_idx",
    "label_name", "category", "category_id", "category_name", "species", "breed",
)  # fmt: skip
_UNKNOWN_SPLIT = "Parquet without images, or of no known split"
_MAX_PROBED_FILES = 4  # files that are opened to see whether any holds images
_IMAGE_BATCH_ROWS, _LABEL_BATCH_ROWS = 16, 1024  # that are read at once: images; names and labels
_MAX_LABEL = 1_000_000  # of a label that stands for a class; more is an id of something else


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageColumns:
    """Names of the columns of images and labels; ``path`` is None where images have no names."""

    image: str
    path: str | None
    label: str | None
    class_names: tuple[str, ...] = ()


class _ParquetRow(NamedTuple):
    file: str
    group: int
    row: int
    path: str | None
    label: int | str | None
    number: int  # of the row in its file


class _SplitColumn(NamedTuple):
    """A column that tells the split of each row, and the split that each of its values stands for.

    ``beside_names``: the names of the files tell splits, too, and must agree.
    """

    name: str
    split_of: Mapping[str, str]
    beside_names: bool


RowsOfSplit = Callable[[], Iterator[_ParquetRow]]


def detect_parquet(root: Path, classes: Sequence[str] | None = None, asked: str = "") -> DetectedSource | None:
    """Detect Parquet files with images in ``root`` or in folders below it; None if there are none.

    ``classes`` names the label numbers, where neither names nor metadata do; ``asked`` is the requested split, if any.
    Raises SourceError for Parquet files without a column of images, or of unclear splits.
    """
    files, others = _find_files(root)
    if not files or _only_beside_images(root, files, others):
        return None
    found = _assign_splits(root, files, asked)
    unread = [name for name in others if not is_system(name) and (root / name).is_dir()]
    excluded = [(name, skip_reason_beside(name)) for name in others if name not in unread]
    excluded += [(name, _UNKNOWN_SPLIT) for name in found.left_out]
    lost = report_missing_parts(files)
    by_row = _find_split_column(root, [name for held in found.files.values() for name in held], asked, found.is_unnamed)
    if by_row is not None and not by_row.beside_names:
        told = set(by_row.split_of.values())
        found = found._replace(files={split: list(files) for split in SPLITS if split in told}, is_unnamed=False)
    test = found.files.get("test", [])
    if test and _is_unlabeled(root, test, by_row):
        left = [(f"{name}/{row}", TEST_IMAGES) for name in test for row in _list_row_numbers(root, name, by_row)]
        lost.append(test_notice(count_of(len(test), "Parquet file"), left))
        excluded += left
        del found.files["test"]
    if not found.files:
        raise SourceError(f"{root}: {lost[-1]}, and nothing else is there")
    first = next(iter(found.files))
    columns = _read_columns(root, found.files[first][0])
    rows_of: dict[str, RowsOfSplit] = {
        split: partial(_iter_rows_of_split, root, names, columns, by_row, split) for split, names in found.files.items()
    }
    scan = cache(partial(_infer_wnids, root, rows_of))
    splits: dict[str, SplitLister] = {
        split: partial(_list_split, root, split, rows, columns, scan, classes) for split, rows in rows_of.items()
    }
    splits[first] = with_log(splits[first], excluded, lost)
    tells = f"; splits of column {quote_value(by_row.name)}" if by_row else ""
    says = f"Parquet ({found.describe('file')}; column {quote_value(columns.image)}{tells})"
    return DetectedSource(
        kind="parquet", description=says, splits=splits, read=tuple(files), unread=tuple(unread),
        tells_splits=bool(asked) or not found.is_unnamed,
    )  # fmt: skip


def count_image_rows(path: Path) -> int:
    """Return the number of rows of a Parquet file with images; 0 for one without. Raises SourceError if damaged."""
    with _translate_errors(path), SourceParquet(path) as file:
        return file.num_rows if find_columns(file.schema) is not None else 0


def _find_files(root: Path) -> tuple[list[str], list[str]]:
    """Return the Parquet files relative to the source, and everything else in the same folders."""
    if not root.is_dir():
        return ([root.name] if is_parquet(root) else []), []
    return find_files(root, ".parquet")


def _assign_splits(root: Path, files: Sequence[str], asked: str) -> FilesBySplit:
    """Sort the files into splits; tables without images, beside files with images, are left out."""
    if not root.is_dir():
        return assign_splits(root.parent, files, asked)
    tables = [name for name in files if split_of_file(name) is None and not _has_images(root, name)]
    found = assign_splits(root, [name for name in files if name not in tables] or files, asked)
    return found._replace(left_out=[*found.left_out, *(tables if len(tables) < len(files) else [])])


def _has_images(root: Path, name: str) -> bool:
    with _open_file(root, name) as file:
        return find_columns(file.schema) is not None


def _list_row_numbers(root: Path, name: str, by_row: _SplitColumn | None) -> list[int]:
    """Return the numbers of a file's rows; with a column of splits, of those of the test split."""
    if by_row is not None:
        told = enumerate(by_row.split_of[value] for value in _iter_texts(root, name, by_row.name))
        return [row for row, split in told if split == "test"]
    with _open_file(root, name) as file:
        return list(range(file.num_rows))


def _find_split_column(root: Path, files: Sequence[str], asked: str, is_unnamed: bool) -> _SplitColumn | None:
    """Return the column that tells the split of each row; None without one, or where ``asked`` decides the split.

    Raises SourceError for a column that is named for splits and whose values are no words for them.
    """
    with _open_file(root, files[0]) as file:
        names = [column.name for column in file.schema if _may_be_splits(column.name, _value_type(column.type))]
    for name in names:
        values = sorted({value for path in files for value in _iter_texts(root, path, name)})
        try:
            splits = parse_split_column(name, values)
        except ValueError as error:
            if asked:
                continue
            cell, expected = error.args
            raise SourceError(
                f"{root}: column {quote_value(name)} has {quote_value(cell)}, {expected}; `split` train, val or test "
                "takes all rows as that split"
            ) from error
        if splits:
            told = {value: str(split) for value, split in zip(values, splits, strict=True)}
            return _SplitColumn(name, told, beside_names=not is_unnamed)
    return None


def _may_be_splits(name: str, kind: pa.DataType) -> bool:
    readable = _is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind)
    return bool(is_split_column_name(name) and readable)


def _iter_texts(root: Path, name: str, column: str) -> Iterator[str]:
    """Yield the values of a column as text, "" for null."""
    with _open_file(root, name) as file, _translate_errors(root / name):
        if column not in [one.name for one in file.schema]:
            raise SourceError(
                f"{root / name}: has no column {quote_value(column)}, as other files have; add or drop it"
            )
        for group in range(file.num_row_groups):
            rows = file.count_rows_at_once(group, [column], _LABEL_BATCH_ROWS, are_texts=True)
            for batch in file.iter_row_batches(group, [column], rows):
                yield from ("" if value is None else str(value) for value in batch.column(0).to_pylist())


def _only_beside_images(root: Path, files: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether the Parquet files are tables beside folders or images, without images themselves."""
    folders = [i for i in list_items(root) if i.is_dir and not is_system(i.name)] if root.is_dir() else []
    images = any(name.lower().rpartition(".")[2] in IMAGE_EXTENSIONS for name in others)
    if not folders or (any("/" in name for name in files) and not images):
        return False
    return not any(_has_images(root, name) for name in files[:_MAX_PROBED_FILES])


def find_columns(schema: pa.Schema) -> ImageColumns | None:
    """Return the columns of images and labels, found by type and name; None if there are no images."""
    image = path = None
    for column in schema:
        fields = {f.name: f.type for f in column.type} if pa.types.is_struct(column.type) else {}
        if image is None and _is_binary(fields.get("bytes", pa.null())):
            image, path = f"{column.name}.bytes", f"{column.name}.path" if _is_text(fields.get("path")) else None
        if image is None and column.name in ("image", "img", "jpg") and _is_binary(column.type):
            image = column.name
    if image is None:
        return None
    label = _find_label_column(schema)
    return ImageColumns(image=image, path=path, label=label, class_names=_read_class_names(schema, label))


def _find_label_column(schema: pa.Schema) -> str | None:
    """Return the column of labels: integers first, usual names before rarer ones; None for none, or several."""
    of_type = {column.name: _value_type(column.type) for column in schema}
    integers = [name for name in _LABEL_NAMES if name in of_type and pa.types.is_integer(of_type[name])]
    others = [name for name in _LABEL_NAMES if name in of_type and _may_be_labels(of_type[name])]
    rarer = [name for name in of_type if name.lower() in _RARER_LABEL_NAMES and _may_be_labels(of_type[name])]
    return next(iter(integers + others), rarer[0] if len(rarer) == 1 else None)


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _may_be_labels(kind: pa.DataType) -> bool:
    return bool(_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


class RowGroupImages:
    """The bytes of the images in a row group of an open Parquet file, read from front to back.

    In batches since a file of a megabyte may hold the same image a million times.
    """

    def __init__(self, file: SourceParquet, group: int) -> None:
        """Read no image yet. Raises ValueError for no column of images, or pages that are damaged or too large."""
        columns = find_columns(file.schema)
        if columns is None:
            raise ValueError("no column of images")
        self._file, self._group, self._name = file, group, columns.image
        self._rows = file.count_rows_at_once(group, [self._name], _IMAGE_BATCH_ROWS)
        self._restart()

    def _restart(self) -> None:
        self._batches = self._file.iter_row_batches(self._group, [self._name], self._rows)
        self._start = self._end = 0
        self._column: pa.ChunkedArray | None = None

    def __getitem__(self, row: int) -> bytes | None:
        """Return the bytes of a row; None if it has none.

        Raises IndexError if there is no such row, ArrowException or ValueError if it cannot be read.
        """
        if row < self._start:
            self._restart()
        while row >= self._end:
            self._column = None  # or two batches would be in memory
            batch = next(self._batches, None)
            if batch is None:
                raise IndexError("a row is missing")
            self._column = _select_column(pa.Table.from_batches([batch]), self._name)
            self._start, self._end = self._end, self._end + batch.num_rows
        value = self._column[row - self._start].as_py() if self._column is not None else None
        return None if value is None else bytes(value)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _select_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    top, _, inner = name.partition(".")
    column = table.column(top)
    return pc.struct_field(column, inner) if inner else column


def _read_class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """Return the names of a ``ClassLabel`` in Hugging Face's metadata; duplicates get their number appended."""
    try:
        features = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        feature = features[label]
        names = from_json(tuple[str, ...], feature.get("names") or feature["_type"]["names"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    twice = {name for name, count in Counter(names).items() if count > 1}
    return tuple(f"{name} ({number})" if name in twice else name for number, name in enumerate(names))


def _open_file(root: Path, name: str) -> SourceParquet:
    """Open a Parquet file. Raises SourceError if it is none, is cut off, or larger than it may be."""
    path = root / name if root.is_dir() else root
    with _translate_errors(path):
        return SourceParquet(path)


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except ParquetLimitError as error:
        raise to_source_error(path, error) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise _read_error(path, error) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SourceError(f"{path}: is no whole Parquet file ({reason}); fetch it again") from error


def _read_error(path: Path, error: OSError) -> SourceError:
    why = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
    return SourceError(f"cannot read {path}: {why}; run the same command again when it can be read")


def _read_columns(root: Path, name: str) -> ImageColumns:
    with _open_file(root, name) as file:
        schema = file.schema
    columns = find_columns(schema)
    has = ", ".join(f"{column.name} ({column.type})" for column in schema)
    if columns is None:
        raise SourceError(f"{root / name}: no column of images (a struct with bytes); it has {_shorten(has)}")
    if columns.label is None:
        names = ", ".join(map(quote_value, _LABEL_NAMES))
        raise SourceError(
            f"{root / name}: no column of labels, expected numbers or text in one called {names} or the like; it has "
            f"{_shorten(has)}: rename the right column to 'label', and store one class an image in it"
        )
    return columns


def _shorten(text: str) -> str:
    return text if len(text) <= 600 else f"{text[:600]}…"


def _iter_rows_of_split(
    root: Path, names: Sequence[str], columns: ImageColumns, by_row: _SplitColumn | None, split: str
) -> Iterator[_ParquetRow]:
    """Yield the rows of a split: all of its files, or those that a column of splits tells.

    Raises SourceError for a row of a split other than that of its file, where files tell theirs.
    """
    if by_row is None:
        yield from _iter_rows(root, names, columns)
        return
    for name in names:
        splits = map(by_row.split_of.__getitem__, _iter_texts(root, name, by_row.name))
        for row, told in zip(_iter_rows(root, [name], columns), splits, strict=True):
            if told == split:
                yield row
            elif by_row.beside_names:
                raise SourceError(
                    f"{root / name}: row {row.number} is in {told} by column {quote_value(by_row.name)}, and the file "
                    f"is named for {split}; rename the file, or drop the column"
                )


def _iter_rows(root: Path, names: Sequence[str], columns: ImageColumns) -> Iterator[_ParquetRow]:
    """Yield the rows of files. Raises SourceError for a file of other ``columns`` or classes."""
    wanted = [name for name in (columns.path, columns.label) if name]
    for name in names:
        with _open_file(root, name) as file:
            if (own := find_columns(file.schema)) != columns:
                raise _columns_error(root / name if root.is_dir() else root, own, columns)
            number = 0
            for group in range(file.num_row_groups):
                for row, (path, label) in enumerate(_iter_values(file, group, wanted, columns, root / name)):
                    yield _ParquetRow(name, group, row, path, label, number)
                    number += 1


def _columns_error(path: Path, own: ImageColumns | None, others: ImageColumns) -> SourceError:
    """Return the error for a file whose columns or names of classes are not those of the files before it."""
    if own is not None and own.label == others.label and own.class_names != others.class_names:
        what, mine, theirs = "names of classes", _list_classes(own), _list_classes(others)
        remedy = "write it with the names and numbers of the others"
    else:
        what, mine, theirs = "columns", _list_columns(own), _list_columns(others)
        remedy = "rename its columns as in the others"
    return SourceError(
        f"{path}: its {what} are not those of the files read before it: received {mine}, expected {theirs}; {remedy}, "
        f"move it away, or give `source` {path} for that file alone"
    )


def _list_classes(columns: ImageColumns) -> str:
    names = list(map(quote_value, columns.class_names))
    more = [f"… ({len(names)} in all)"] if len(names) > 5 else []
    return f"{', '.join([*names[:5], *more])} for 0, 1 …" if names else "numbers without names"


def _list_columns(columns: ImageColumns | None) -> str:
    if columns is None:
        return "no column of images"
    names = f" (names in {quote_value(columns.path)})" if columns.path else ""
    return f"images in {quote_value(columns.image)}{names} and labels in {quote_value(columns.label or 'no column')}"


def _iter_values(
    file: SourceParquet, group: int, wanted: list[str], columns: ImageColumns, where: Path
) -> Iterator[tuple[str | None, int | str | None]]:
    """Yield path and label of every row of a row group, in batches: a small file may be large in memory."""
    with _translate_errors(where):
        rows = file.count_rows_at_once(group, wanted, _LABEL_BATCH_ROWS, are_texts=True)
        for batch in file.iter_row_batches(group, wanted, rows):
            table = pa.Table.from_batches([batch])
            label, column = (
                _select_column(table, str(columns.label)),
                _select_column(table, columns.path) if columns.path else None,
            )
            for one, what in ((label, "a label"), (column, "an image's path")):
                if one is not None and _is_text(one.type) and _find_longest(one) > MOST_TEXT:
                    raise ValueError(f"{what} has more than {MOST_TEXT:,} bytes")
            labels = _parse_labels(label, str(columns.label), where)
            paths = column.to_pylist() if column is not None else [None] * len(labels)
            yield from zip(paths, labels, strict=True)


def _find_longest(texts: pa.ChunkedArray) -> int:
    return int(pc.max(pc.binary_length(texts)).as_py() or 0)


def _parse_labels(column: pa.ChunkedArray, name: str, where: Path) -> list[int | str | None]:
    """Return labels as whole numbers or text; None for null, a negative number or empty text.

    Raises SourceError for a number that is not whole.
    """
    values = column.to_pylist()
    if pa.types.is_floating(column.type):
        wrong = next((value for value in values if value is not None and value == value and value != value // 1), None)
        if wrong is not None:
            raise SourceError(
                f"{where}: column {quote_value(name)} holds {wrong}, expected whole numbers or text as labels"
            )
        values = [None if value is None or value != value else int(value) for value in values]
    return [None if value is None or value == "" or _is_negative(value) else value for value in values]


def _is_negative(value: int | str) -> bool:
    return not isinstance(value, str) and value < 0


def _is_unlabeled(root: Path, names: Sequence[str], by_row: _SplitColumn | None) -> bool:
    """Return whether no image has a label: all are null or negative, or there is no such column."""
    with _open_file(root, names[0]) as file:
        columns = find_columns(file.schema)
    if columns is None:
        return False
    return columns.label is None or all(
        row.label is None for row in _iter_rows_of_split(root, names, columns, by_row, "test")
    )


def _file_name(path: str | None) -> str:
    return (path or "").rpartition("/")[2]


def _infer_wnids(root: Path, rows_of: Mapping[str, RowsOfSplit]) -> tuple[dict[int, str], int]:
    """Return label number → wnid, from the images' names in all splits, and the highest label.

    The mapping is empty if the name of a training image has no wnid. Raises SourceError where names and labels
    disagree.
    """
    wnid_of: dict[int, str] = {}
    label_of: dict[str, int] = {}
    top, all_told = -1, True
    for split, rows in rows_of.items():
        for row in rows():
            if row.label is None:
                continue
            if isinstance(row.label, str):
                return {}, -1
            wnid, top = ilsvrc.canonical_name(_file_name(row.path))[1], max(top, row.label)
            if wnid is None or not all_told:
                all_told = all_told and split != "train" and "train" in rows_of
                continue
            if wnid_of.setdefault(row.label, wnid) != wnid or label_of.setdefault(wnid, row.label) != row.label:
                raise SourceError(
                    f"{root / row.file}: {row.path} is of class {wnid} and has label {row.label}, but other rows have "
                    f"label {row.label} for {wnid_of[row.label]} and label {label_of.get(wnid, row.label)} for {wnid}; "
                    "labels and names must agree: fetch the data again"
                )
    return (wnid_of if all_told else {}), top


def _list_split(
    root: Path,
    split: str,
    rows: RowsOfSplit,
    columns: ImageColumns,
    scan: Callable[[], tuple[dict[int, str], int]],
    given: Sequence[str] | None,
    log: ListingLog,
) -> SourceSplit:
    wnid_of, top = scan()
    named = dict(enumerate(columns.class_names or given or ()))
    name_of = wnid_of or named or {number: str(number) for number in range(min(top, _MAX_LABEL) + 1)}
    if not (wnid_of or named) and top >= 0:
        log.notices.append(f"{split}: classes are called by their label number; --classes FILE names them")
    entries = _iter_entries(root, rows(), name_of, bool(wnid_of), log)
    in_words = top < 0
    return SourceSplit(
        entries=ilsvrc.check_counts(entries, split, log),
        classes=None if in_words else tuple(name_of[label] for label in sorted(name_of)) or None,
        class_names={wnid_of[n]: name for n, name in enumerate(columns.class_names) if n in wnid_of},
    )


def _iter_entries(
    root: Path,
    rows: Iterator[_ParquetRow],
    name_of: Mapping[int, str],
    imagenet: bool,
    log: ListingLog,
) -> Iterator[Entry]:
    for row in rows:
        base = ilsvrc.canonical_name(_file_name(row.path))[0] if imagenet else row.path
        place = f"{row.file}/{row.path or row.number}"
        if row.label is None:
            log.exclude(place, "no label")
            continue
        wnid = row.label if isinstance(row.label, str) else name_of.get(row.label)
        if wnid is None:
            raise SourceError(
                f"{root / row.file}: row {row.number} has label {row.label}, for which there is no class: there are "
                f"{len(name_of)}; give the list that belongs to it with `classes`"
            )
        name = base or f"{row.file.rpartition('/')[2].partition('.')[0]}_{row.number:06d}"
        yield Entry(wnid, f"{wnid}/{name}", place, row.file, row.group, row.row)
