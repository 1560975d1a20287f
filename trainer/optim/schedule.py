"""Learning-rate schedule: the rates of the next epoch, from the validation errors so far. Pure.

Section 5: the rate is divided by 10 when the validation error stops improving; or ``Recipe.phases`` fix the rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from alexstream.trainer.recipe import Phase, Recipe


def choose_phase(errors: Sequence[float], recipe: Recipe) -> Phase:
    """Return the rates for the epoch after those with these top-1 validation errors (0..1; NaN: not measured)."""
    epoch = len(errors)
    if recipe.phases:
        return [phase for phase in recipe.phases if phase.start <= epoch][-1]
    rate = recipe.learning_rate / recipe.rate_divisor ** _count_rate_drops(errors, recipe)
    return Phase(start=epoch, rate=rate, conv1_rate=rate, bias_rate=rate * recipe.bias_rate_factor)


def _count_rate_drops(errors: Sequence[float], recipe: Recipe) -> int:
    """Count the drops so far: one after every ``patience_epochs`` epochs without a new lowest error, in a row."""
    best, waited, drops = float("inf"), 0, 0
    for error in errors:
        if math.isnan(error):
            continue
        waited = 0 if error < best else waited + 1
        best = min(best, error)
        if waited == recipe.patience_epochs and drops < recipe.rate_drops:
            drops, waited = drops + 1, 0
    return drops
