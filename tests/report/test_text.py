"""What comes from outside is shown as it is, or as an escape."""

import os

import pytest

from alexstream.core.text import escape_unprintable, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tench, Tinca tinca", "tench, Tinca tinca"),
        ("Äpfel 🍎 日本", "Äpfel 🍎 日本"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ("turned\u202egnp", r"turned\u202egnp"),
        (os.fsdecode(b"no \xff text"), r"no \udcff text"),
    ],
)
def test_what_cannot_be_printed_is_an_escape(text, shown):
    assert escape_unprintable(text) == shown
    escape_unprintable(text).encode()


def test_long_text_ends_in_an_ellipsis():
    assert shorten("abcdef", 6) == "abcdef" and shorten("abcdefg", 6) == "abcde…" and shorten("\n" * 9, 5) == r"\n\n…"
