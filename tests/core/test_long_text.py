"""Long messages keep their start and their end, where the remedy stands."""

import re

from alexstream.core.text import shorten, to_one_line


def test_a_message_that_fits_is_whole():
    assert to_one_line("x" * 2000) == "x" * 2000


def test_a_longer_one_has_its_start_and_its_end():
    text = "what went wrong: " + "x" * 5000 + "; do this"
    said = to_one_line(text, most=100)
    assert re.fullmatch(r"what went wrong: x{33} … x{41}; do this", said)


def test_a_shortened_one_has_only_its_start():
    assert shorten("abcdef", 6) == "abcdef" and shorten("abcdefg", 6) == "abcde…"
