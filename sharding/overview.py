"""Summarize the classes of a split and what was left out, for the plan of a conversion and for ``info``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from alexstream.core.text import count_of

_MAX_NAMES = 7  # class names that are shown without being asked for
_FILE_COUNT = re.compile(r" \((\d[\d,]*) files?\)$")


def format_classes(counts: Mapping[str, int], *, all_classes: bool = False) -> list[str]:
    """Return the class names, and the images per class: smallest, median and largest. ``counts`` is in label order."""
    names = list(counts)
    if all_classes:
        shown = [f"{label}: {name} ({count:,})" for label, (name, count) in enumerate(counts.items())]
        lines = [f"{_format_classes(names)}, with their labels and images:", *(f"  {line}" for line in shown)]
    else:
        more = "   (all of them: --list-classes)" if len(names) > _MAX_NAMES else ""
        lines = [f"{_format_classes(names)}: {', '.join(_abbreviate(names))}{more}"]
    sizes = summarize_class_sizes(counts)
    smallest, largest = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    lines.append(
        f"images per class: {sizes['smallest']:,} ({smallest}), median {sizes['median']:,}, "
        f"{sizes['largest']:,} ({largest})"
    )
    empty = [name for name, count in counts.items() if not count]
    if empty:
        lines.append(f"NOTE {_format_classes(empty)} without images: {', '.join(_abbreviate(empty))}")
    return lines


def summarize_class_sizes(counts: Mapping[str, int]) -> dict[str, int]:
    """Return smallest, median (rounded down) and largest number of images of a class."""
    sizes = list(counts.values())
    return {"smallest": min(sizes), "median": int(median(sizes)), "largest": max(sizes)}


def format_left_out(excluded: Iterable[tuple[str, str]]) -> list[str]:
    """Return a NOTE for each kind of (path, reason) left out: number of files, reason, and the first path."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for path, reason in excluded:
        files = _FILE_COUNT.search(reason)
        kind = _FILE_COUNT.sub("", reason).partition(" to '")[0]
        counts[kind] += int(files[1].replace(",", "")) if files else 1
        first.setdefault(kind, path)
    return [f"NOTE left out: {count:,} × {kind}, the first: {first[kind]}" for kind, count in counts.most_common()]


def _format_classes(names: Sequence[str]) -> str:
    return count_of(len(names), "class", "classes")


def _abbreviate(names: Sequence[str]) -> Sequence[str]:
    return names if len(names) <= _MAX_NAMES else [*names[:3], "…", *names[-3:]]
