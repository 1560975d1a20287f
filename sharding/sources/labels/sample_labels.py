"""Parse the label of a WebDataset sample, a number or a class name, from its ``.cls`` or ``.json``; pure.

Anything else is a ValueError with what was found: a guessed label is a class that is silently wrong.
"""

from __future__ import annotations

import re
from typing import Any

from alexstream.core.schema import parse_json
from alexstream.core.text import quote_value

Label = int | str
_KEYS = ("label", "cls")  # of a JSON sidecar; one of these is preferred to all others
_OTHER_KEYS = (
    "class", "class_id", "class_idx", "class_index", "class_label", "class_name", "classname",
    "label_id", "label_idx", "label_index", "label_name", "target", "category", "category_id", "category_name",
)  # fmt: skip
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NO_VALUES = {"nan", "+nan", "-nan", "inf", "+inf", "-inf", "null", "None"}
_BLANKS = " \t\r\n"


def parse_cls_label(data: bytes) -> Label | None:
    r"""Parse a ``.cls``: ``7``, ``7.0`` or a class name, surrounded by blanks; None for an empty file.

    Raises ValueError for anything else. Control characters are not blanks: ``\t\0`` is a binary 9.
    """
    if not data:
        return None
    try:
        text = data.decode("utf-8-sig").strip(_BLANKS)
    except UnicodeDecodeError:
        text = ""
    if not text or any(one < " " or one == "\x7f" for one in text):
        binary = " (a binary number?)" if len(data) in (1, 2, 4, 8) else ""
        raise ValueError(f"is {len(data):,} bytes that are no text{binary}: {quote_value(data[:16])}")
    return _parse_text(text)


def parse_json_label(data: bytes) -> Label | None:
    """Parse the label in a JSON sidecar; None if no field holds one. Raises ValueError for any other value."""
    held = parse_json(data)
    if not isinstance(held, dict):
        raise ValueError(f"is in a JSON {_describe_type(held)}, expected an object with a field 'label'")
    names = [name for name in _KEYS if name in held][:1] or [name for name in _OTHER_KEYS if name in held]
    if len(names) > 1:
        raise ValueError(
            f"may be any of {', '.join(map(quote_value, names))}, expected one of these fields, or 'label'"
        )
    return _parse_value(held[names[0]]) if names else None


def find_contradiction(label: Label, data: bytes) -> Label | None:
    """Return another label in the field ``label`` or ``cls`` of a JSON sidecar beside a ``.cls``; None for none.

    Numbers are compared with numbers and words with words: a number may have a name, too.
    """
    try:
        held = parse_json(data)
        other = _parse_value(held[next(name for name in _KEYS if name in held)])
    except (ValueError, TypeError, StopIteration):
        return None
    return other if type(other) is type(label) and other != label else None


def list_json_fields(data: bytes) -> list[str]:
    """Return the field names of a JSON object; [] for anything else."""
    try:
        held = parse_json(data)
    except ValueError:
        return []
    return list(held) if isinstance(held, dict) else []


def _parse_value(value: Any) -> Label | None:
    if isinstance(value, str):
        return _parse_text(value.strip(_BLANKS)) if value.strip(_BLANKS) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {_describe_type(value)}")
    return _to_whole_number(float(value) if isinstance(value, float) else value, str(value))


def _parse_text(text: str) -> Label:
    if _NUMBER.fullmatch(text):
        return _to_whole_number(int(text) if text.lstrip("+-").isdigit() and len(text) < 20 else float(text), text)
    if text[0] in "[{" or text in _NO_VALUES or text.lower() in _NO_VALUES:
        raise ValueError(f"is {quote_value(text[:40])}")
    if any(one < " " or one == "\x7f" for one in text):
        raise ValueError(f"is {quote_value(text[:40])}, which holds control characters")
    return text


def _to_whole_number(value: float, shown: str) -> int:
    if value < 0 or value != value // 1 or value >= 1 << 53:
        raise ValueError(f"is {shown[:40]}, no number of a class")
    return int(value)


def _describe_type(value: Any) -> str:
    names = {bool: f"{value}".lower(), list: f"list {value}"[:40], dict: "object", type(None): "null", str: "text"}
    return names.get(type(value), f"number {value}")
