"""Values from outside (JSON, checkpoints) → the types that dataclasses say; the one place where such are judged.

A field that is missing, unknown or of another type is a ``ValueError`` that names it, never a surprise later on.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
_INT64 = range(-(1 << 63), 1 << 63)


def parsed(text: str | bytes) -> Any:
    """A JSON text as Python values. Raises ValueError for what is none, or is nested too deeply to be any of ours."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name[:20]} is no number")


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def decoded(kind: type[T], value: Any, where: str = "") -> T:
    """``value``, as ``json.loads`` gave it, as a dataclass, or what else its fields are annotated with.

    Raises ValueError, naming the field and the type, for anything else; whatever ``__post_init__`` raises.
    """
    if is_dataclass(kind):
        return cast(T, _record(kind, value, where))
    origin, args = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        return cast(T, _sequence(args, value, where))
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return cast(T, {key: decoded(args[1], inner, f"{where}[{key!r}]") for key, inner in value.items()})
    if kind is Any or (origin is Literal and _is_among(value, args)) or _is_plain(kind, value):
        return cast(T, float(value) if kind is float else value)
    raise ValueError(f"{where or 'it'} is {_shown(value)}, expected {_named(kind)}")


def _record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'it'} is {_shown(value)}, expected an object")
    hints, start = _hints(kind), f"{where}." if where else ""
    known = {one.name: one for one in fields(kind)}
    unknown = sorted(set(value) - set(known), key=str)
    required = {name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    missing = sorted(required - set(value))
    if unknown or missing:
        raise ValueError(f"{start}{(unknown or missing)[0]} is {'no field' if unknown else 'missing'}")
    return kind(**{name: decoded(hints[name], inner, start + name) for name, inner in value.items()})


@lru_cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _sequence(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if args[-1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ValueError(f"{where or 'it'} has {len(value)} entries, expected {len(args)}")
    return tuple(decoded(arg, inner, f"{where}[{i}]") for i, (arg, inner) in enumerate(zip(args, value, strict=True)))


def _is_among(value: Any, choices: tuple[Any, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in choices)


def _is_plain(kind: Any, value: Any) -> bool:
    """Whether a value is text, truth or a number that machines hold; True is no number here."""
    if kind is float:
        return type(value) is float or (type(value) is int and value in _INT64)
    if kind is int:
        return type(value) is int and value in _INT64
    return type(value) is kind


def _shown(value: Any) -> str:
    text = f"{value:.3g}" if type(value) is float else repr(value) if isinstance(value, str | bool) else ""
    if type(value) is int:
        text = str(value) if value in _INT64 else "a number of more than 64 bits"
    text = text or f"of type {type(value).__name__}"
    return text if len(text) < 60 else f"{text[:57]}…"


def _named(kind: Any) -> str:
    return str(kind) if isinstance(kind, types.GenericAlias) or get_origin(kind) else kind.__name__
