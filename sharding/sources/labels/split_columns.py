"""Recognize columns of a table that tell the split of an image: words for splits, and flags such as ``is_valid``."""

from __future__ import annotations

import re
from collections.abc import Sequence

from alexstream.core.text import quote_value
from alexstream.sharding.sources.split_words import split_of_file, split_of_word

_NAMES = frozenset(["split", "set", "subset", "partition", "phase", "dataset", "usage"])
_FLAGS = {"isvalid": "val", "isval": "val", "isvalidation": "val", "istest": "test"}  # by name: what True means
_TRAIN_FLAGS = frozenset(["istrain", "istraining", "istrainingimage"])
_TRUE, _FALSE = frozenset(["true", "1", "1.0", "yes"]), frozenset(["false", "0", "0.0", "no"])


def normalize_column_name(name: str) -> str:
    """Return a column name in lower case, without anything but letters and digits: ``Is_Valid`` gives isvalid."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_split_column_name(name: str) -> bool:
    """Return whether a column name is one of those in use for splits."""
    normalized = normalize_column_name(name)
    return normalized in _NAMES or normalized in _FLAGS or normalized in _TRAIN_FLAGS


def is_split_column(name: str, cells: Sequence[str]) -> bool:
    """Return whether a column is named for splits, or holds nothing but words for them."""
    return is_split_column_name(name) or (bool(cells) and all(map(_is_split_word, set(cells))))


def _is_split_word(cell: str) -> bool:
    """Return whether a cell is a word for a split, and no file or number of one (``train_7``)."""
    return cell.replace(" ", "").isalpha() and split_of_word(cell) is not None


def parse_split_column(name: str, cells: Sequence[str]) -> list[str | None] | None:
    """Return the split that each cell of a column says; None for a column that says nothing about splits.

    Raises ValueError, with the cell and what was expected, for a column whose name or other cells are about splits and
    a cell that tells none.
    """
    normalized = normalize_column_name(name)
    if normalized in _FLAGS or normalized in _TRAIN_FLAGS:
        told = {cell: _split_of_flag(normalized, cell) for cell in set(cells)}
        return [told[cell] for cell in cells]
    words = {cell: split_of_word(cell) for cell in set(cells)}
    if normalized in _NAMES:
        _check_one_word_each([cell for cell, split in words.items() if split is None])
        words = {cell: split or split_of_file(cell) for cell, split in words.items()}
    if cells and all(words.values()):
        return [words[cell] for cell in cells]
    numbers = all(re.fullmatch(r"\d+(\.0*)?", cell) for cell in words)
    if normalized == "split" or (normalized in _NAMES and (any(words.values()) or numbers)):
        wrong = next(cell for cell in cells if words[cell] is None)
        raise ValueError(wrong, "expected words for train, val or test")
    return None


def _check_one_word_each(cells: Sequence[str]) -> None:
    """Raise ValueError where two cells of other words, too, would be one split, as of a public and a private test."""
    first: dict[str, str] = {}
    for cell in sorted(cells):
        split = split_of_file(cell)
        if split and first.setdefault(split, cell) != cell:
            other = quote_value(first[split])
            raise ValueError(cell, f"and {other} too, which may both be {split}; expected train, val or test")


def _split_of_flag(name: str, cell: str) -> str:
    if cell.lower() in _TRUE:
        return _FLAGS.get(name, "train")
    if cell.lower() not in _FALSE:
        raise ValueError(cell, "expected True or False")
    if name in _TRAIN_FLAGS:
        raise ValueError(cell, "expected val or test: what is not for training may be either")
    return "train"
