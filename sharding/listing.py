"""The images of a split as Arrow columns: path, byte range, label and unique key of each, built from ``sources``.

14 million images take about a gigabyte this way; a Python object for each would take ten. Nothing here reads a disk.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of, normalize_nfc, quote_value
from alexstream.sharding.sources.types import WHOLE_FILE, Entry, ListingLog, SplitLister

# ImageNet's own names are unique; used as keys, they are the same for every form of the source.
_IMAGENET_STEM = r"^(?:n\d{8}_\d+|ILSVRC20\d\d_(?:val|test)_\d{8})$"
_MAX_KEY_CHARS = 80  # USTAR stores 100 bytes of name; the extension and a margin stay free
_CHUNK_ROWS = 1 << 15
# Letters of which both cases, or the one that is given, look like a Latin letter in most typefaces.
_LATIN_LOOKS = str.maketrans(
    "АВЕЅІЈКМНОРСТХУаеѕіјорсхуԛԝһΑΒΕΖΗΙΚΜΝΟΡΤΥΧονικρυχI|",
    "ABESlJKMHOPCTXYaesijopcxyqwhABEZHlKMNOPTYXovikpuxll",
)
T = TypeVar("T")


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
    def sort_key(self) -> tuple[str, int, int]:
        """The sort key (container, offset, size) that reads a source from front to back."""
        return self.container, self.offset, self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A listed split: classes (index = label), one table row per image, and what was excluded.

    Columns of ``table``: ``path`` and ``container``, bytes as the file system gave them (``container``
    dictionary-encoded, null where it equals ``path``); ``key``, string; ``label``, int32; ``offset`` and ``size``,
    int64. ``inodes``: those of the files, one for each row; empty where they are not known.
    """

    classes: tuple[str, ...]
    table: pa.Table
    excluded: tuple[tuple[str, str], ...]
    ilsvrc2012_ids: Mapping[str, int] = field(default_factory=dict)
    class_names: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    readings: str = ""
    inodes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    def list_containers(self) -> list[str]:
        """Return the container files that images are byte ranges or rows of."""
        rows = self.table.filter(pc.not_equal(self.table.column("offset"), WHOLE_FILE))
        return [os.fsdecode(name) for name in pc.unique(rows.column("container").cast(pa.binary())).to_pylist() if name]

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self.table.num_rows)

    def rows(self, positions: NDArray[np.int64]) -> pa.Table:
        """Return the rows at ``positions``, in that order, as a shard job carries them.

        Takes them chunk by chunk: Arrow's own take joins all chunks of a column first, which costs the time of the
        whole listing for every shard, and fails above 2 GiB of paths.
        """
        batches = self.table.to_batches()
        ends = np.cumsum([batch.num_rows for batch in batches])
        chunk_N = np.searchsorted(ends, positions, side="right")
        by_chunk_N = np.argsort(chunk_N, kind="stable")
        taken = []
        for rows in np.split(by_chunk_N, np.flatnonzero(np.diff(chunk_N[by_chunk_N])) + 1):
            if len(rows):
                number = chunk_N[rows[0]]
                start = ends[number] - batches[number].num_rows
                taken.append(batches[number].take(pa.array(positions[rows] - start)))
        order_N = np.empty(len(positions), np.int64)
        order_N[by_chunk_N] = np.arange(len(positions))
        return pa.Table.from_batches(taken, self.table.schema).take(pa.array(order_N))

    def counts_by_class(self) -> dict[str, int]:
        """Return the number of images of each class, in label order."""
        counts = np.bincount(self.table.column("label").to_numpy(), minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def digest(self) -> str:
        """Return the sha256 of classes, paths, byte ranges, keys and labels, in the order of the listing."""
        sha = hashlib.sha256(repr(self.classes).encode("utf-8", "surrogateescape"))
        for batch in self.table.to_batches(_CHUNK_ROWS):
            for name in ("path", "key"):
                column = batch.column(name).cast(pa.binary())
                sha.update(pc.binary_length(column).to_numpy().tobytes())
                sha.update(b"".join(column.to_pylist()))
            for name in ("label", "offset", "size"):
                sha.update(batch.column(name).to_numpy().tobytes())
        return sha.hexdigest()


def iter_images(rows: pa.Table, classes: Sequence[str]) -> Iterator[SourceImage]:
    """Yield the rows of a listing as records."""
    for row in rows.to_pylist():
        path = os.fsdecode(row["path"])
        container = path if row["container"] is None else os.fsdecode(row["container"])
        yield SourceImage(
            path=path, wnid=classes[row["label"]], label=row["label"], key=row["key"],
            container=container, offset=row["offset"], size=row["size"],
        )  # fmt: skip


def build_listing(list_split: SplitLister, classes: Sequence[str] | None, *, where: str) -> Listing:
    """List a split, collect its entries into columns, and assign labels and unique keys.

    ``classes`` fixes the label order; else the source's own order applies; else classes are sorted, by value if all are
    numbers ("2" before "10"). For ImageNet this is the sorted-wnid order of torchvision, timm and Caffe. ``where``
    names the source in errors. Raises SourceError if there is no image, or if an entry's class is not in the given
    order.
    """
    codes: dict[str, int] = {}
    log = ListingLog()
    found = list_split(log)
    with _pause_gc():
        chunks = list(_iter_record_batches(found.entries, codes))  # after this the log is complete
    if not chunks:
        others = count_of(len(log.excluded), "other entry", "other entries")
        raise SourceError(
            f"{where}: no images found ({others}); expected image files in its class folders: add them, move a folder "
            "without images away, or choose another split with `split`"
        )
    # Classes have been numbered in order of appearance; now that all are known, map these codes to labels.
    order = tuple(classes or _drop_spelling_variants(found.classes or _sort_classes(codes)))
    label_of_code = _assign_labels(codes, order, where)
    table = pa.Table.from_batches(chunks).unify_dictionaries()
    label = pa.chunked_array([pa.array(label_of_code[c.to_numpy()]) for c in table.column("class").chunks])
    key = make_unique_keys(table.column("name"), partial(_range_texts, table))
    table = table.drop_columns(["class", "name"]).append_column("label", label).append_column("key", key)
    return Listing(
        classes=order,
        table=table,
        excluded=tuple(sorted(log.excluded)),
        ilsvrc2012_ids=_select_classes(order, found.ilsvrc2012_ids),
        class_names=_select_classes(order, found.class_names),
        notices=(
            *log.notices,
            *_spelling_notices(codes),
            *([] if classes else [*_look_alike(order), *_renumbered(order)]),
        ),
        readings=found.readings,
        inodes=np.array(log.inodes if len(log.inodes) == len(table) else [], np.uint64),
    )


def make_unique_keys(names: pa.ChunkedArray, places: Callable[[], pa.ChunkedArray]) -> pa.ChunkedArray:
    """Return a unique key for each name ``class/…/file.ext``, of letters, digits, ``_`` and ``-`` only.

    ImageNet's own names stay (``n01440764_10026``); others become ``class_file``. A key that had to be changed or
    shortened, or that occurs twice, gets the first 8 hex digits of the sha256 of its name; if even the names are equal,
    also those of its byte range from ``places``. A dot would end the key for every WebDataset reader; a space would
    break DALI's index.
    """
    safe, changed = zip(*map(_make_safe_keys, names.chunks), strict=True)
    twice = _find_case_duplicates(safe)
    keys = [_append_hashes(*parts, twice) for parts in zip(safe, changed, names.chunks, strict=True)]
    if len(twice) and len(again := _find_case_duplicates(keys)):
        keys = [_append_hashes(key, None, place, again) for key, place in zip(keys, places().chunks, strict=True)]
    return pa.chunked_array(keys)


def _make_safe_keys(names: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return keys of safe characters, and a mask of those that differ from the wanted text."""
    try:
        text = names.cast(pa.string())
    except pa.ArrowInvalid:  # not UTF-8: each invalid byte becomes a replacement character, and later a dash
        text = pa.array([name.decode("utf-8", "replace") for name in names.to_pylist()], pa.string())
    stem = pc.replace_substring_regex(text, r"\.[^./]*$", "")
    file = pc.replace_substring_regex(stem, r"^.*/", "")
    canonical = pc.match_substring_regex(file, _IMAGENET_STEM)
    if pc.all(canonical).as_py():
        return file, pc.invert(canonical)
    wanted = pc.if_else(canonical, file, pc.replace_substring(stem, "/", "_"))
    safe = pc.utf8_slice_codeunits(pc.replace_substring_regex(wanted, r"[^A-Za-z0-9_-]", "-"), 0, _MAX_KEY_CHARS)
    return safe, pc.not_equal(wanted, safe)


def _find_case_duplicates(keys: Sequence[pa.Array]) -> pa.Array:
    """Return the lower-case keys that occur more than once: some file systems ignore case.

    Candidates are found by 64-bit hashes, since a table of 14 million strings would take gigabytes, then compared as
    text.
    """
    hashes = np.concatenate([np.fromiter(map(hash, pc.utf8_lower(part).to_pylist()), np.int64) for part in keys])
    in_order = np.sort(hashes)
    suspects = np.unique(in_order[1:][in_order[1:] == in_order[:-1]])
    if not len(suspects):
        return pa.array([], pa.string())
    rows = np.flatnonzero(np.isin(hashes, suspects))
    counts = Counter(pc.utf8_lower(pa.chunked_array(keys).take(pa.array(rows))).to_pylist())
    return pa.array([key for key, count in counts.items() if count > 1], pa.string())


def _append_hashes(keys: pa.Array, odd: pa.Array | None, texts: pa.Array, twice: pa.Array) -> pa.Array:
    """Append a hash of ``texts`` to the keys that are ``odd`` or whose lower case is among ``twice``."""
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


def _range_texts(table: pa.Table) -> pa.ChunkedArray:
    """Return path, offset and size as one text per row, which distinguishes samples of the same name."""
    numbers = [table.column(name).cast(pa.string()).cast(pa.binary()) for name in ("offset", "size")]
    return pc.binary_join_element_wise(table.column("path"), *numbers, b":")


@contextmanager
def _pause_gc() -> Iterator[None]:
    """Pause the garbage collector: it takes a quarter of the time to scan tuples without cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _iter_record_batches(entries: Iterable[Entry], codes: dict[str, int]) -> Iterator[pa.RecordBatch]:
    """Yield entries as record batches; ``codes`` gains a number for every class in order of first appearance."""
    stream = iter(entries)
    while taken := list(islice(stream, _CHUNK_ROWS)):
        wnids, names, paths, containers, offsets, sizes = zip(*taken, strict=True)
        own = [None if container == path else container for container, path in zip(containers, paths, strict=True)]
        columns: dict[str, Any] = {
            "path": _to_binary_array(paths),
            "container": _to_binary_array(own).dictionary_encode(),
            "offset": pa.array(offsets, pa.int64()),
            "size": pa.array(sizes, pa.int64()),
            "class": pa.array([codes.setdefault(wnid, len(codes)) for wnid in wnids], pa.int32()),
            "name": _to_binary_array(names),
        }
        yield pa.RecordBatch.from_pydict(columns)


def _to_binary_array(texts: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(texts, pa.string()).cast(pa.binary())
    except UnicodeEncodeError:  # a file name that is not UTF-8
        return pa.array([None if text is None else os.fsencode(text) for text in texts], pa.binary())


def _assign_labels(codes: Mapping[str, int], order: Sequence[str], where: str) -> NDArray[np.int32]:
    twice = [name for name, count in Counter(map(normalize_nfc, order)).items() if count > 1]
    if twice:
        raise SourceError(
            f"{where}: class {quote_value(twice[0])} is named twice in the list of classes; name each once"
        )
    label = {normalize_nfc(wnid): index for index, wnid in enumerate(order)}
    unknown = sorted(wnid for wnid in codes if normalize_nfc(wnid) not in label)
    if unknown:
        raise SourceError(
            f"{where}: class {quote_value(unknown[0])} ({len(unknown)} such) is not among the {len(order)} given "
            "classes (of the training split, or of `classes`); give both splits the same classes"
        )
    return np.array([label[normalize_nfc(wnid)] for wnid in codes], np.int32)


def _drop_spelling_variants(names: Iterable[str]) -> list[str]:
    """Return the names without those that differ from an earlier one only in Unicode normalization."""
    by_form: dict[str, str] = {}
    for name in names:
        by_form.setdefault(normalize_nfc(name), name)
    return list(by_form.values())


def _spelling_notices(names: Iterable[str]) -> list[str]:
    counts = Counter(map(normalize_nfc, names))
    return [
        f"class {quote_value(name)} is spelled in {count} Unicode forms, which are taken for one"
        for name, count in counts.items()
        if count > 1
    ]  # fmt: skip


def _look_alike(names: Iterable[str]) -> list[str]:
    """Say of which names only case, blanks around them, or the form of their characters differ."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name in names:
        for kind, bare in (("bare", _bare(name)), ("skeleton", _skeleton(name))):
            alike.setdefault((kind, bare), []).append(name)
    groups = list(dict.fromkeys(tuple(group) for group in alike.values() if len(group) > 1))
    shown = "; ".join(", ".join(map(quote_value, group)) for group in groups[:3])
    more = f" and {len(groups) - 3:,} more" if len(groups) > 3 else ""
    return [
        "classes whose names differ in nothing but case, blanks, Unicode form or letters that look alike are kept "
        f"apart: {shown}{more}; if they are the same, give them one name"
    ] if groups else []  # fmt: skip


def _renumbered(names: Sequence[str]) -> list[str]:
    """Say of classes that are called by numbers that these are not their labels, where that is so."""
    if not all(name.isascii() and name.isdigit() for name in names):
        return []
    moved = next(((label, name) for label, name in enumerate(names) if int(name) != label), None)
    if moved is None:
        return []
    return [
        f"classes are called by numbers, which are not their labels: class {quote_value(moved[1])} has label "
        f"{moved[0]}; --classes FILE gives another order"
    ]


def _bare(name: str) -> str:
    """Return a name without what the eye may miss: lower case, plain characters, no marks that are not shown."""
    plain = unicodedata.normalize("NFKC", name)
    shown = "".join(one for one in plain if unicodedata.category(one) != "Cf")
    return " ".join(shown.lower().split())


def _skeleton(name: str) -> str:
    """Return a name with Cyrillic and Greek letters as the Latin ones of the same look, and I, l and | as one."""
    return _bare(unicodedata.normalize("NFKC", name).translate(_LATIN_LOOKS))


def _sort_classes(names: Iterable[str]) -> list[str]:
    listed = list(names)
    numbers = all(re.fullmatch(r"[0-9]+", name) for name in listed)
    return sorted(listed, key=lambda name: (int(name), name)) if numbers else sorted(listed)


def _select_classes(order: Sequence[str], by_class: Mapping[str, T]) -> dict[str, T]:
    return {wnid: by_class[wnid] for wnid in order if wnid in by_class}
