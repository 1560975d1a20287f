"""Pure: text from outside, such as file names and class names, as it may be shown on a terminal or a page."""

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


def one_line(text: str, most: int = 2000) -> str:
    """What ``plain`` makes of ``text``; of more than ``most`` characters the first and the last, where remedies are."""
    text = plain(text)
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"
