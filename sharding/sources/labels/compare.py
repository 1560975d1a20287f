"""Compare a detected source with the tables and lists around its images: its splits, and the classes of folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alexstream.sharding.sources.files import is_parquet
from alexstream.sharding.sources.labels.split_lists import ListChoice, load_lists, read_split_lists
from alexstream.sharding.sources.labels.table_audit import audit_tables
from alexstream.sharding.sources.labels.text_files import TextFile, find_text_files, find_texts_above, find_texts_beside
from alexstream.sharding.sources.parquet import count_image_rows
from alexstream.sharding.sources.types import DetectedSource


def compare_with_texts(found: DetectedSource, root: Path, asked: str) -> DetectedSource:
    """Return ``found``, whose splits are told by lists, where nothing else tells them, or are compared with these.

    Texts lie in the source, in its tars, or one level above it. ``asked`` is the split that the caller asked for.
    Raises SourceError where they disagree, also while a split is listed.
    """
    compared = found.compared
    if compared is None:
        return found
    files: list[TextFile] = [*compared.inside]
    unread: list[str] = []
    if root.is_dir():
        here, unread = find_text_files(root, compared.ways)
        files += here
    around = [*files, *find_texts_above(root)]
    lists = load_lists(root, [*around, *_find_beside_tables(compared.used, around)], compared.used)
    lists.unread += [one for one in unread if not _holds_images(root / one)]
    choice = ListChoice(readings=compared.readings, decided=compared.is_decided, asked=asked)
    found = read_split_lists(found, lists, choice)
    return audit_tables(found, files, compared.readings) if compared.checks_classes else found


def _find_beside_tables(tables: Sequence[Path], known: Sequence[TextFile]) -> list[TextFile]:
    """Return the texts named for splits beside tables of labels that lie elsewhere."""
    paths = {str(file.path.absolute()) for file in known if isinstance(file.path, Path)}
    found = [file for table in tables if isinstance(table, Path) for file in find_texts_beside(table)]
    return [file for file in found if str(file.path) not in paths]


def _holds_images(path: Path) -> bool:
    return path.name.lower().endswith(".parquet") and is_parquet(path) and count_image_rows(path) > 0
