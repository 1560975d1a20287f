"""Read which files are in which split from the card of a Hugging Face data set: the header of its ``README.md``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from alexstream.core.errors import SourceError
from alexstream.sharding.sources.files import read_small_file
from alexstream.sharding.sources.split_words import split_of_word

_CARD = "README.md"
_FIELD = re.compile(r"\s*(-\s+)?(split|path|data_files|config_name):\s*(.*)")
_ITEM = re.compile(r"\s*-\s+(\S.*)")


def split_by_card(root: Path, files: Sequence[str]) -> dict[str, str]:
    """Return the split of each file that the card in ``root`` puts into one; {} without a card that does.

    Raises SourceError for a file that it puts into two.
    """
    told: dict[str, str] = {}
    for word, pattern in _read_patterns(root):
        split = split_of_word(word)
        for path in (one for one in files if split and fnmatch(one, pattern.removeprefix("./"))):
            if told.setdefault(path, str(split)) != split:
                raise SourceError(
                    f"{root}: {_CARD} puts {path} into {told[path]} and into {split}; give the folder of one "
                    "configuration as `source`, or correct the card"
                )
    return told


def _read_patterns(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the pairs of split and pattern below ``data_files``, as the library ``datasets`` writes them."""
    place = root / _CARD
    text = read_small_file(place).decode("utf-8", "replace") if place.is_file() else ""
    header = re.match(r"---\r?\n(.*?)\n---", text, re.DOTALL)
    split, patterns, in_path = "", list[str](), False
    for line in header[1].splitlines() if header else []:
        field = _FIELD.match(line)
        if field and field[1]:  # a new item of a list
            yield from ((split, pattern) for pattern in patterns)
            split, patterns = "", []
        if field:
            split = _strip(field[3]) if field[2] == "split" else split
            in_path = field[2] == "path"
            patterns += map(_strip, field[3].strip("[] \r").split(",")) if in_path and field[3].strip() else []
        elif in_path and (item := _ITEM.match(line)):
            patterns.append(_strip(item[1]))
        else:
            in_path = False
    yield from ((split, pattern) for pattern in patterns)


def _strip(text: str) -> str:
    return text.strip().strip("\"'")
