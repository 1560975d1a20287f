"""CONTRACT: what a report is made of. Modules of sections give these, ``page`` and its templates draw them.

Text in them is plain: nothing is markup but ``Chart.svg``, which ``charts`` makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names and values, a line each."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A sentence or two; ``strong`` if it must not be overlooked."""

    kind: ClassVar[str] = "note"
    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image: ``uri`` of its data, its size in pixels, what it shows in words, and short lines below it."""

    kind: ClassVar[str] = "picture"
    uri: str
    width: int
    height: int
    alt: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Pictures side by side under a caption; ``in_row``: kept in one row, which scrolls where it is too long."""

    kind: ClassVar[str] = "gallery"
    caption: str
    pictures: Sequence[Picture]
    in_row: bool = False


Cell = str | Picture
MOST_ROWS = 1000  # of a table with a row a class


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells; the first column names its row. ``words``: the columns that are not numbers, beside the first.

    ``folded``: what stands in its place until it is opened; empty: it is open.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[int] = frozenset()
    folded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing, a title, what it shows in words and numbers, and its numbers as a table."""

    kind: ClassVar[str] = "chart"
    svg: Markup
    title: str
    summary: str
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """Charts beside each other where there is room."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Lines to be typed or read as they are; ``label`` says what they are."""

    kind: ClassVar[str] = "code"
    label: str
    lines: Sequence[str]


Block = Facts | Note | Gallery | Table | Charts | Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A heading and what is under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section with its own place in the navigation: ``name`` is its id."""

    name: str
    title: str
    intro: str
    blocks: Sequence[Block] = ()
    parts: Sequence[Part] = field(default=())


def per_cent(share: float, digits: int = 1) -> str:
    """``43.2 %``, in one piece."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def count_of(number: int, what: str, many: str = "") -> str:
    """``1 image``, ``2 images``, ``1,234 classes``."""
    return f"{number:,} {what if number == 1 else many or what + 's'}"
