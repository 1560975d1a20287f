"""Medians, their spread, and ratios of things that were measured in turn.

A machine has slow minutes. So what is compared is measured in turn, once a round, and compared round by round: what is
common to a round cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median, smallest and largest of ``n`` measurements of one thing."""

    median: float
    smallest: float
    largest: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError if there are none."""
        if not values:
            raise ValueError("nothing was measured")
        return cls(median=float(np.median(values)), smallest=min(values), largest=max(values), n=len(values))

    def text(self, form: str = ",.0f") -> str:
        """``6,550 (6,400-6,610)``."""
        return f"{self.median:{form}} ({self.smallest:{form}}-{self.largest:{form}})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median over ``n`` rounds of one thing ÷ another, and its 95 % confidence interval (bootstrap over the rounds)."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, numerators: Sequence[float], denominators: Sequence[float], seed: int = 0) -> Ratio:
        """Of two things measured in the same rounds. Raises ValueError if their numbers differ, or are 0."""
        if len(numerators) != len(denominators) or not numerators:
            raise ValueError(f"rounds: received {len(numerators)} and {len(denominators)}, expected as many of both")
        ratios = np.asarray(numerators) / np.asarray(denominators)
        drawn = np.random.default_rng(seed).choice(ratios, (RESAMPLES, len(ratios)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        return cls(median=float(np.median(ratios)), low=float(low), high=float(high), n=len(ratios))

    def text(self) -> str:
        """``1.004 (95 %: 0.998-1.011, n = 7)``."""
        return f"{self.median:.3f} (95 %: {self.low:.3f}-{self.high:.3f}, n = {self.n})"


def in_turn(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every measure once a round, each round beginning with the next one: nobody always comes first."""
    names = list(measures)
    results: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            results[name].append(measures[name]())
    return results
