"""Report progress on stderr, with rate and time left: a bar on a terminal, a line every 20 s in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

DELAY_S = 2.0  # no report for work shorter than this
LINE_S = 20.0  # between lines in a log


def progress_bar(total: int, unit: str, what: str, *, quiet: bool = False) -> Any:
    """Return a tqdm of ``total`` items, a context manager; ``what``: the activity, ``unit``: plural of the items."""
    kind, every = (_Bar, 0.1) if sys.stderr.isatty() else (_LogProgress, LINE_S)
    return kind(total=total, unit=unit, desc=what, disable=quiet, delay=DELAY_S, mininterval=every, smoothing=0.1)


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
        self._print_line(f"{seen['n']:,} of {seen['total']:,} {self.unit}, {rate:,.1f} {self.unit}/s, {left} left")

    def close(self) -> None:
        """Print a summary, unless the work was too short to report."""
        if self.disable:
            return
        self.disable = True
        seen = self.format_dict
        if seen["elapsed"] >= self.delay:
            took, rate = self.format_interval(seen["elapsed"]), seen["n"] / max(seen["elapsed"], 1e-9)
            self._print_line(f"{seen['n']:,} {self.unit} in {took}, {rate:,.1f} {self.unit}/s")
        self._decr_instances(self)

    def _print_line(self, text: str) -> None:
        self.fp.write(f"{self.desc.removesuffix(': ')}: {text}\n")
        self.fp.flush()
