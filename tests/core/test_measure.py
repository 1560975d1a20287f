"""Medians, ratios within rounds and their interval, and who is measured when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexstream.core.measure import Ratio, Spread, measure_in_turn

RATES = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=9)


def test_a_spread_is_the_median_with_the_smallest_and_the_largest():
    found = Spread.from_values([3.0, 1.0, 2.0, 10.0])
    assert (found.median, found.smallest, found.largest, found.n) == (2.5, 1.0, 10.0, 4)
    assert found.to_text(".1f") == "2.5 (1.0-10.0)"
    assert Spread.from_values([2.5]).to_text(".1f") == "2.5"  # one value has no spread
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.from_values([])


def test_a_ratio_is_taken_within_each_round():
    """A machine that is ten times slower in one round changes nothing."""
    found = Ratio.from_rounds([20.0, 2.0, 20.0], [10.0, 1.0, 10.0])
    assert (found.median, found.low, found.high, found.n) == (2.0, 2.0, 2.0, 3)
    assert Ratio.from_rounds([1.0, 2.0, 6.0], [1.0, 1.0, 2.0]).median == 2.0
    assert found.to_text() == "2.000 (95 %: 2.000-2.000, n = 3)"
    assert Ratio.from_rounds([3.0], [2.0]).to_text() == "1.500 (n = 1)"  # one round has no interval


def test_a_ratio_of_different_numbers_of_rounds_is_refused():
    with pytest.raises(ValueError, match="received 2 and 1"):
        Ratio.from_rounds([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="received 0 and 0"):
        Ratio.from_rounds([], [])


@given(RATES)
def test_the_interval_holds_the_median_and_stays_within_the_rounds(rates):
    above, below = zip(*rates, strict=True)
    found, ratios = Ratio.from_rounds(above, below), [a / b for a, b in rates]
    assert min(ratios) <= found.low <= found.median <= found.high <= max(ratios)


def test_every_round_begins_with_the_next_measure():
    order = []
    measures = {name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"}
    results = measure_in_turn(measures, 4)
    assert "".join(order) == "abcbcacababc"
    assert results == {"a": [1.0, 6.0, 8.0, 10.0], "b": [2.0, 4.0, 9.0, 11.0], "c": [3.0, 5.0, 7.0, 12.0]}
