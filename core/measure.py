"""Statistics of interleaved measurements: medians with their spread, and ratios with confidence intervals.

The speed of a machine changes over minutes. So things to compare are measured in turn, once per round, and compared
within each round, where such changes cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

BOOTSTRAP_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median, smallest and largest of ``n`` measurements of the same quantity."""

    median: float
    smallest: float
    largest: float
    n: int

    @classmethod
    def from_values(cls, values: Sequence[float]) -> Spread:
        """Summarize measurements. Raises ValueError if there are none."""
        if not values:
            raise ValueError("nothing was measured")
        return cls(median=float(np.median(values)), smallest=min(values), largest=max(values), n=len(values))

    def to_text(self, form: str = ",.0f") -> str:
        """Return ``6,550 (6,400-6,610)``; of one measurement ``6,550``."""
        if self.n == 1:
            return f"{self.median:{form}}"
        return f"{self.median:{form}} ({self.smallest:{form}}-{self.largest:{form}})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median over ``n`` rounds of a ratio, and its 95 % confidence interval (bootstrap over the rounds)."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def from_rounds(cls, numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Ratio:
        """Compare two quantities measured in the same rounds. Raises ValueError for no rounds, or unequally many."""
        if len(numerators) != len(denominators) or not numerators:
            raise ValueError(f"rounds: received {len(numerators)} and {len(denominators)}, expected as many of both")
        ratios = np.asarray(numerators) / np.asarray(denominators)
        drawn = np.random.default_rng(seed).choice(ratios, (BOOTSTRAP_RESAMPLES, len(ratios)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        return cls(median=float(np.median(ratios)), low=float(low), high=float(high), n=len(ratios))

    def to_text(self) -> str:
        """Return ``1.004 (95 %: 0.998-1.011, n = 7)``; of one round, which has no interval, ``1.004 (n = 1)``."""
        if self.n == 1:
            return f"{self.median:.3f} (n = 1)"
        return f"{self.median:.3f} (95 %: {self.low:.3f}-{self.high:.3f}, n = {self.n})"


def measure_in_turn(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every measure once per round, and return its values by name; each round begins with another measure."""
    names = list(measures)
    results: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(measures[name]())
    return results
