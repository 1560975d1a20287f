"""Values from outside: of the type that is annotated, or a ValueError that names the field."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexstream.core.schema import from_json, parse_json
from alexstream.core.text import escape_unprintable, to_one_line

INT64 = st.integers(-(2**63), 2**63 - 1)
REALS = st.floats(allow_nan=False, allow_infinity=False)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | REALS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=9,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    count: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float
    on: bool
    kind: Literal["jpeg", "raw"]
    pair: tuple[int, str]
    inners: tuple[Inner, ...]
    by_name: dict[str, Inner]
    anything: Any = None
    more: dict[str, float] = field(default_factory=dict)


INNERS = st.builds(Inner, count=INT64)
OUTERS = st.builds(
    Outer,
    name=st.text(),
    rate=REALS,
    on=st.booleans(),
    kind=st.sampled_from(["jpeg", "raw"]),
    pair=st.tuples(INT64, st.text()),
    inners=st.lists(INNERS, max_size=3).map(tuple),
    by_name=st.dictionaries(st.text(), INNERS, max_size=3),
    anything=ANY.filter(lambda value: value is not None),
    more=st.dictionaries(st.text(), REALS, max_size=3),
)
WHOLE = {"name": "a", "rate": 0.5, "on": True, "kind": "raw", "pair": [1, "b"], "inners": [{"count": 2}], "by_name": {}}


@settings(deadline=None)
@given(OUTERS)
def test_what_was_written_is_read_as_it_was(outer):
    assert from_json(Outer, parse_json(json.dumps(dataclasses.asdict(outer)))) == outer


@settings(deadline=None)
@given(ANY, st.sampled_from(sorted(WHOLE)))
def test_a_field_of_any_value_has_its_type_or_is_named(value, name):
    try:
        outer = from_json(Outer, {**WHOLE, name: value})
    except ValueError as error:
        assert name in str(error)
        return
    # Everything that was taken is what JSON holds of it, with its type; an int stands for a float.
    again = json.loads(json.dumps(dataclasses.asdict(outer)))[name]
    assert again == value and (type(again) is type(value) or (type(again), type(value)) == (float, int))


@settings(deadline=None)
@given(st.binary(max_size=30) | ANY.map(lambda value: json.dumps(value).encode()))
def test_bytes_are_json_or_a_value_error(data):
    try:
        value = parse_json(data)
    except ValueError:
        return
    assert value == json.loads(data)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"rate": True}, "rate is True, expected float"),
        ({"on": 1}, "on is 1, expected bool"),
        ({"pair": [1]}, "pair has 1 entries, expected 2"),
        ({"inners": [{"count": 2}, {"count": 2.5}]}, "inners[1].count is 2.5, expected int"),
        ({"inners": [{"count": 1 << 63}]}, "inners[0].count is a number of more than 64 bits, expected int"),
        ({"by_name": {"b": {}}}, "by_name['b'].count is missing"),
        ({"kind": "png"}, "kind is 'png', expected typing.Literal['jpeg', 'raw']"),
        ({"extra": 1}, "extra is not a known field"),
    ],
)
def test_an_error_names_the_field_what_it_is_and_what_was_expected(changed, words):
    with pytest.raises(ValueError) as told:
        from_json(Outer, {**WHOLE, **changed})
    assert str(told.value) == words


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "[" * 100_000, "{'a': 1}", ""])
def test_what_json_does_not_allow_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


@settings(deadline=None)
@given(st.text(st.characters()))
def test_text_is_shown_on_one_line_and_never_commands_a_terminal(text):
    shown = escape_unprintable(text)
    assert shown == "".join(map(escape_unprintable, text)) and len(to_one_line(text * 99)) <= 2003
    assert all(one.isprintable() or one.isspace() for one in shown)
    assert not set(shown) & set("\n\r\t\x0b\x0c\x1b\x85\u2028\u2029\u202e")
