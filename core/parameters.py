"""Parameters that messages name, in the words of whoever reads them: Python's own, or the options of a command.

The library writes a parameter in single backquotes, as a field of ``ShardedData`` or an argument of ``train`` is
called: "give `cache_bytes` 300000 or more". A front end says what its users call them (``use_names``), and shows
messages through ``to_display``: "give --cache-size 300000 or more". Without one they stay as they are written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PARAMETER = re.compile(r"`([\w.]+)`")
_names: dict[str, str] = {}  # of this process; ranks are given those of their launcher


def use_names(names: Mapping[str, str]) -> None:
    """Set what users call the parameters, by parameter, in this process; empty for Python's names."""
    _names.clear()
    _names.update(names)


def list_names() -> dict[str, str]:
    """Return what ``use_names`` was given, for a process that is started."""
    return dict(_names)


def to_display(message: str) -> str:
    """Return a message with the parameters that it names called as users call them."""
    return _PARAMETER.sub(lambda found: _names.get(found[1], found[0]), message)
