"""Pure: text from outside, such as file names and class names, as it may be shown."""

from __future__ import annotations

import unicodedata


def plain(text: str) -> str:
    r"""``text`` with all that is not printable as escapes: ``\n``, ``\x1b``, ``\u202e``, ``\udcff``.

    Line ends, control characters, marks that turn the direction of writing, and bytes of file names that are no text;
    spaces of any width are left.
    """
    if text.isprintable():
        return text
    return "".join(one if _is_shown(one) else one.encode("unicode_escape").decode("ascii") for one in text)


def _is_shown(one: str) -> bool:
    return one.isprintable() or unicodedata.category(one) == "Zs"


def short(text: str, most: int) -> str:
    """At most ``most`` characters of what ``plain`` makes of ``text``, with an ellipsis if there are more."""
    text = plain(text)
    return text if len(text) <= most else text[: most - 1] + "…"
