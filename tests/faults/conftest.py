"""Trials: how often a fault is tried, from which seed, and a line in a log of what became of it.

A test that tries a promise is marked and loops over its trials, each with a random generator of its own::

    @pytest.mark.promise("a killed conversion ends with the same bytes", fault="SIGKILL", short=3, long=90)
    def test_...(trials, tmp_path):
        for chance in trials:
            ...

``ALEXSTREAM_TRIALS`` is ``long`` or a number; the default is the short run. ``ALEXSTREAM_SEED`` draws other trials,
``ALEXSTREAM_FIRST_TRIAL`` begins at one of them, and a failure says both. With ``ALEXSTREAM_TRIAL_LOG`` every test's
outcome is appended to that file (tests/faults/record.py).
"""

import os
import random
import re

import pytest

from tests.faults import record


class Trials:
    """``count`` trials from ``first``; ``done`` counts those that were finished."""

    def __init__(self, test, count, first, seed):
        self.test, self.count, self.first, self.seed = test, count, first, seed
        self.number, self.done = first, 0

    def __iter__(self):
        for number in range(self.first, self.first + self.count):
            self.number = number
            yield random.Random(f"{self.seed} {self.test} {self.number}")
            self.done += 1


@pytest.fixture
def trials(request):
    """The trials of a test that is marked with ``promise``."""
    mark = request.node.get_closest_marker("promise")
    wanted = os.environ.get("ALEXSTREAM_TRIALS", "short")
    count = mark.kwargs[wanted] if wanted in ("short", "long") else int(wanted)
    if not count:
        pytest.skip(f"only at length: ALEXSTREAM_TRIALS=long, or a number; here it is {wanted}")
    first, seed = (int(os.environ.get(f"ALEXSTREAM_{name}", 0)) for name in ("FIRST_TRIAL", "SEED"))
    request.node.trials = Trials(request.node.name, count, first, seed)
    return request.node.trials


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Note what became of a promise; a failure says how to repeat its trial."""
    report = yield
    trials, mark = getattr(item, "trials", None), item.get_closest_marker("promise")
    if trials is None or mark is None or call.when != "call" or report.skipped:
        return report
    if report.failed:
        words = f"ALEXSTREAM_SEED={trials.seed} ALEXSTREAM_FIRST_TRIAL={trials.number} ALEXSTREAM_TRIALS=1"
        report.sections.append(("trial", f"number {trials.number}; repeat with {words}"))
    count, outcome = (trials.done, "kept") if report.passed else (trials.done + 1, f"BROKEN in trial {trials.number}")
    test = re.sub(r"\[.*", "", item.nodeid)
    command = f"ALEXSTREAM_TRIALS={trials.count} python -m pytest {test}"
    record.note(mark.args[0], mark.kwargs["fault"].format(**params(item)), count, outcome, command)
    return report


def params(item):
    """Values of a test's parameters, by name; a fault's words may contain them in braces."""
    return item.callspec.params if hasattr(item, "callspec") else {}
