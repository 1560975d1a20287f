"""Batches made ahead in a thread: the same ones, no more than may wait, errors in their place, nothing left behind."""

import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from alexstream.pipeline.prefetch import prefetch
from tests.support import ROOT


def numbers(count, log, fail_at=None):
    try:
        for i in range(count):
            if i == fail_at:
                raise OSError(f"no number {i}")
            log.append(i)
            yield i
    finally:
        log.append("closed")


@pytest.fixture(name="threads")
def new_threads():
    """A function that lists the threads started since; streams that other tests have left may still hold theirs."""
    gc.collect()
    before = set(threading.enumerate())
    mine = "alexstream-prefetch"
    return lambda: [t for t in {*threading.enumerate()} - before if t.name == mine and not t.finished.is_set()]


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("depth", [1, 3])
def test_the_same_batches_come_in_order_and_then_the_thread_ends(depth, threads):
    log = []
    assert list(prefetch(numbers(20, log), depth)) == list(range(20))
    assert log == [*range(20), "closed"] and not threads()


def test_no_more_is_made_than_may_wait(threads):
    log = []
    stream = prefetch(numbers(100, log), 2)
    assert next(stream) == 0
    assert eventually(lambda: len(log) == 4)  # the first, two that wait, and one that has no place yet
    time.sleep(0.3)
    assert len(log) == 4
    stream.close()
    assert log[-1] == "closed" and not threads()


def test_an_error_comes_after_the_batches_before_it(threads):
    log, got = [], []
    with pytest.raises(OSError, match="no number 3"):
        for number in prefetch(numbers(9, log, fail_at=3), 2):
            got.append(number)
    assert got == [0, 1, 2] and log[-1] == "closed" and not threads()


def test_what_an_error_leaves_behind_goes_with_it():
    """A pipeline that outlives its error would end in one of its own threads, whenever that collects garbage."""

    class Pipeline:
        pass

    def run(pipeline):
        raise OSError("no batch")

    def batches():
        pipeline = Pipeline()
        seen.append(weakref.ref(pipeline))
        yield run(pipeline)

    seen = []
    gc.disable()
    try:
        with pytest.raises(OSError, match="no batch"):
            list(prefetch(batches(), 1))
        assert seen[0]() is None
    finally:
        gc.enable()


def test_a_stream_that_nobody_holds_any_more_ends(threads):
    log = []
    stream = prefetch(numbers(100, log), 1)
    next(stream)
    del stream
    gc.collect()
    assert eventually(lambda: not threads()) and log[-1] == "closed"


def test_a_program_that_ends_in_the_middle_ends():
    program = """
import itertools
from alexstream.pipeline.prefetch import prefetch
stream = prefetch((i for i in itertools.count()), 1)
print(next(stream))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_closing_takes_no_lock_of_the_threading_module():
    """The collector may close a stream in a thread that is being started, and that holds this lock already."""
    batches, held, closed = prefetch(iter_forever(), 1), threading.Event(), threading.Event()
    next(batches)

    def close():
        held.wait()
        batches.close()
        closed.set()

    threading.Thread(target=close, daemon=True).start()
    with threading._shutdown_locks_lock:
        held.set()
        assert closed.wait(20)


def iter_forever():
    while True:
        yield 1
