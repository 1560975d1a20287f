"""Pure: validation errors so far → learning rate (section 5: divide by 10 when the error stops improving)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.recipe import Recipe


def learning_rate(errors: Sequence[float], recipe: Recipe) -> float:
    """The rate for the epoch after those whose top-1 validation errors (0..1; nan: not measured) are given.

    The rate is divided each time ``patience_epochs`` epochs in a row bring no new lowest error, counted anew
    after each division, ``rate_drops`` times at most.
    """
    best, waited, drops = float("inf"), 0, 0
    for error in errors:
        if math.isnan(error):
            continue
        waited = 0 if error < best else waited + 1
        best = min(best, error)
        if waited == recipe.patience_epochs and drops < recipe.rate_drops:
            drops, waited = drops + 1, 0
    return recipe.learning_rate / recipe.rate_divisor**drops
