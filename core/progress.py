"""Report progress on stderr, by time: what is done, with rate and time left; a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

from alexstream.core.text import escape_unprintable, format_duration

DELAY_S = 2.0  # no report for work shorter than this
FIRST_LINE_S = 5.0  # until the first line in a log: nobody wonders for longer whether anything happens
LINE_S = 20.0  # between lines in a log
_tells = False  # whether ``tell_activity`` prints in this process


def progress_bar(total: int, unit: str, what: str, *, quiet: bool = False) -> Any:
    """Return a tqdm of ``total`` items, a context manager; ``what``: the activity, ``unit``: plural of the items."""
    kind, every = (_Bar, 0.1) if sys.stderr.isatty() else (_LogProgress, FIRST_LINE_S)
    return kind(total=total, unit=unit, desc=what, disable=quiet, delay=DELAY_S, mininterval=every, smoothing=0.1)


@contextmanager
def tell_activities(tells: bool) -> Iterator[None]:
    """Let ``tell_activity`` print, or not, within the context: a command line does, a library is silent."""
    global _tells
    before, _tells = _tells, tells
    try:
        yield
    finally:
        _tells = before


def tells_activities() -> bool:
    """Return whether ``tell_activity`` prints, for a process that is started."""
    return _tells


@contextmanager
def tell_activity(what: str) -> Iterator[None]:
    """Print what is being done if it takes more than ``FIRST_LINE_S``, and again whenever the time has doubled.

    For work of unknown length: ``listing photos/, 10 s so far``.
    """
    if not _tells:
        yield
        return
    done = threading.Event()
    with suppress(RuntimeError):  # no thread can be started: the work goes on in silence
        threading.Thread(target=_tell, args=(what, done), name="alexstream-activity", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _tell(what: str, done: threading.Event) -> None:
    start, wait_s = time.monotonic(), FIRST_LINE_S
    while not done.wait(wait_s):
        elapsed_s = time.monotonic() - start
        print_progress(f"{what}, {format_duration(elapsed_s)} so far")
        wait_s = elapsed_s


def print_progress(text: str) -> None:
    """Print a line of progress on stderr."""
    sys.stderr.write(f"{escape_unprintable(text)}\n")
    sys.stderr.flush()


class _Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar that is closed in silence if Ctrl-C came while it was made."""

    disable: bool = True


class _LogProgress(_Bar):
    """A tqdm that prints whole lines and overwrites none."""

    def display(self, *_: Any, **__: Any) -> None:
        """Print ``shard train: 1,200 of 50,000 images, 81.3 images/s, 10:02 left``."""
        seen = self.format_dict
        rate = seen["rate"] or (seen["n"] / seen["elapsed"] if seen["elapsed"] else 0.0)
        left = self.format_interval((seen["total"] - seen["n"]) / rate) if rate else "?"
        self._print_line(
            f"{seen['n']:,} of {seen['total']:,} {self.unit}, {_format_rate(rate, self.unit)}, {left} left"
        )
        self.mininterval = LINE_S

    def close(self) -> None:
        """Print a summary, unless the work was too short to report."""
        if self.disable:
            return
        self.disable = True
        seen = self.format_dict
        if seen["elapsed"] >= self.delay:
            took, rate = self.format_interval(seen["elapsed"]), seen["n"] / max(seen["elapsed"], 1e-9)
            self._print_line(f"{seen['n']:,} {self.unit} in {took}, {_format_rate(rate, self.unit)}")
        self._decr_instances(self)

    def _print_line(self, text: str) -> None:
        self.fp.write(f"{self.desc.removesuffix(': ')}: {text}\n")
        self.fp.flush()


def _format_rate(rate: float, unit: str) -> str:
    """Return ``81.3 images/s``, or of slow work ``32 s each``."""
    return f"{1 / rate:,.0f} s each" if 0 < rate < 0.1 else f"{rate:,.1f} {unit}/s"
