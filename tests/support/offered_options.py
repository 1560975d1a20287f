"""Find the options that an error offers, each with what it says to give."""

import re
from typing import NamedTuple

from tests.support.source_layouts import LAST

_LEVEL = re.compile(
    r"(?:`source` (\S+) )?`classes_at` (\d|last)(?: for (?:(\d+) class(?:es)?(?: named by the tars)? \(([^)]*)\))?)?"
)


class Offer(NamedTuple):
    """An option of an error: parameters of a request, and the classes that it gives (None where it says none)."""

    options: dict
    num_classes: int | None = None
    classes: tuple[str, ...] = ()


def find_offers(message):
    """Return what an error offers of ``classes_at``, ``split``, and ``source`` alone."""
    found = []
    for source, level, count, names in _LEVEL.findall(message):
        options = {"classes_at": LAST if level == "last" else int(level)} | ({"src": source} if source else {})
        listed = tuple(name for name in names.split(", ") if name and name != "…")
        found.append(Offer(options, int(count) if count else None, listed))
    found += [Offer({"split": split}) for split in re.findall(r"`split` (train|val|test)\b", message)]
    found += [Offer({"src": source}) for source in re.findall(r"`source` (\S+)(?= for that)", message)]
    return found
