"""Pure: epochs so far and their validation errors → what the next epoch is trained with.

Section 5: the rate is divided by 10 when the validation error stops improving; or a script says (``Recipe.phases``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.recipe import Phase, Recipe


def phase_after(errors: Sequence[float], recipe: Recipe) -> Phase:
    """The rates for the epoch after those whose top-1 validation errors (0..1; nan: not measured) are given."""
    epoch = len(errors)
    if recipe.phases:
        return [phase for phase in recipe.phases if phase.start <= epoch][-1]
    rate = recipe.learning_rate / recipe.rate_divisor ** _drops(errors, recipe)
    return Phase(start=epoch, rate=rate, conv1_rate=rate, bias_rate=rate * recipe.bias_rate_factor)


def _drops(errors: Sequence[float], recipe: Recipe) -> int:
    """One each time ``patience_epochs`` epochs in a row bring no new lowest error, ``rate_drops`` at most."""
    best, waited, drops = float("inf"), 0, 0
    for error in errors:
        if math.isnan(error):
            continue
        waited = 0 if error < best else waited + 1
        best = min(best, error)
        if waited == recipe.patience_epochs and drops < recipe.rate_drops:
            drops, waited = drops + 1, 0
    return drops
