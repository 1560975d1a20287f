"""What is waited for is said when that takes long, on a clock of the test's own."""

import threading

import pytest

from alexstream.trainer.distributed import watchdog
from alexstream.trainer.distributed.watchdog import StallWatchdog


class Clock:
    """Stands for the clock and for the event by which the looking ends, half a second a look."""

    def __init__(self):
        self.now, self.end, self.at = 0.0, 0.0, {}

    def wait(self, seconds):
        self.now += seconds
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()
        return self.now > self.end


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: made.now)
    return made


@pytest.fixture
def one(clock, monkeypatch):
    """Looks only when it is told to."""
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    made = StallWatchdog("rank 1", 2.0)
    made._ended = clock
    return made


def said(one, clock, capsys, end):
    clock.end = end
    one._poll()
    return capsys.readouterr().err.splitlines()


def test_it_is_said_after_two_seconds_and_whenever_that_has_doubled(one, clock, capsys):
    with one.watch("the disk"):
        assert said(one, clock, capsys, 17.0) == [f"rank 1 has waited {s} s for the disk" for s in (2, 4, 8, 16)]


def test_nothing_is_said_of_short_waits_and_of_none(one, clock, capsys):
    assert said(one, clock, capsys, 10.0) == []
    entered = one.watch("the disk")
    clock.at = {13.0: entered.__enter__, 14.5: lambda: entered.__exit__(None, None, None)}
    assert said(one, clock, capsys, 20.0) == []


def test_a_new_wait_counts_from_its_beginning(one, clock, capsys):
    first, second = one.watch("the disk"), one.watch("rank 0")
    clock.at = {1.0: first.__enter__, 8.0: lambda: first.__exit__(None, None, None), 8.5: second.__enter__}
    lines = said(one, clock, capsys, 13.0)
    assert lines == [
        "rank 1 has waited 2 s for the disk",
        "rank 1 has waited 4 s for the disk",
        "rank 1 has waited 2 s for rank 0",
        "rank 1 has waited 4 s for rank 0",
    ]


def test_of_waits_in_each_other_the_inner_one_is_said_and_then_the_outer(one):
    with one.watch("outer"):
        with one.watch("inner"):
            assert one._wait.what == "inner"
        assert one._wait.what == "outer"
    assert one._wait is None
    with pytest.raises(ZeroDivisionError), one.watch("what fails"):
        raise ZeroDivisionError
    assert one._wait is None


def test_values_are_handed_on_and_waited_for(one):
    seen = []

    def values():
        for i in range(3):
            seen.append(one._wait.what)
            yield i

    assert list(one.each(values(), "the data")) == [0, 1, 2] and seen == ["the data"] * 3
    assert one._wait is None


def test_a_limit_is_reached_once_and_given_up_if_nobody_leaves(one, clock, capsys):
    given_up, over = [], []
    one._give_up = given_up.append
    with one.watch("rank 0", limit_s=5.0) as wait:
        clock.at = {4.5: lambda: over.append(wait.is_over), 5.5: lambda: over.append(wait.is_over)}
        said(one, clock, capsys, 8.5)
        assert over == [False, True] and not given_up
        said(one, clock, capsys, 9.5)
        assert given_up == ["rank 0 for 5 s"]


def test_a_pause_of_the_process_is_no_waiting(one, clock, capsys):
    """Stopped for a minute after 3 of the 5 seconds that a wait may take."""
    given_up = []
    one._give_up = given_up.append

    def pause():
        clock.now += 60.0

    with one.watch("rank 0", limit_s=5.0) as wait:
        clock.at = {3.0: pause}
        assert said(one, clock, capsys, 64.5) == [
            "rank 1 has waited 2 s for rank 0",
            "rank 1 has waited 4 s for rank 0",
        ]
        assert not wait.is_over and not given_up
        said(one, clock, capsys, 66.0)
        assert wait.is_over and not given_up


def test_a_late_look_is_no_pause(one, clock, capsys):
    def late():
        clock.now += 2.0

    with one.watch("rank 0", limit_s=5.0) as wait:
        clock.at = {3.0: late}
        said(one, clock, capsys, 5.0)
        assert wait.is_over
