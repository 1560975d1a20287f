"""Find the rows of a table, or of a list, that name a given image: with or without folders and extension."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.core.schema import parse_json
from alexstream.sharding.sources.files import has_file, is_image_name, is_system, list_items, read_small_file
from alexstream.sharding.sources.labels.label_table import load_table

_EXTENSIONS = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".lst")
_MAX_FOLDERS = 32  # side by side; more folders are classes
_MAX_DEPTH = 2  # levels of folders without images that are searched for tables


class NameIndex:
    """Rows by the file names in them."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[tuple[str, ...], int]]] = {}

    def __len__(self) -> int:
        """Return the number of different file names."""
        return len(self._rows)

    def add(self, name: str, row: int) -> None:
        """Add a name, which may have folders and an extension, as found in a row."""
        *folders, file = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")] or [""]
        if file:
            self._rows.setdefault(_stem(file), []).append((tuple(folders), row))

    def find(self, path: str) -> list[int]:
        """Return the rows that may name the image at ``path``; folders written in a row must be on its path."""
        *folders, file = path.split("/")
        rows = self._rows.get(_stem(file))
        return [row for written, row in rows if _fits(written, folders)] if rows else []


def _stem(file: str) -> str:
    return file.rpartition(".")[0] if is_image_name(file) else file


def _fits(written: Sequence[str], folders: Sequence[str]) -> bool:
    """Return whether written folders are those of an image, as far as both are known; a table may be of elsewhere."""
    return set(written) <= set(folders) or (len(written) > len(folders) and list(written[-len(folders) :]) == folders)


def find_table_files(root: Path, ways: Iterable[Sequence[str]]) -> list[Path]:
    """Return the files that may be tables: in ``root``, on the ways to the images, and in folders without images.

    ``ways`` are the paths of the folders of the splits, relative to ``root``.
    """
    on_way = {tuple(way[:depth]) for way in ways for depth in range(len(way) + 1)} | {()}
    found: list[Path] = []
    for way in sorted(on_way):
        folder = root.joinpath(*way)
        _collect_tables(folder, found, {name for *above, name in filter(None, on_way) if tuple(above) == way}, 0)
    return found


def _collect_tables(folder: Path, found: list[Path], skipped: set[str], depth: int) -> None:
    listed = [item for item in list_items(folder) if not is_system(item.name)]
    found += [folder / item.name for item in listed if not item.is_dir and item.name.lower().endswith(_EXTENSIONS)]
    folders = [folder / item.name for item in listed if item.is_dir and item.name not in skipped]
    if depth < _MAX_DEPTH and len(folders) <= _MAX_FOLDERS:
        for inner in folders:
            if not has_file(inner, is_image_name):
                _collect_tables(inner, found, set(), depth + 1)


def load_names(path: Path) -> list[list[str]]:
    """Return the rows of a list of images: of a table, of JSON, or of lines with one name; [] for anything else."""
    try:
        text = read_small_file(path).decode("utf-8-sig")
        if path.name.lower().endswith(".json") and (names := _flatten(parse_json(text))):
            return [[name] for name in names]
        if all(len(line.split()) == 1 for line in text.splitlines()[:20] if line.strip()) and "," not in text[:1000]:
            return [[line.strip()] for line in text.splitlines() if line.strip()]
        return load_table(path).cells
    except (SourceError, ValueError):
        return []


def _flatten(value: object) -> list[str]:
    """Return the names in a list, or in a map of class to list; [] for any other JSON."""
    lists = [names for names in (value.values() if isinstance(value, dict) else [value]) if isinstance(names, list)]
    names = [name for held in lists for name in held]
    return names if all(isinstance(name, str) for name in names) else []
