"""Sections → one HTML file: nothing is loaded, nothing runs, and no text from outside becomes markup."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from report.blocks import Section
from report.text import plain

# What a browser may do with the page: show it. Pictures are in it, and so are styles; nothing is fetched or run.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=title,
        sections=sections,
        policy=POLICY,
        version=version("alexstream"),
        today=f"{datetime.date.today():%-d %B %Y}",
    )


def _shown(value: Any) -> Any:
    """Text with escapes for what is not printable; markup that is ours stays what it is."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value
