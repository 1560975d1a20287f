"""The step after which all ranks stop: the same for each, and none that one of them has begun."""

import os
import signal
import threading

import pytest

from alexstream.trainer.distributed.stop import StopRequest, stop_on_interrupt


@pytest.fixture(autouse=True)
def heard_interrupts():
    """Python's own handler of SIGINT, which is ignored where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_all_ranks_stop_after_the_same_step_that_none_has_begun():
    stop = StopRequest(2)
    assert not stop.advance(0, 5) and not stop.advance(1, 5)
    assert not stop.advance(0, 6)  # rank 0 is one ahead, in step 7
    assert stop.request() and stop.is_requested
    assert not stop.advance(1, 6) and not stop.advance(1, 7) and stop.advance(1, 8)
    assert stop.request(), "a second request changes nothing"
    assert not stop.advance(0, 7) and stop.advance(0, 8)


def test_before_every_rank_has_begun_there_is_nothing_to_stop():
    stop = StopRequest(2)
    stop.advance(0, 0)
    assert not stop.request() and not stop.is_requested
    stop.advance(1, 0)
    assert stop.request()


def test_whatever_a_rank_does_is_progress():
    stop = StopRequest(1)
    seen = [stop.progress()]
    stop.advance(0, 1)
    seen.append(stop.progress())
    assert list(stop.count(0, "ab")) == ["a", "b"]
    seen.append(stop.progress())
    assert seen[0] < seen[1] < seen[2]


def test_the_first_interrupt_is_raised_when_the_run_has_stopped(capsys):
    stop = StopRequest(1)
    stop.advance(0, 3)
    before = signal.getsignal(signal.SIGINT)
    reached = False
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(stop, quiet=False):
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.advance(0, 5)
        reached = True
    assert reached and signal.getsignal(signal.SIGINT) is before
    assert "stopping after the step or validation in progress" in capsys.readouterr().err


def test_the_second_interrupt_does_not_wait():
    stop = StopRequest(1)
    stop.advance(0, 3)
    reached = []
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(stop, quiet=True):
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(1)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(2)
    assert reached == [1]


def test_without_progress_the_interrupt_comes_again(monkeypatch):
    monkeypatch.setattr("alexstream.trainer.distributed.stop.STALL_S", 0.3)
    stop = StopRequest(1)
    stop.advance(0, 3)
    never = threading.Event()
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(stop, quiet=True):
        os.kill(os.getpid(), signal.SIGINT)
        assert not never.wait(60), "it was not sent again"
        pytest.fail("it was not sent again")


def test_an_interrupt_before_the_first_step_is_raised_at_once():
    reached = False
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(StopRequest(2), quiet=True):
        os.kill(os.getpid(), signal.SIGINT)
        reached = True
    assert not reached


def test_a_signal_that_only_a_rank_had_interrupts_the_run_as_well():
    stop = StopRequest(1)
    stop.advance(0, 3)
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(stop, quiet=True):
        stop.request()
