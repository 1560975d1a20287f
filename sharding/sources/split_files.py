"""Find files that hold many images each (Parquet, WebDataset tars), and sort them into splits.

A file's split comes from the folders on its path or its own name. Files that imply no split are training data, but only
where no file implies one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from alexstream.core.errors import SourceError
from alexstream.core.text import count_of, quote_value
from alexstream.sharding.dataset_v1.layout import SPLITS
from alexstream.sharding.sources.compressed import COMPRESSED, is_compressed
from alexstream.sharding.sources.dataset_card import split_by_card
from alexstream.sharding.sources.files import is_image_name, is_system, list_items, select_files
from alexstream.sharding.sources.split_words import split_of_file, split_of_word

_MAX_FOLDERS = 32  # side by side; more folders are classes
_MAX_DEPTH = 4
_PART_OF_SPLIT = re.compile(r"(.*?)[-_.]?\d{3,}-of-\d{3,}", re.IGNORECASE)  # Hugging Face: WORD-00000-of-00001
_PART = re.compile(r"([^/]*?)[-_.]?(\d{3,})-of-(\d{3,})[^/]*$", re.IGNORECASE)
_NEUTRAL_WORDS = (
    "part", "shard", "data", "chunk", "file", "batch", "image", "dataset", "default", "output", "webdataset", "wds",
    "parquet",
)  # fmt: skip
_NEUTRAL_FOLDERS = ("data", "parquet", "shards", "webdataset", "wds")  # folders whose names carry no information


class FilesBelow(NamedTuple):
    """Files of one kind below a source, and everything else; a folder without such files counts as one entry."""

    files: list[str]
    others: list[str]


class FilesBySplit(NamedTuple):
    """Files by split, in the order train, val, test; and the files that are left out because they imply no split."""

    files: dict[str, list[str]]
    left_out: list[str]
    is_unnamed: bool  # True if no file implies its split

    def describe(self, kind: str) -> str:
        """Return ``train: 3 files, val: 1 file``, with a remark if no name implies a split."""
        counts = ", ".join(f"{split}: {count_of(len(paths), kind)}" for split, paths in self.files.items())
        return f"{counts}; no name tells a split, so all are one" if self.is_unnamed else counts


def find_files(root: Path, extension: str) -> FilesBelow:
    """Find the files with an extension in ``root`` and up to four folders deep, as relative paths.

    Beside folders of images, only those in split folders count; others are strays in class folders.
    """
    below = FilesBelow([], [])
    _collect_files(root, "", 0, extension, below)
    if not any("/" in path and is_image_name(path) for path in below.others):
        return below
    files = [path for path in below.files if not _file_set(path)]
    return FilesBelow(files, [*below.others, *(path for path in below.files if path not in files)])


def _collect_files(root: Path, folder: str, depth: int, extension: str, below: FilesBelow) -> None:
    listed = list_items(root / folder) if folder else list_items(root)
    here = set(select_files(listed, extension))
    folders = [item.name for item in listed if item.is_dir and not is_system(item.name)]
    deeper = depth < _MAX_DEPTH and len(folders) <= _MAX_FOLDERS
    for item in listed:
        path = f"{folder}/{item.name}".lstrip("/")
        if item.name in here:
            below.files.append(path)
        elif not (deeper and item.name in folders):
            below.others.append(path)
        else:
            inside = FilesBelow([], [])
            _collect_files(root, path, depth + 1, extension, inside)
            below.files.extend(inside.files)
            below.others.extend(inside.others if inside.files else [path])


def skip_reason_beside(path: str) -> str:
    """Return why a file beside Parquet files, or shards, is left out."""
    name = path.rpartition("/")[2]
    if is_system(name):
        return "system file"
    if is_compressed(name):
        return COMPRESSED
    return "image without a label, in no class folder" if is_image_name(name) else "beside the shards, no image"


def assign_splits(root: Path, files: Sequence[str], asked: str = "", *, chosen: bool = False) -> FilesBySplit:
    """Sort files into splits by the words in their paths; ``asked`` is the split of ``--split``, if given.

    ``chosen``: the caller has named the files, so that they may lie in folders of several sets.

    Raises SourceError where that is unclear: some files imply a split and others do not, a folder and a name imply
    different ones, an unknown word is in the place of a split, or the files are of several sets.
    """
    if not chosen:
        _check_one_set(root, files)
    told = _tell_splits(root, files)
    untold = [path for path in files if told[path] is None]
    if len(untold) < len(files):
        if untold and asked not in told.values():
            known = next(path for path in files if told[path])
            raise SourceError(
                f"{root}: {untold[0]}{_format_count(untold)} implies no split, while {known} does; rename it "
                "(train-…, val-… "
                f"or test-…), move it away, or give `split`, which takes the files of that split and leaves it out"
            )
        return FilesBySplit(
            _group_by_split({path: split for path, split in told.items() if split}), untold, is_unnamed=False
        )
    asked = split_of_word(root.name) or asked
    unknown = sorted({word for path in files if (word := _find_unknown_word(path, root))})
    if len(unknown) > 1 or (unknown and not asked):
        settle = "rename or move them" if len(unknown) > 1 else "`split` train, val or test says which it is"
        raise SourceError(
            f"{root}: {files[0]} and others are of a split called {', '.join(map(quote_value, unknown[:5]))}, which "
            f"is not a known name of one; {settle}"
        )
    return FilesBySplit({asked or "train": list(files)}, [], is_unnamed=True)


def _tell_splits(root: Path, files: Sequence[str]) -> dict[str, str | None]:
    """Return the split of each file by its name, its folders, or the card of the data set; None for none."""
    told = {path: _file_split(root, path) for path in files}
    for path, split in split_by_card(root, files).items():
        if told[path] not in (None, split):
            raise SourceError(
                f"{root}: {path} is {told[path]} by its name and {split} by the README.md; rename it, or correct that"
            )
        told[path] = split
    return told


def report_missing_parts(files: Sequence[str]) -> list[str]:
    """Return a notice for each set ``WORD-00000-of-00004`` with missing files, naming the first of them."""
    parts: dict[tuple[str, int], set[int]] = {}
    for path in files:
        if match := _PART.search(path):
            parts.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    return [
        f"{word or 'the source'}: {len(there)} of its {count_of(total, 'file')} are there, by their names; the first "
        f"that is missing is {next(number for number in range(total) if number not in there):05}-of-{total:05}"
        for (word, total), there in parts.items()
        if len(there) < total
    ]


def _group_by_split(told: Mapping[str, str]) -> dict[str, list[str]]:
    by_split = {split: [path for path, one in told.items() if one == split] for split in SPLITS}
    return {split: paths for split, paths in by_split.items() if paths}


def _format_count(paths: Sequence[str]) -> str:
    return f" ({len(paths)} such)" if len(paths) > 1 else ""


def _file_split(root: Path, path: str) -> str | None:
    *folders, name = path.split("/")
    words = {split for folder in folders if (split := split_of_word(folder))}
    own = split_of_file(name)
    if len(words) > 1 or (words and own and own not in words):
        raise SourceError(
            f"{root}: {path} lies in a folder of one split and is named for another; rename it or move it to its split"
        )
    return own or next(iter(words), None)


def _check_one_set(root: Path, files: Sequence[str]) -> None:
    """Raise SourceError if files are in several folders that are not splits: configurations, or classes."""
    sets: dict[str, str] = {}
    for path in files:
        sets.setdefault("/".join(part for part in _file_set(path).split("/") if not part.isdigit()), path)
    if len(sets) > 1:
        places = sorted({path.rpartition("/")[0] or "." for path in sets.values()})
        raise SourceError(
            f"{root}: files of {len(sets)} sets beside each other, in {', '.join(places[:4])}; give one of these "
            f"folders as `source` ({root / places[-1]})"
        )


def _file_set(path: str) -> str:
    """Return the folders on the way to a file that are neither splits nor named like ``data``."""
    return "/".join(part for part in path.split("/")[:-1] if part not in _NEUTRAL_FOLDERS and not split_of_word(part))


def _find_unknown_word(path: str, root: Path) -> str:
    """Return the word in the place of the split, or a name with words of two splits; "" for neither."""
    name = path.rpartition("/")[2]
    match = _PART_OF_SPLIT.match(name)
    words = re.findall(r"[a-z]+", name.rpartition(".")[0].lower())
    if any(split_of_file(word) for word in words):
        return match[1] if match else name
    own = {word.lower() for word in (root.name, root.parent.name)}
    if match is None or not match[1] or match[1].lower() in own:
        return ""
    return (
        ""
        if all(word.removesuffix("s") in _NEUTRAL_WORDS for word in re.findall(r"[a-z]+", match[1].lower()))
        else match[1]
    )
