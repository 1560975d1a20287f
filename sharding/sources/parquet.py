"""Images in Parquet, as the Hugging Face hub stores data sets: a column of bytes and paths, a column of labels.

Listing reads paths and labels only, row group by row group; ``GroupImages`` reads the bytes of one row group.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sharding.errors import SourceError
from sharding.fields import decoded, parsed
from sharding.listing import Entry, Found
from sharding.sources import ilsvrc
from sharding.sources.form import SPLIT_NAMES, Recognised, split_of_file
from sharding.sources.place import files_of, is_parquet, is_system, items

_LABELS = ("label", "labels", "cls", "class", "target", "fine_label")
_IMAGES, _ROWS = 16, 1024  # that are read at once: images; names and labels
_BATCH_BYTES = 64 << 20  # that they may then take
_MAX_PATH = 4096
_MAX_NUMBER = 1_000_000  # of a label that stands for a class; more is an id of something else


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Where a Parquet file keeps images and labels; ``path`` is None where images have no names."""

    image: str
    path: str | None
    label: str | None
    class_names: tuple[str, ...] = ()


class _Row(NamedTuple):
    file: str
    group: int
    row: int
    path: str | None
    label: int | None


def parquet(root: Path, classes: Sequence[str] | None = None) -> Recognised | None:
    """Parquet files with images in ``root``, in its ``data/``, or in folders of splits; None if there are none.

    ``classes`` names the label numbers, where neither names nor metadata do. Raises SourceError for Parquet files
    without a column of images.
    """
    files, others = _files(root)
    if not files or _only_beside_classes(root, files):
        return None
    excluded = [(name, "no Parquet file") for name in others]
    columns = _columns_of_file(root, next(iter(files)))
    by_split: dict[str, list[str]] = {}
    for name, split in files.items():
        by_split.setdefault(split, []).append(name)
    scan = cache(partial(_wnids, root, {s: tuple(names) for s, names in by_split.items()}, columns))
    splits: dict[str, Callable[[], Found]] = {}
    lost: list[str] = []
    for split, names in by_split.items():
        if split == "test" and _unlabelled(root, names, columns):
            excluded += [(name, "test images, which have no labels") for name in names]
            lost.append(f"{len(names)} Parquet files of test images, which have no labels, were left out")
        else:
            splits[split] = partial(_found, root, split, names, columns, scan, classes)
    if not splits:
        raise SourceError(f"{root}: {lost[0]}, and nothing else is there")
    first = min(splits, key=["train", "val", "test"].index)
    splits[first] = partial(_with_left, splits[first], excluded, lost)
    says = f"Parquet ({', '.join(f'{s}: {len(by_split[s])} files' for s in splits)}; column {columns.image!r})"
    return Recognised(kind="parquet", says=says, splits=splits)


def _only_beside_classes(root: Path, files: Mapping[str, str]) -> bool:
    """Whether the Parquet files are tables beside class folders and hold no images themselves."""
    folders = [i for i in items(root) if i.is_dir and not is_system(i.name)] if root.is_dir() else []
    if not folders or any("/" in name for name in files):
        return False
    with _open(root, next(iter(files))) as file:
        return columns_of(file.schema_arrow) is None


def columns_of(schema: pa.Schema) -> Columns | None:
    """The columns of images and labels, by their types; None if there are no images."""
    image = path = None
    for column in schema:
        fields = {f.name: f.type for f in column.type} if pa.types.is_struct(column.type) else {}
        if image is None and _is_binary(fields.get("bytes", pa.null())):
            image, path = f"{column.name}.bytes", f"{column.name}.path" if _is_text(fields.get("path")) else None
        if image is None and column.name in ("image", "img", "jpg") and _is_binary(column.type):
            image = column.name
    integer = {column.name for column in schema if pa.types.is_integer(column.type)}
    label = next((name for name in _LABELS if name in integer), None)
    if image is None:
        return None
    return Columns(image=image, path=path, label=label, class_names=_class_names(schema, label))


class GroupImages:
    """The bytes of the images in a row group of an open ``pyarrow.parquet.ParquetFile``, read from front to back.

    Some rows at a time: a file of a megabyte may hold the same image a million times.
    """

    def __init__(self, file: Any, group: int) -> None:
        """Read nothing yet. Raises ValueError if there is no column of images."""
        columns = columns_of(file.schema_arrow)
        if columns is None:
            raise ValueError("no column of images")
        self._file, self._group, self._name = file, group, columns.image
        self._restart()

    def _restart(self) -> None:
        # One thread: there is a worker process for every core already.
        rows = _rows_at_once(self._file, self._group, [self._name], _IMAGES)
        columns = {"row_groups": [self._group], "columns": [self._name]}
        self._batches = self._file.iter_batches(rows, use_threads=False, **columns)
        self._start = self._end = 0
        self._column: pa.ChunkedArray | None = None

    def __getitem__(self, row: int) -> bytes | None:
        """The bytes of a row; None if it has none.

        Raises IndexError if there is no such row, ArrowException or ValueError if it cannot be read.
        """
        if row < self._start:
            self._restart()
        while row >= self._end:
            self._column = None  # or two batches would be in memory
            batch = next(self._batches, None)
            if batch is None:
                raise IndexError("a row is missing")
            self._column = _column(pa.Table.from_batches([batch]), self._name)
            self._start, self._end = self._end, self._end + batch.num_rows
        value = self._column[row - self._start].as_py() if self._column is not None else None
        return None if value is None else bytes(value)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _rows_at_once(file: Any, group: int, columns: Sequence[str], most: int) -> int:
    """So many that even if each were all that is stored of these columns (once, and then named again) they fit."""
    # At some damaged metadata pyarrow ends the process; to read a row is to hear of them as an error.
    next(file.iter_batches(1, row_groups=[group], columns=list(columns), use_threads=False), None)
    found, places = file.metadata.row_group(group), range(len(file.schema))
    wanted = [found.column(i) for i in places if file.schema.column(i).path in columns]
    stored = sum(int(chunk.total_uncompressed_size) for chunk in wanted)
    return max(1, min(most, _BATCH_BYTES // max(1, stored)))


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    top, _, inner = name.partition(".")
    column = table.column(top)
    return pc.struct_field(column, inner) if inner else column


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """The names of a ``ClassLabel`` in the metadata of Hugging Face; equal ones get their number."""
    try:
        features = parsed((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        feature = features[label]
        names = decoded(tuple[str, ...], feature.get("names") or feature["_type"]["names"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()
    twice = {name for name, count in Counter(names).items() if count > 1}
    return tuple(f"{name} ({number})" if name in twice else name for number, name in enumerate(names))


def _files(root: Path) -> tuple[dict[str, str], list[str]]:
    """Parquet files with their splits, relative to the source, and everything else that lies where they may."""
    if not root.is_dir():
        return ({root.name: split_of_file(root.name)} if is_parquet(root) else {}), []
    files: dict[str, str] = {}
    others: list[str] = []
    top = items(root)
    places = [item.name for item in top if item.is_dir and (item.name == "data" or item.name in SPLIT_NAMES)]
    for folder in ["", *places]:
        listed = items(root / folder) if folder else top
        here = files_of(listed, ".parquet")
        files |= {f"{folder}/{n}".lstrip("/"): SPLIT_NAMES.get(folder) or split_of_file(n) for n in here}
        others += [f"{folder}/{item.name}".lstrip("/") for item in listed if item.name not in here]
    return files, [name for name in others if name not in places]


def _open(root: Path, name: str) -> Any:
    """An open ParquetFile. Raises SourceError if it is none, or is cut off."""
    import pyarrow.parquet as pq

    path = root / name if root.is_dir() else root
    with _readable(path):
        return pq.ParquetFile(path if isinstance(path, Path) else path.open("rb"))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise _refused(path, error) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise SourceError(f"{path}: is no whole Parquet file ({reason}); fetch it again") from error


def _refused(path: Path, error: OSError) -> SourceError:
    why = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
    return SourceError(f"cannot read {path}: {why}; run the same command again when it can be read")


def _columns_of_file(root: Path, name: str) -> Columns:
    with _open(root, name) as file:
        schema = file.schema_arrow
    columns = columns_of(schema)
    if columns is None or columns.label is None:
        lacks = "images (a struct with bytes)" if columns is None else f"labels ({', '.join(_LABELS)})"
        raise SourceError(f"{root / name}: no column of {lacks}; it has {', '.join(schema.names)}")
    return columns


def _rows(root: Path, names: Sequence[str], columns: Columns) -> Iterator[_Row]:
    wanted = [name for name in (columns.path, columns.label) if name]
    for name in names:
        with _open(root, name) as file:
            if columns_of(file.schema_arrow) != columns:
                raise SourceError(f"{root / name}: its columns or class names are not those of the other files")
            for group in range(file.num_row_groups):
                for row, (path, label) in enumerate(_values(file, group, wanted, columns, root / name)):
                    yield _Row(name, group, row, path, label)


def _values(
    file: Any, group: int, wanted: list[str], columns: Columns, where: Path
) -> Iterator[tuple[str | None, int | None]]:
    """Path and label of every row of a row group, some rows at a time: little in the file may be much in memory."""
    with _readable(where):
        for batch in file.iter_batches(_rows_at_once(file, group, wanted, _ROWS), row_groups=[group], columns=wanted):
            table = pa.Table.from_batches([batch])
            labels = _column(table, str(columns.label)).to_pylist()
            column = _column(table, columns.path) if columns.path else None
            if column is not None and (pc.max(pc.binary_length(column)).as_py() or 0) > _MAX_PATH:
                raise ValueError(f"an image's path has more than {_MAX_PATH:,} bytes")
            paths = column.to_pylist() if column is not None else [None] * len(labels)
            yield from zip(paths, labels, strict=True)


def _unlabelled(root: Path, names: Sequence[str], columns: Columns) -> bool:
    return all(row.label is None or row.label < 0 for row in _rows(root, names, columns))


def _base(path: str | None) -> str:
    return (path or "").rpartition("/")[2]


def _wnids(root: Path, by_split: Mapping[str, tuple[str, ...]], columns: Columns) -> tuple[dict[int, str], int]:
    """Label number → wnid, as the images' names tell it in all splits; and the highest label.

    The first is empty if a training image's name tells none. Raises SourceError where two names contradict each other.
    """
    wnid_of: dict[int, str] = {}
    label_of: dict[str, int] = {}
    top, all_told = -1, True
    for split, names in by_split.items():
        for row in _rows(root, names, columns):
            if row.label is None or row.label < 0:
                continue
            wnid, top = ilsvrc.canonical(_base(row.path))[1], max(top, row.label)
            if wnid is None or not all_told:
                all_told = all_told and split != "train" and "train" in by_split
                continue
            if wnid_of.setdefault(row.label, wnid) != wnid or label_of.setdefault(wnid, row.label) != row.label:
                raise SourceError(
                    f"{root / row.file}: {row.path} is of class {wnid} and has label {row.label}, but other rows have "
                    f"label {row.label} for {wnid_of[row.label]} and label {label_of.get(wnid, row.label)} for {wnid}; "
                    "labels and names must agree: fetch the data again"
                )
    return (wnid_of if all_told else {}), top


def _found(
    root: Path,
    split: str,
    names: Sequence[str],
    columns: Columns,
    scan: Callable[[], tuple[dict[int, str], int]],
    given: Sequence[str] | None,
) -> Found:
    wnid_of, top = scan()
    excluded: list[tuple[str, str]] = []
    notices: list[str] = []
    named = dict(enumerate(columns.class_names or given or ()))
    name_of = wnid_of or named or {number: str(number) for number in range(min(top, _MAX_NUMBER) + 1)}
    if not (wnid_of or named):
        notices.append(f"{split}: classes are called by their label number; --classes FILE names them")
    entries = _entries(root, names, columns, name_of, bool(wnid_of), excluded)
    return Found(
        entries=ilsvrc.watched(entries, split, notices),
        classes=tuple(name_of[label] for label in sorted(name_of)) or None,
        excluded=excluded,
        class_names={wnid_of[n]: name for n, name in enumerate(columns.class_names) if n in wnid_of},
        notices=notices,
    )


def _entries(
    root: Path,
    names: Sequence[str],
    columns: Columns,
    name_of: Mapping[int, str],
    imagenet: bool,
    excluded: list[tuple[str, str]],
) -> Iterator[Entry]:
    numbers: Counter[str] = Counter()
    for row in _rows(root, names, columns):
        number = numbers[row.file]
        numbers[row.file] += 1
        base = ilsvrc.canonical(_base(row.path))[0] if imagenet else row.path
        place = f"{row.file}/{row.path or number}"
        if row.label is None or row.label < 0:
            excluded.append((place, "no label"))
            continue
        wnid = name_of.get(row.label)
        if wnid is None:
            raise SourceError(f"{root / row.file}: row {number} has label {row.label}, for which there is no class")
        name = base or f"{row.file.rpartition('/')[2].partition('.')[0]}_{number:06d}"
        yield Entry(wnid, f"{wnid}/{name}", place, row.file, row.group, row.row)


def _with_left(make: Any, excluded: Sequence[tuple[str, str]], notices: Sequence[str]) -> Found:
    found: Found = make()
    found.excluded.extend((name, "system file" if is_system(name) else reason) for name, reason in excluded)
    found.notices.extend(notices)
    return found
