"""Progress on stderr, with rate and time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

SILENT_S = 2.0  # shorter work says nothing
LINE_S = 20.0  # between lines in a log


def progress(total: int, unit: str, what: str, *, quiet: bool = False) -> Any:
    """A tqdm of ``total`` things, closed by ``with``; ``what`` is being done, ``unit`` is their plural."""
    kind, every = (tqdm, 0.1) if sys.stderr.isatty() else (_Lines, LINE_S)
    return kind(total=total, unit=unit, desc=what, disable=quiet, delay=SILENT_S, mininterval=every, smoothing=0.1)


class _Lines(tqdm):  # type: ignore[misc]  # tqdm has no types
    """Whole lines, none of them written over."""

    disable: bool

    def display(self, *_: Any, **__: Any) -> None:
        """``shard train: 1,200 of 50,000 images, 81.3 images/s, 10:02 left``."""
        seen = self.format_dict
        rate = seen["rate"] or (seen["n"] / seen["elapsed"] if seen["elapsed"] else 0.0)
        left = self.format_interval((seen["total"] - seen["n"]) / rate) if rate else "?"
        self._say(f"{seen['n']:,} of {seen['total']:,} {self.unit}, {rate:,.1f} {self.unit}/s, {left} left")

    def close(self) -> None:
        """The last line says how it went; nothing where nothing was said."""
        if self.disable:
            return
        self.disable = True
        seen = self.format_dict
        if seen["elapsed"] >= self.delay:
            took, rate = self.format_interval(seen["elapsed"]), seen["n"] / max(seen["elapsed"], 1e-9)
            self._say(f"{seen['n']:,} {self.unit} in {took}, {rate:,.1f} {self.unit}/s")
        self._decr_instances(self)

    def _say(self, text: str) -> None:
        self.fp.write(f"{self.desc.removesuffix(': ')}: {text}\n")
        self.fp.flush()
