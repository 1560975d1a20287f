"""Pure: text from outside, such as file names and class names, as a page shows it."""

from __future__ import annotations

from sharding.text import plain as plain


def short(text: str, most: int) -> str:
    """At most ``most`` characters of what ``plain`` makes of ``text``, with an ellipsis if there are more."""
    text = plain(text)
    return text if len(text) <= most else text[: most - 1] + "…"
