"""Parse a file of options (TOML), whoever wrote it, in memory of the order of its size."""

from __future__ import annotations

import re
import tomllib
from typing import Any

MAX_BYTES = 256 << 10  # of a file of options: this program writes less than 64 KiB
_MAX_DOTS = 64  # outside texts, in a line: tomllib takes memory by the square of the dots in a key
_TEXT = re.compile(r""""(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?""")


def parse_toml(content: bytes) -> dict[str, Any]:
    """Return the values of a file of options; file names in it need not be valid UTF-8.

    Raises ValueError, or RecursionError, if it is not TOML, if it is longer than ``MAX_BYTES``, or for a line with
    longer keys than any option has.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes, the limit for a file of options")
    text = content.decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):
        # Where a text of several lines begins or ends, what is text is not known here, so that all of it counts.
        outside = line if '"""' in line or "'''" in line else _TEXT.sub("", line)
        if outside.count(".") > _MAX_DOTS:
            raise ValueError(f"line {number} has more than {_MAX_DOTS} dots outside texts, as no option's name has")
    return tomllib.loads(text)
