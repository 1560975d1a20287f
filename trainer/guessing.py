"""Tell whether a network still guesses after hundreds of steps, and what may help."""

from __future__ import annotations

import math
from collections.abc import Sequence

from alexstream.core.parameters import to_display

WINDOW_STEPS = 100  # the last steps, whose mean loss is compared
TOLD_AT_STEPS = (300, 1_000, 3_000, 10_000)  # steps of a run at which train says so
BETTER_SHARE = 0.99  # a network has learned something once its loss is below this share of that of guessing


def describe_guessing(step: int, losses: Sequence[float], num_classes: int) -> str:
    """Describe a network whose last ``WINDOW_STEPS`` losses until ``step`` are no better than those of guessing.

    Empty if they are, if there are fewer losses, or before the first of ``TOLD_AT_STEPS``.
    """
    if step < TOLD_AT_STEPS[0] or len(losses) < WINDOW_STEPS or num_classes < 2:
        return ""
    mean, guessing = math.fsum(losses[-WINDOW_STEPS:]) / WINDOW_STEPS, math.log(num_classes)
    if not mean >= BETTER_SHARE * guessing:
        return ""
    return to_display(
        f"after {step:,} steps the network still guesses: its loss was {mean:.3f} in the last {WINDOW_STEPS} steps, "
        f"and guessing among {num_classes:,} classes gives {guessing:.3f}; with hundreds of classes that may last some "
        "thousand steps, with few ones try half the `learning_rate`"
    )
