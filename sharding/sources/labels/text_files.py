"""Find the texts around images that may be tables of labels or lists of splits: on a disk, and one level up."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import has_file, is_image_name, is_system, list_items, read_small_file
from alexstream.sharding.sources.labels.name_index import parse_names
from alexstream.sharding.sources.split_words import split_of_file, split_of_word

_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt", ".lst", ".list")
# Of files that may hold lists or tables, too, and are not read.
_UNREAD_EXTENSIONS = (
    ".npy", ".npz", ".pkl", ".pickle", ".mat", ".xlsx", ".xls", ".ods", ".yaml", ".yml", ".parquet", ".feather",
    ".arrow", ".db", ".sqlite", ".txt.gz", ".csv.gz", ".json.gz",
)  # fmt: skip
_TABLE_EXTENSIONS = (".xlsx", ".xls", ".ods", ".parquet", ".feather")  # these may be tables whatever their names
_SPLIT_NAMES = "split splits partition partitions subset subsets fold folds setid trainval traintest valtest"
_LIST_FOLDERS = (
    "meta metadata list lists split splits label labels annotation annotations imagesets imageset sets partition "
    "partitions filelist filelists info"
)
_LIST_WORDS, _FOLDERS_OF_LISTS = frozenset(_SPLIT_NAMES.split()), frozenset(_LIST_FOLDERS.split())
_CUB_NAMES = ("train_test_split.txt", "images.txt")
_MAX_FOLDERS = 32  # side by side; more folders are classes
_MAX_DEPTH = 2  # levels of folders without images that are searched
_MAX_UNNAMED = 64  # texts in a folder that are read although nothing in their names is about splits


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """A text that may be a table or a list: ``where`` is its path relative to the source, for messages.

    ``load`` returns its bytes, or raises SourceError. ``path`` is None in a tar. ``is_above``: it lies one level above
    the source. ``told`` is the split that its name or its folder tells, or None.
    """

    where: str
    load: Callable[[], bytes]
    path: Path | None = None
    is_above: bool = False
    told: str | None = None

    @property
    def name(self) -> str:
        """The file name."""
        return self.where.rpartition("/")[2]

    @cached_property
    def rows(self) -> list[list[str]]:
        """Its rows, of one name or of the cells of a table; [] where it is neither. Raises SourceError as ``load``."""
        return parse_names(self.name, self.load())

    @property
    def option(self) -> str:
        """The option that reads it as a table of labels; "" in a tar."""
        return f"`labels` {self.path}" if self.path is not None else ""


def is_text_name(name: str) -> bool:
    """Return whether a file name is one of a text that may be a table or a list: by its extension, or ``train``."""
    return name.lower().endswith(_EXTENSIONS) or ("." not in name and split_of_word(name) is not None)


def is_named_for_splits(name: str) -> bool:
    """Return whether the name of a file has a word for a split in it, or another word about splits."""
    stem = _stem(name)
    words = set(re.findall(r"[a-z]+", stem.lower()))
    return split_of_file(stem) is not None or bool(words & _LIST_WORDS) or _has_two_splits(stem) or name in _CUB_NAMES


def _has_two_splits(stem: str) -> bool:
    return len({split for word in re.findall(r"[A-Za-z]+", stem) if (split := split_of_file(word))}) > 1


def _stem(name: str) -> str:
    return name.rpartition(".")[0] if "." in name else name


def make_text_file(where: str, load: Callable[[], bytes], path: Path | None = None, folder: str = "") -> TextFile:
    """Return a text; ``folder`` is the name of its folder where that holds no images, and may tell a split."""
    told = split_of_file(_stem(where.rpartition("/")[2])) or (split_of_word(folder) if folder else None)
    return TextFile(where=where, load=load, path=path, is_above=where.startswith("../"), told=told)


def find_text_files(root: Path, ways: Iterable[Sequence[str]]) -> tuple[list[TextFile], list[str]]:
    """Return the texts in ``root``, on the ways to the images, and in folders without images; and what is not read.

    ``ways`` are the paths of the folders of the splits, relative to ``root``. What is not read are paths of files that
    may be tables or lists by their names, in forms that are none of text.
    """
    on_way = {tuple(way[:depth]) for way in ways for depth in range(len(way) + 1)} | {()}
    found: list[TextFile] = []
    unread: list[str] = []
    for way in sorted(on_way):
        skipped = {name for *above, name in filter(None, on_way) if tuple(above) == way}
        _collect_texts(root, way, found, unread, skipped, 0)
    return found, unread


def _collect_texts(
    root: Path, way: tuple[str, ...], found: list[TextFile], unread: list[str], skipped: set[str], depth: int
) -> None:
    folder = root.joinpath(*way)
    listed = [item for item in list_items(folder) if not is_system(item.name)]
    names = [item.name for item in listed if not item.is_dir]
    texts = [name for name in names if is_text_name(name)]
    if len(texts) > _MAX_UNNAMED:
        texts = [name for name in texts if is_named_for_splits(name)]
    own = way[-1] if depth else ""
    found += [
        make_text_file("/".join((*way, name)), partial(read_small_file, folder / name), folder / name, own)
        for name in texts
    ]
    unread += ["/".join((*way, name)) for name in names if is_unread_table(name)]
    folders = [item.name for item in listed if item.is_dir and item.name not in skipped]
    if depth < _MAX_DEPTH and len(folders) <= _MAX_FOLDERS:
        for name in folders:
            if not has_file(folder / name, is_image_name):
                _collect_texts(root, (*way, name), found, unread, set(), depth + 1)


def is_unread_table(name: str) -> bool:
    """Return whether a file may be a table or a list by its name, in a form that is not read."""
    named = name.lower().endswith(_UNREAD_EXTENSIONS) and is_named_for_splits(name.lower().removesuffix(".gz"))
    return named or name.lower().endswith(_TABLE_EXTENSIONS)


def find_texts_above(root: Path) -> list[TextFile]:
    """Return the texts named for splits that lie beside ``root``, or in folders of lists there.

    They are called ``../NAME`` where ``root`` is a folder, and by their names where it is a file.
    """
    folder = root.absolute().parent if isinstance(root, Path) else None
    if folder is None or folder == folder.parent:
        return []
    try:
        inside = [one.name for one in list_items(folder) if one.is_dir and one.name != root.absolute().name]
        inside = [name for name in inside if name.lower().replace("_", "") in _FOLDERS_OF_LISTS]
        return [file for name in ("", *inside) for file in _list_named(folder, name, "../" if root.is_dir() else "")]
    except SourceError:
        return []


def find_texts_beside(file: Path) -> list[TextFile]:
    """Return the texts named for splits in the folder of a file, called by their paths."""
    folder = file.absolute().parent
    try:
        return _list_named(folder, "", f"{folder}/")
    except SourceError:
        return []  # it may be read by name only


def _list_named(folder: Path, name: str, prefix: str) -> list[TextFile]:
    inside = folder / name if name else folder
    names = [one.name for one in list_items(inside) if not one.is_dir and not is_system(one.name)]
    named = [f"{name}/{one}".lstrip("/") for one in names if is_text_name(one) and is_named_for_splits(one)]
    return [make_text_file(f"{prefix}{one}", partial(read_small_file, folder / one), folder / one) for one in named]
