"""Text for people."""

import pytest

from alexstream.core.text import format_duration, format_significant


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"), (41.6, "42 s"), (99.4, "99 s"), (100.0, "2 min"), (90 * 60, "90 min"), (100 * 60, "1 h 40 min"),
        (3720, "62 min"), (6120, "1 h 42 min"), (7320, "2 h 02 min"), (47 * 3600 + 59 * 60, "47 h 59 min"),
        (48 * 3600, "2 d 00 h"), (76 * 3600, "3 d 04 h"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"), (12345.6, "12,346"), (1234.5678, "1,235"), (12.3456, "12.35"), (0.00123456, "0.001235"),
        (-0.5, "-0.5000"), (1.5e-9, "1.500e-09"), (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_four_digits_that_count(number, text):
    assert format_significant(number) == text
