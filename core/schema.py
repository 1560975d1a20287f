"""Convert values from outside (JSON, checkpoints) to the types that dataclass annotations declare.

A field that is missing, unknown or of another type is a ``ValueError`` that names it, raised here and not later.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

from alexstream.core.text import quote_value

T = TypeVar("T")
_INT64 = range(-(1 << 63), 1 << 63)
_MOST_DIGITS = 4000  # of a whole number; none of ours has more than 20


class FieldsError(ValueError):
    """An object has an unknown field (``is_unknown``), or lacks a required one."""

    def __init__(self, message: str, is_unknown: bool) -> None:
        super().__init__(message)
        self.is_unknown = is_unknown


def parse_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError for invalid JSON, non-finite numbers, or nesting too deep to be any of ours."""
    try:
        return json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float, parse_int=_parse_int)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name[:20]} is not a number")


def _parse_int(text: str) -> int:
    if len(text) > _MOST_DIGITS:  # Python's own limit depends on its settings, and its message advises to change them
        raise ValueError(f"a whole number of {len(text):,} digits, expected {_MOST_DIGITS} at most")
    return int(text)


def _parse_float(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text)


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """Convert ``value``, as ``json.loads`` returned it, to ``kind``: a dataclass, tuple, dict or plain type.

    Raises FieldsError for unknown or missing fields; ValueError, naming field and type, for anything else; and whatever
    ``__post_init__`` raises.
    """
    if is_dataclass(kind):
        return cast(T, _to_dataclass(kind, value, where))
    origin, args = get_origin(kind), get_args(kind)
    if origin is types.UnionType and types.NoneType in args:
        (other,) = (arg for arg in args if arg is not types.NoneType)
        return cast(T, None if value is None else from_json(other, value, where))
    if origin is tuple and isinstance(value, list | tuple):
        return cast(T, _to_tuple(args, value, where))
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return cast(T, {key: from_json(args[1], inner, f"{where}[{quote_value(key)}]") for key, inner in value.items()})
    if kind is Any or (origin is Literal and _is_choice(value, args)) or _has_plain_type(kind, value):
        return cast(T, float(value) if kind is float else value)
    raise ValueError(f"{where or 'it'} is {_format_value(value)}, expected {_type_name(kind)}")


def _to_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'it'} is {_format_value(value)}, expected an object")
    hints, start = _type_hints(kind), f"{where}." if where else ""
    known = {one.name: one for one in fields(kind)}
    unknown = sorted(set(value) - set(known), key=str)
    required = {name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    missing = sorted(required - set(value))
    if unknown or missing:
        name = str((unknown or missing)[0])[:100]
        raise FieldsError(f"{start}{name} is {'not a known field' if unknown else 'missing'}", bool(unknown))
    return kind(**{name: from_json(hints[name], inner, start + name) for name, inner in value.items()})


@lru_cache
def _type_hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _to_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ValueError(f"{where or 'it'} has {len(value)} entries, expected {len(args)}")
    return tuple(from_json(arg, inner, f"{where}[{i}]") for i, (arg, inner) in enumerate(zip(args, value, strict=True)))


def _is_choice(value: Any, choices: tuple[Any, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in choices)


def _has_plain_type(kind: Any, value: Any) -> bool:
    """Return whether a value is text, a boolean, or a number of at most 64 bits; True is no number."""
    if kind is float:
        return type(value) is float or (type(value) is int and value in _INT64)
    if kind is int:
        return type(value) is int and value in _INT64
    return type(value) is kind


def _format_value(value: Any) -> str:
    if type(value) is float:
        return f"{value:.3g}"
    return quote_value(value, 50) if isinstance(value, str | int) else f"of type {type(value).__name__}"


def _type_name(kind: Any) -> str:
    return str(kind) if isinstance(kind, types.GenericAlias) or get_origin(kind) else kind.__name__
