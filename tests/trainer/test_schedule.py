"""The learning rate: divided by ten when the validation error stops improving, three times."""

import pytest

from trainer.recipe import Recipe
from trainer.schedule import learning_rate

RECIPE = Recipe(patience_epochs=2)
NAN = float("nan")


@pytest.mark.parametrize(
    ("errors", "rate"),
    [
        ([], 0.01),
        ([0.9, 0.8, 0.7], 0.01),
        ([0.9, 0.9], 0.01),
        ([0.9, 0.9, 0.9], 0.001),
        ([0.9, 0.95, 0.8, 0.9], 0.01),
        ([0.9, 0.9, 0.9, 0.9], 0.001),
        ([0.9] * 5, 0.0001),
        ([0.9] * 7, 0.00001),
        ([0.9] * 99, 0.00001),
        ([NAN] * 99, 0.01),
    ],
)
def test_rate_after_errors(errors, rate):
    assert learning_rate(errors, RECIPE) == pytest.approx(rate)
