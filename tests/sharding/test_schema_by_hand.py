"""Values that look like another type's: truth for a number, a number for another, an entry too many."""

from dataclasses import dataclass
from typing import Literal

import pytest

from alexstream.core.schema import from_json


@dataclass(frozen=True, kw_only=True)
class Record:
    count: int
    share: float
    kind: Literal["a", 1]
    pair: tuple[int, int]


GOOD = {"count": 2, "share": 0.5, "kind": "a", "pair": [1, 2]}


@pytest.mark.parametrize("kind", ["a", 1])
def test_a_choice_is_taken_as_it_is(kind):
    assert from_json(Record, {**GOOD, "kind": kind}) == Record(count=2, share=0.5, kind=kind, pair=(1, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": True}, "count is True, expected int"),
        ({"count": 2.0}, "count is 2, expected int"),
        ({"share": True}, "share is True, expected float"),
        ({"kind": True}, "kind is True, expected "),  # True == 1
        ({"kind": 1.0}, "kind is 1, expected "),
        ({"pair": [1, 2, 3]}, "pair has 3 entries, expected 2"),
        ({"pair": [1]}, "pair has 1 entries, expected 2"),
        ({"pair": [1, False]}, r"pair\[1\] is False, expected int"),
    ],
)
def test_what_only_looks_like_it_is_refused(change, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        from_json(Record, {**GOOD, **change})
