"""Render sections to one HTML file, which loads nothing, runs no scripts, and escapes all text from outside."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from alexstream.core.text import escape_unprintable
from alexstream.report.blocks import Section

# Content security policy: pictures and styles are part of the page; nothing else may be fetched or run.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# A run of Hebrew, Arabic or the like: from a letter to the last one, of words that stand side by side.
_RTL = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
_RIGHT_TO_LEFT = re.compile(f"([{_RTL}](?:[ {_RTL}]*[{_RTL}])?)")


def render(title: str, sections: Sequence[Section]) -> str:
    """Render the page; return its HTML."""
    environment = Environment(
        loader=PackageLoader("alexstream.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape_unprintable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["isolate"] = isolate_directions
    return environment.get_template("page.html").render(
        title=title,
        sections=sections,
        policy=POLICY,
        version=version("alexstream"),
        today=f"{datetime.date.today():%-d %B %Y}",
    )


def isolate_directions(text: str) -> Markup:
    """Escape a text and isolate what is written from right to left, lest numbers that follow join it."""
    parts = _RIGHT_TO_LEFT.split(escape_unprintable(text))  # what lies between the runs, and every run
    return Markup("").join(Markup("<bdi>{}</bdi>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _escape_unprintable(value: Any) -> Any:
    """Escape unprintable characters in text; leave our own markup, and values that are no text, unchanged."""
    return escape_unprintable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
