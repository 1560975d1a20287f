"""CONTRACT: the blocks of a report. Modules of sections build them, ``page`` and its templates render them.

All text in them is plain text and is escaped; the only markup is ``Chart.svg``, which ``charts`` makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Names and values, one pair a line."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A short paragraph; ``strong``: highlighted."""

    kind: ClassVar[str] = "note"
    text: str
    strong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image: ``uri`` holds its data, ``width`` and ``height`` are in pixels, ``lines`` are printed below it.

    ``is_match``: framed in green.
    """

    kind: ClassVar[str] = "picture"
    uri: str
    width: int
    height: int
    alt: str
    lines: tuple[str, ...] = ()
    is_match: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Pictures side by side under a caption; ``in_row``: in one row that scrolls, not wrapped."""

    kind: ClassVar[str] = "gallery"
    caption: str
    pictures: Sequence[Picture]
    in_row: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Galleries:
    """Small galleries, side by side where there is room."""

    kind: ClassVar[str] = "galleries"
    galleries: Sequence[Gallery]


Cell = str | Picture
MAX_ROWS = 1000  # in a table with one row per class


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells; the first cell of a row is its heading.

    ``words``: indexes of further columns that hold text, not numbers. ``folded``: the label that stands for the table
    until a reader opens it; empty for a table that is always open.
    """

    kind: ClassVar[str] = "table"
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[int] = frozenset()
    folded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart with title, a summary in words, for readers who do not see it, and its numbers as a table."""

    kind: ClassVar[str] = "chart"
    svg: Markup
    title: str
    summary: str
    table: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """Charts, side by side where there is room."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Lines of code or of a file, verbatim, under a label."""

    kind: ClassVar[str] = "code"
    label: str
    lines: Sequence[str]


Block = Facts | Note | Gallery | Galleries | Table | Charts | Code


@dataclass(frozen=True, slots=True, kw_only=True)
class Subsection:
    """A subsection: a heading and its blocks."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section with an entry in the page's navigation; ``name`` is its HTML id."""

    name: str
    title: str
    intro: str
    blocks: Sequence[Block] = ()
    parts: Sequence[Subsection] = field(default=())


def format_percent(share: float, digits: int = 1) -> str:
    """Format a fraction as ``43.2 %``, with a no-break space."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"
