"""A source as columns: every image's place, label and key, in compact arrays; made from what ``sources`` yields.

14 million images fit in about a gigabyte, where a Python object each would take ten. Nothing here touches a disk.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sharding.errors import SourceError

# Names that ImageNet itself made unique; the same image keeps its key whatever form the source comes in.
_CANONICAL = r"^(?:n\d{8}_\d+|ILSVRC20\d\d_(?:val|test)_\d{8})$"
_MAX_KEY = 80  # USTAR stores 100 bytes of name; the extension and a margin stay free
WHOLE_FILE = -1
_CHUNK = 1 << 15
T = TypeVar("T")


class Entry(NamedTuple):
    """One image that a source holds, before labels and keys.

    ``name`` is ``class/…/file.ext``, the same for every form that a source comes in: keys are made of it. ``path``
    is for people (``ILSVRC2012_img_train.tar/n01440764.tar/n01440764_18.JPEG``). The bytes are ``size`` bytes from
    ``offset`` of the file ``container``; all of it where offset is WHOLE_FILE; row ``size`` of row group ``offset``
    where it is a Parquet file. ``container`` and ``path`` are relative to the source, in POSIX form.
    """

    wnid: str
    name: str
    path: str
    container: str
    offset: int = WHOLE_FILE
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a source says of one split: its images, and what it knows of its classes.

    ``classes`` is the label order where the source fixes one (else the classes are sorted). ``excluded`` has
    (path, reason) of everything that is no image to try; like ``notices`` (sentences for the person who converts)
    it may grow while ``entries`` is consumed.
    """

    entries: Iterable[Entry]
    classes: tuple[str, ...] | None = None
    excluded: list[tuple[str, str]] = field(default_factory=list)
    ilsvrc2012_ids: Mapping[str, int] = field(default_factory=dict)
    class_names: Mapping[str, str] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """One row of a listing: an entry with its label and its key."""

    path: str
    wnid: str
    label: int
    key: str
    container: str
    offset: int
    size: int

    @property
    def place(self) -> tuple[str, int, int]:
        """Where the bytes lie: in this order a source is read from front to back."""
        return self.container, self.offset, self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A listed split: classes (index = label), one row an image, and what was excluded.

    Columns of ``table``: ``path`` and ``container`` (bytes, as the file system gave them; ``container`` is
    dictionary-encoded and null where it equals ``path``), ``key`` (text), ``label`` (int32), ``offset``, ``size``.
    """

    classes: tuple[str, ...]
    table: pa.Table
    excluded: tuple[tuple[str, str], ...]
    ilsvrc2012_ids: Mapping[str, int] = field(default_factory=dict)
    class_names: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def archives(self) -> list[str]:
        """The files that images are parts of."""
        rows = self.table.filter(pc.not_equal(self.table.column("offset"), WHOLE_FILE))
        return [os.fsdecode(name) for name in pc.unique(rows.column("container").cast(pa.binary())).to_pylist() if name]

    def __len__(self) -> int:
        """Number of images."""
        return int(self.table.num_rows)

    def rows(self, positions: NDArray[np.int64]) -> pa.Table:
        """The rows at these positions, in this order: what a shard job carries."""
        return self.table.take(pa.array(positions))

    def counts_by_class(self) -> dict[str, int]:
        """How many images each class has, in label order."""
        counts = np.bincount(self.table.column("label").to_numpy(), minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def digest(self) -> str:
        """Sha256 of classes, paths, places, keys and labels, in the order of the listing."""
        sha = hashlib.sha256(repr(self.classes).encode("utf-8", "surrogateescape"))
        for batch in self.table.to_batches(_CHUNK):
            for name in ("path", "key"):
                column = batch.column(name).cast(pa.binary())
                sha.update(pc.binary_length(column).to_numpy().tobytes())
                sha.update(b"".join(column.to_pylist()))
            for name in ("label", "offset", "size"):
                sha.update(batch.column(name).to_numpy().tobytes())
        return sha.hexdigest()


def images(rows: pa.Table, classes: Sequence[str]) -> Iterator[SourceImage]:
    """The rows of a listing as records."""
    for row in rows.to_pylist():
        path = os.fsdecode(row["path"])
        container = path if row["container"] is None else os.fsdecode(row["container"])
        yield SourceImage(
            path=path, wnid=classes[row["label"]], label=row["label"], key=row["key"],
            container=container, offset=row["offset"], size=row["size"],
        )  # fmt: skip


def build(found: Found, classes: Sequence[str] | None, *, where: str) -> Listing:
    """Collect a source's entries into columns; give labels and unique keys.

    ``classes`` fixes the label order; else the source's own order, else classes sorted, numbers as numbers ("2"
    before "10"), which for ImageNet is the sorted-wnid order of torchvision, timm and Caffe. Raises SourceError
    if there is no image, or a class that the given order does not name.
    """
    codes: dict[str, int] = {}
    with _no_garbage_collection():
        chunks = list(_chunks(found.entries, codes))
    if not chunks:
        raise SourceError(f"{where}: no images found ({len(found.excluded)} other entries)")
    order = tuple(classes or found.classes or _sorted_classes(codes))
    label_of_code = _labels(codes, order, where)
    table = pa.Table.from_batches(chunks).unify_dictionaries()
    label = pa.chunked_array([pa.array(label_of_code[c.to_numpy()]) for c in table.column("class").chunks])
    key = unique_keys(table.column("name"), partial(_places, table))
    table = table.drop_columns(["class", "name"]).append_column("label", label).append_column("key", key)
    return Listing(
        classes=order,
        table=table,
        excluded=tuple(sorted(found.excluded)),
        ilsvrc2012_ids=_of(order, found.ilsvrc2012_ids),
        class_names=_of(order, found.class_names),
        notices=tuple(found.notices),
    )


def unique_keys(names: pa.ChunkedArray, places: Callable[[], pa.ChunkedArray]) -> pa.ChunkedArray:
    """Unique sample keys for names ``class/…/file.ext``: letters, digits, ``_`` and ``-`` only.

    ImageNet's own names stay as they are (``n01440764_10026``); others become ``class_file``. Where making them
    safe changed or shortened a name, or two names fall together, 8 hex digits of the name's sha256 are added, and of
    the sample's place where even the names are equal. A dot would end the key for every WebDataset reader, a space
    would break DALI's index.
    """
    safe, changed = zip(*map(_safe_keys, names.chunks), strict=True)
    twice = _equal_but_for_case(safe)
    keys = [_with_hash(*parts, twice) for parts in zip(safe, changed, names.chunks, strict=True)]
    if len(twice) and len(again := _equal_but_for_case(keys)):
        keys = [_with_hash(key, None, place, again) for key, place in zip(keys, places().chunks, strict=True)]
    return pa.chunked_array(keys)


def _safe_keys(names: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Keys of safe characters, and which of them are not what was wanted."""
    try:
        text = names.cast(pa.string())
    except pa.ArrowInvalid:  # not UTF-8: every byte that is none becomes a replacement character, and then a dash
        text = pa.array([name.decode("utf-8", "replace") for name in names.to_pylist()], pa.string())
    stem = pc.replace_substring_regex(text, r"\.[^./]*$", "")
    file = pc.replace_substring_regex(stem, r"^.*/", "")
    canonical = pc.match_substring_regex(file, _CANONICAL)
    if pc.all(canonical).as_py():
        return file, pc.invert(canonical)
    wanted = pc.if_else(canonical, file, pc.replace_substring(stem, "/", "_"))
    safe = pc.utf8_slice_codeunits(pc.replace_substring_regex(wanted, r"[^A-Za-z0-9_-]", "-"), 0, _MAX_KEY)
    return safe, pc.not_equal(wanted, safe)


def _equal_but_for_case(keys: Sequence[pa.Array]) -> pa.Array:
    """The keys, in lower case, that come more than once: some file systems would hold them for the same.

    Found by 64-bit hashes, since a table of 14 million strings would take gigabytes; then compared as text.
    """
    hashes = np.concatenate([np.fromiter(map(hash, pc.utf8_lower(part).to_pylist()), np.int64) for part in keys])
    in_order = np.sort(hashes)
    suspects = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    if not len(suspects):
        return pa.array([], pa.string())
    rows = np.flatnonzero(np.isin(hashes, suspects))
    counts = Counter(pc.utf8_lower(pa.chunked_array(keys).take(pa.array(rows))).to_pylist())
    return pa.array([key for key, count in counts.items() if count > 1], pa.string())


def _with_hash(keys: pa.Array, odd: pa.Array | None, texts: pa.Array, twice: pa.Array) -> pa.Array:
    """Add a hash of their text to keys that are odd or among ``twice``."""
    chosen = pc.is_in(pc.utf8_lower(keys), value_set=twice)
    if odd is not None:
        chosen = pc.or_(chosen, odd)
    if not pc.any(chosen).as_py():
        return keys
    hashes = [
        f"-{hashlib.sha256(text).hexdigest()[:8]}" if one else ""
        for text, one in zip(texts.to_pylist(), chosen.to_pylist(), strict=True)
    ]
    return pc.binary_join_element_wise(keys, pa.array(hashes, pa.string()), "")


def _places(table: pa.Table) -> pa.ChunkedArray:
    """Path, offset and size as one text: what tells two samples of the same name apart."""
    numbers = [table.column(name).cast(pa.string()).cast(pa.binary()) for name in ("offset", "size")]
    return pc.binary_join_element_wise(table.column("path"), *numbers, b":")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Entries are tuples without cycles; looking through them for garbage takes a quarter of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _chunks(entries: Iterable[Entry], codes: dict[str, int]) -> Iterator[pa.RecordBatch]:
    """Entries as columns, some at a time; ``codes`` learns a number for every class that is seen."""
    stream = iter(entries)
    while taken := list(islice(stream, _CHUNK)):
        wnids, names, paths, containers, offsets, sizes = zip(*taken, strict=True)
        own = [None if container == path else container for container, path in zip(containers, paths, strict=True)]
        columns: dict[str, Any] = {
            "path": _bytes_column(paths),
            "container": _bytes_column(own).dictionary_encode(),
            "offset": pa.array(offsets, pa.int64()),
            "size": pa.array(sizes, pa.int64()),
            "class": pa.array([codes.setdefault(wnid, len(codes)) for wnid in wnids], pa.int32()),
            "name": _bytes_column(names),
        }
        yield pa.RecordBatch.from_pydict(columns)


def _bytes_column(texts: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(texts, pa.string()).cast(pa.binary())
    except UnicodeEncodeError:  # a file name that is no UTF-8
        return pa.array([None if text is None else os.fsencode(text) for text in texts], pa.binary())


def _labels(codes: Mapping[str, int], order: Sequence[str], where: str) -> NDArray[np.int32]:
    twice = [name for name, count in Counter(order).items() if count > 1]
    if twice:
        raise SourceError(f"{where}: class {twice[0]!r} is named twice in the list of classes; name each once")
    label = {wnid: index for index, wnid in enumerate(order)}
    unknown = sorted(set(codes) - set(label))
    if unknown:
        raise SourceError(
            f"{where}: class {unknown[0]!r} ({len(unknown)} such) is not among the {len(order)} given classes "
            "(of the training split, or of --classes); give both splits the same classes"
        )
    return np.array([label[wnid] for wnid in codes], np.int32)


def _sorted_classes(names: Iterable[str]) -> list[str]:
    listed = list(names)
    numbers = all(re.fullmatch(r"[0-9]+", name) for name in listed)
    return sorted(listed, key=lambda name: (int(name), name)) if numbers else sorted(listed)


def _of(order: Sequence[str], by_class: Mapping[str, T]) -> dict[str, T]:
    return {wnid: by_class[wnid] for wnid in order if wnid in by_class}
