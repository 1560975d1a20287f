"""Text for people: escape and quote what comes from outside, such as file names; counts and durations. Pure."""

from __future__ import annotations

import math
import re
import reprlib
import unicodedata
from bisect import bisect_right
from itertools import accumulate
from typing import Any

_JOINER = re.compile("(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")


def escape_unprintable(text: str) -> str:
    r"""Return ``text`` with everything unprintable as escapes: ``\n``, ``\x1b``, ``\u202e``, ``\udcff``.

    These are line ends, control characters, marks that change the writing direction, and undecodable bytes of file
    names; spaces of any width stay, and joiners between letters as Persian, Hindi and emoji are spelled with.
    """
    if text.isprintable():
        return text
    joiners = {found.start() for found in _JOINER.finditer(text)}
    return "".join(
        one if i in joiners or _is_displayable(one) else one.encode("unicode_escape").decode("ascii")
        for i, one in enumerate(text)
    )


def _is_displayable(one: str) -> bool:
    return one.isprintable() or unicodedata.category(one) == "Zs"


def to_one_line(text: str, most: int = 2000) -> str:
    """Return ``escape_unprintable(text)``.

    Beyond ``most`` characters its start and its end, where messages have the remedy.
    """
    text = escape_unprintable(text)
    half = most // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


def shorten(text: str, most: int) -> str:
    """Return at most ``most`` characters of ``escape_unprintable(text)``, with an ellipsis if there are more."""
    text = escape_unprintable(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def shorten_to_width(text: str, columns: int) -> str:
    """Return as ``shorten`` what fits into so many columns, of which a letter of Chinese takes two, a mark none."""
    text = escape_unprintable(text)
    widths = list(accumulate(map(_count_columns, text)))
    return text if not text or widths[-1] <= columns else text[: bisect_right(widths, columns - 1)] + "…"


def _count_columns(one: str) -> int:
    if unicodedata.category(one) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(one) in "WF" else 1


def count_of(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun: ``1 image``, ``2 images``, ``1,234 classes`` (``many`` where it is not + s)."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def format_duration(seconds: float) -> str:
    """Format a duration: ``42 s``, ``7 min``, ``1 h 02 min``, ``3 d 04 h``."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


def format_significant(number: float, digits: int = 4) -> str:
    """Format a number with at least so many significant digits: ``0.0001234``, ``12.34``, ``12,346``, ``0``."""
    if number == 0 or not math.isfinite(number):
        return f"{number:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(number)))
    return f"{number:,.{max(0, decimals)}f}" if decimals < digits + 4 else f"{number:.{digits - 1}e}"


def normalize_nfc(name: str) -> str:
    """Return a name in NFC, in which class names are compared: macOS stores é as two characters."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def quote_value(value: Any, most: int = 80) -> str:
    """Return a value from outside in quotes, as ``repr`` does, in about ``most`` characters, however large it is."""
    if type(value) is int:  # reprlib would format all digits first
        return str(value) if -(1 << 63) <= value < 1 << 63 else "a number of more than 64 bits"
    form = reprlib.Repr()
    form.maxstring = form.maxother = most
    form.maxlevel, form.maxlist, form.maxtuple, form.maxdict, form.maxset = 1, 3, 3, 3, 3
    text = form.repr(value[: 2 * most] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 4 * most else f"{text[: 4 * most]}…"
