"""Read the splits of images in class folders from what lies beside them.

That are lists (``train.txt`` and ``test.txt``), tables with a column of splits, or CUB's flags.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of
from alexstream.sharding.dataset_v1.layout import SPLITS
from alexstream.sharding.sources.files import LinkFollower, is_image_name, list_items, walk_files
from alexstream.sharding.sources.labels.image_table import ImageTable
from alexstream.sharding.sources.labels.name_index import NameIndex, find_table_files, load_names
from alexstream.sharding.sources.split_words import split_of_file
from alexstream.sharding.sources.types import Entry, ListingLog, SourceSplit, SplitLister

_PROBED_FOLDERS, _PROBED_IMAGES = 32, 64  # that are looked at, to see whether lists are about these images
CUB_FLAGS, _CUB_IMAGES = "train_test_split.txt", "images.txt"


@dataclass(slots=True)
class SplitLists:
    """Lists of the images of several splits; ``splits`` has the split of each row, ``files`` what was read."""

    root: Path
    index: NameIndex = field(default_factory=NameIndex)
    splits: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    left_aside: bool = False

    def add(self, file: Path, split: str, names: Sequence[str]) -> None:
        """Add the images that a file says are in a split."""
        for name in names:
            self.index.add(name, len(self.splits))
            self.splits.append(split)
        if names:
            self.files[file.relative_to(self.root).as_posix()] = split

    def names(self) -> list[str]:
        """Return the splits that there are lists of."""
        told = set(self.splits)
        return [split for split in SPLITS if split in told]

    def describe(self) -> str:
        """Return the names of the files that tell the splits."""
        files = list(self.files)
        return ", ".join(files if len(files) <= 4 else [*files[:3], "…", files[-1]])

    def of_path(self, path: str) -> set[str]:
        """Return the splits that an image is listed in."""
        return {self.splits[row] for row in self.index.find(path)}

    def select(self, lister: SplitLister, split: str, options: str) -> SplitLister:
        """Return a lister of the images of one split, of a lister of all.

        Listing raises SourceError, with the ``options``, for an image in no list, or in those of two splits.
        """

        def list_split(log: ListingLog) -> SourceSplit:
            found = lister(log if split == self.names()[0] else ListingLog())  # what is left out counts once
            return replace(found, entries=self._filter(found.entries, split, options))

        return list_split

    def _filter(self, entries: Iterable[Entry], split: str, options: str) -> Iterator[Entry]:
        missing: list[str] = []
        for entry in entries:
            told = self.of_path(entry.path)
            if len(told) > 1:
                raise self.clash_error(entry.path, told, options)
            if not told and is_image_name(entry.path):
                missing.append(entry.path)
            if told == {split} or (not told and not is_image_name(entry.path) and split == self.names()[0]):
                yield entry
        if missing:
            raise SourceError(
                f"{self.root}: {self.describe()} list the images of {' and '.join(self.names())}, and "
                f"{count_of(len(missing), 'image')} in none of them ({missing[0]}, …); list them, or {options}"
            )

    def clash_error(self, path: str, told: set[str], options: str) -> SourceError:
        """Return the error for an image that is listed in several splits."""
        return SourceError(
            f"{self.root}: {self.describe()} list the images of splits, and {path} is in {' and '.join(sorted(told))} "
            f"at once (lists of several folds?); {options}"
        )


def find_split_lists(root: Path, way: Sequence[str], options: str, *, decided: bool) -> SplitLists | None:
    """Return the lists beside class folders that name their images by split; None if there are none.

    ``way`` leads from ``root`` to the class folders. Lists that contradict each other raise SourceError with the
    ``options``. Where the caller has ``decided`` for one of these, lists that do not name each image in one split are
    ``left_aside``.
    """
    lists = _load_lists(root, find_table_files(root, [way]))
    if not lists.splits:
        return None
    folder, path = root.joinpath(*way), "/".join(way)
    told = {image: lists.of_path(image) for image in islice(_iter_images(folder, path, 0), _PROBED_IMAGES)}
    if not any(told.values()):
        return None
    if decided:
        lists.left_aside = any(len(lists.of_path(image)) != 1 for image in _iter_all_images(folder, path))
    elif clash := next((image for image in told if len(told[image]) > 1), None):
        raise lists.clash_error(clash, told[clash], options)
    return lists


def _load_lists(root: Path, files: Sequence[Path]) -> SplitLists:
    """Load all that tells splits: files named for one, tables with a column of splits, and CUB's lists."""
    lists = SplitLists(root)
    for file in files:
        split = split_of_file(file.name.rpartition(".")[0])
        if file.name == CUB_FLAGS:
            named = _read_cub(file) if file.with_name(_CUB_IMAGES) in files else {}
        elif split:
            named = {split: [name for row in load_names(file) for name in _pick_names(row)]}
        else:
            named = _read_table(ImageTable(root, file))
        for one, names in named.items():
            lists.add(file, one, names)
    return lists


def _read_table(table: ImageTable) -> Mapping[str, list[str]]:
    """Return the images by split of a table with a column of splits; {} for any other."""
    named: dict[str, list[str]] = {}
    if table.cells and any(table.splits):
        for row, split in zip(table.cells, table.splits, strict=True):
            if split:
                named.setdefault(split, []).extend(row[c] for c in table.files)
    return named


def _pick_names(row: Sequence[str]) -> list[str]:
    """Return the cells of a row that may be names of images: with a folder, an image's extension, or the only cell."""
    return [cell for cell in row if len(row) == 1 or "/" in cell or "\\" in cell or is_image_name(cell)]


def _read_cub(flags: Path) -> Mapping[str, list[str]]:
    """Return the images by split of CUB's lists ``id is_training`` and ``id path``."""
    path_of = {row[0]: row[-1] for row in load_names(flags.with_name(_CUB_IMAGES)) if len(row) > 1}
    named: dict[str, list[str]] = {"train": [], "test": []}
    for row in load_names(flags):
        if len(row) == 2 and row[0] in path_of and row[1] in ("0", "1"):
            named["train" if row[1] == "1" else "test"].append(path_of[row[0]])
    return named


def _iter_all_images(folder: Path, path: str) -> Iterator[str]:
    links = LinkFollower()
    links.enter(folder, path)
    return (file.lstrip("/") for file, reason in walk_files(folder, path, links) if not reason and is_image_name(file))


def _iter_images(folder: Path, path: str, depth: int) -> Iterator[str]:
    """Yield some images of each of the first folders below ``folder``, as paths relative to the source."""
    listed = list_items(folder)
    yield from (f"{path}/{i.name}".lstrip("/") for i in listed[:_PROBED_IMAGES] if is_image_name(i.name))
    if depth < 3:
        for item in [item for item in listed if item.is_dir][:_PROBED_FOLDERS]:
            yield from islice(_iter_images(folder / item.name, f"{path}/{item.name}".lstrip("/"), depth + 1), 4)
