"""What comes from outside is shown as it is, or as an escape."""

import os

import pytest

from alexstream.core.text import escape_unprintable, shorten, shorten_to_width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tench, Tinca tinca", "tench, Tinca tinca"),
        ("Äpfel 🍎 日本", "Äpfel 🍎 日本"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred\x00", r"\x1b[31mred\x00"),
        ("turned\u202egnp", r"turned\u202egnp"),
        ("می\u200cخواهم क्\u200dष 👨\u200d👩", "می\u200cخواهم क्\u200dष 👨\u200d👩"),  # spelled with joiners
        ("a\u200db\u200d", r"a\u200db\u200d"),  # which hide between Latin letters
        (os.fsdecode(b"no \xff text"), r"no \udcff text"),
    ],
)
def test_what_cannot_be_printed_is_an_escape(text, shown):
    assert escape_unprintable(text) == shown
    escape_unprintable(text).encode()


def test_long_text_ends_in_an_ellipsis():
    assert shorten("abcdef", 6) == "abcdef" and shorten("abcdefg", 6) == "abcde…" and shorten("\n" * 9, 5) == r"\n\n…"


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abcdef", 6, "abcdef"), ("abcdefg", 6, "abcde…"), ("猫猫猫", 6, "猫猫猫"), ("猫猫猫猫", 6, "猫猫…"),
        ("a猫猫猫", 6, "a猫猫…"), ("e\u0301" * 6, 6, "e\u0301" * 6), ("", 6, ""),
    ],
)  # fmt: skip
def test_letters_of_two_columns_are_counted_as_two_and_marks_as_none(text, columns, shown):
    assert shorten_to_width(text, columns) == shown
