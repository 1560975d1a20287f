"""How a store is asked again: pauses that double, and how long that may take in all."""

import pytest

from alexstream.pipeline.cache.fetch import RetryPolicy


def test_pauses_double_and_the_first_attempt_waits_for_nothing():
    patience = RetryPolicy(attempts=5, backoff_s=0.5)
    assert [patience.pause_s(attempt) for attempt in range(5)] == [0.0, 0.5, 1.0, 2.0, 4.0]


def test_the_longest_silence_is_that_of_all_attempts_and_pauses():
    assert RetryPolicy(attempts=4, timeout_s=30.0, backoff_s=0.5).stall_s == 4 * 30.0 + 0.5 + 1.0 + 2.0


@pytest.mark.parametrize("field", ["chunk_bytes", "attempts", "timeout_s", "limit_s"])
def test_what_would_never_ask_is_refused(field):
    with pytest.raises(ValueError, match="expected positive numbers"):
        RetryPolicy(**{field: 0})
    assert RetryPolicy(backoff_s=0.0).pause_s(3) == 0.0  # asking again at once is a choice
