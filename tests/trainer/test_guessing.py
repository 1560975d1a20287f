"""A network that has learned nothing is told of, once there were steps enough to learn something."""

import math

import pytest

from alexstream.trainer.guessing import describe_guessing

LN_10 = 2.302585


def test_a_network_that_guesses_is_named_with_both_losses():
    hint = describe_guessing(1000, [9.0] * 50 + [LN_10] * 100, 10)
    assert "after 1,000 steps" in hint and "2.303 in the last 100 steps" in hint and "10 classes gives 2.303" in hint
    assert hint.endswith("try half the `learning_rate`")


@pytest.mark.parametrize(
    ("step", "loss", "count", "classes"),
    [
        (299, LN_10, 299, 10),  # too early
        (300, LN_10, 99, 10),  # resumed 99 steps ago
        (300, 2.27, 100, 10),  # 1.4 % better than guessing
        (300, LN_10, 100, 1000),  # ln 1000 is 6.9
        (300, math.nan, 100, 10),
        (300, 0.0, 100, 1),
    ],
)
def test_nothing_is_said_of_one_that_learns_or_had_no_time_to(step, loss, count, classes):
    assert describe_guessing(step, [loss] * count, classes) == ""


def test_the_loss_of_few_steps_decides_nothing():
    """Of 100 losses one is that of a network that knows: the mean is still that of guessing."""
    assert describe_guessing(300, [LN_10] * 99 + [1.5], 10)
