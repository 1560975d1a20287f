"""The learning rate: divided by ten when the validation error stops improving, three times."""

from dataclasses import replace
from itertools import pairwise

import pytest

from alexstream.trainer.errors import TrainError
from alexstream.trainer.optim.schedule import choose_phase
from alexstream.trainer.recipe import ORIGINAL, PAPER, Recipe, make_recipe, scale_to_run, with_rate_drops

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
        ([0.8, 0.9, 0.85], 0.001),  # better than the epoch before is no new lowest
        ([0.8, 0.9, NAN, 0.85], 0.001),
        ([0.9, 0.9, 0.9, 0.8, 0.9], 0.001),
        ([0.9, 0.9, 0.9, 0.8, 0.9, 0.9], 0.0001),
        ([0.9, 0.9, 0.9, 0.9], 0.001),
        ([0.9] * 5, 0.0001),
        ([0.9] * 7, 0.00001),
        ([0.9] * 99, 0.00001),
        ([NAN] * 99, 0.01),
    ],
)
def test_rate_after_errors(errors, rate):
    phase = choose_phase(errors, RECIPE)
    assert phase.rate == phase.conv1_rate == phase.bias_rate == pytest.approx(rate)
    assert phase.lighting


def test_biases_keep_their_factor_after_a_drop():
    phase = choose_phase([0.9] * 3, replace(RECIPE, bias_rate_factor=2.0))
    assert (phase.rate, phase.conv1_rate, phase.bias_rate) == pytest.approx((0.001, 0.001, 0.002))
    assert phase.start == 3


def script(recipe, epochs):
    return [choose_phase([0.5] * epoch, recipe) for epoch in range(epochs)]


def test_the_program_s_script_is_that_of_its_notes():
    """Epochs counted from 1, as in layer-params-145-2010: drops at 23 and 51, noise off at 68, conv1 frozen at 72."""
    phases = script(ORIGINAL, 93)
    rates = {1: 1e-2, 22: 1e-2, 23: 1e-3, 50: 1e-3, 51: 1e-4, 77: 1e-4, 78: 1e-5, 93: 1e-5}
    assert {epoch: phases[epoch - 1].rate for epoch in rates} == rates
    assert [p.conv1_rate for p in phases[66:72]] == [1e-4, 1e-5, 1e-5, 1e-5, 1e-5, 0.0]
    assert [p.lighting for p in phases] == [True] * 67 + [False] * 26
    assert {p.bias_rate for p in phases[:22]} == {0.02} and {p.bias_rate for p in phases[22:]} == {0.002}


def test_a_script_is_stretched_to_the_length_of_the_run():
    short = scale_to_run(ORIGINAL, 0.02, 10)
    assert [phase.start for phase in short.phases] == [0, 2, 5, 7, 8]
    assert short.phases[-1].rate == pytest.approx(2e-5) and short.phases[-1].conv1_rate == 0.0
    assert scale_to_run(ORIGINAL, 0.01, 93) == ORIGINAL and scale_to_run(PAPER, 0.01, 7) == PAPER


LR, FROZEN = 0.002, 0.0
# Epochs → of each epoch: how often the weights' rate was divided by ten, and conv1's (None: frozen), and the noise.
SHORT_RUNS = {
    1: [(0, 0, True)],
    2: [(0, 0, True), (1, 1, True)],
    3: [(0, 0, True), (1, 1, True), (2, 2, True)],
    4: [(0, 0, True), (1, 1, True), (2, 2, True), (3, None, False)],
    5: [(0, 0, True), (1, 1, True), (1, 1, True), (2, 2, True), (3, None, False)],
    6: [(0, 0, True), (1, 1, True), (1, 1, True), (2, 2, True), (2, 3, False), (3, None, False)],
}


@pytest.mark.parametrize("epochs", SHORT_RUNS)
def test_a_short_run_starts_at_the_rate_given_and_drops_once_at_a_time(epochs):
    phases = script(scale_to_run(ORIGINAL, LR, epochs), epochs)
    expected = [
        pytest.approx((LR / 10**rate, FROZEN if conv1 is None else LR / 10**conv1, noise))
        for rate, conv1, noise in SHORT_RUNS[epochs]
    ]
    assert [(phase.rate, phase.conv1_rate, phase.lighting) for phase in phases] == expected
    assert [phase.bias_rate for phase in phases] == pytest.approx([2 * LR] + [LR / 5] * (epochs - 1))


@pytest.mark.parametrize("epochs", [*range(1, 101), 186, 930])
def test_a_script_of_any_length_keeps_its_order_and_never_drops_twice_at_once(epochs):
    phases = script(scale_to_run(ORIGINAL, LR, epochs), epochs)
    assert phases[0].rate == phases[0].conv1_rate == LR and phases[0].bias_rate == 2 * LR and phases[0].lighting
    for before, after in pairwise(phases):
        assert after.rate in (before.rate, pytest.approx(before.rate / 10))
        assert after.conv1_rate in (before.conv1_rate, pytest.approx(before.conv1_rate / 10), FROZEN)
        assert after.bias_rate in (before.bias_rate, pytest.approx(before.bias_rate / 10))
        assert before.lighting or not after.lighting
    drops = [epoch for epoch, pair in enumerate(pairwise(phases), 1) if pair[1].rate < pair[0].rate]
    assert len(drops) == min(3, epochs - 1)
    places = [22 * epochs / 93, 50 * epochs / 93, 77 * epochs / 93]
    assert all(abs(drop - place) <= 0.5 for drop, place in zip(drops, places, strict=False)) or epochs <= 3
    assert len({(phase.rate, phase.conv1_rate) for phase in phases}) == 6 or epochs < 17  # no phase is left out


def test_scripted_drops():
    rates = [phase.rate for phase in script(with_rate_drops(PAPER, (2, 4)), 6)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])
    assert make_recipe("paper", epochs=6, learning_rate=0.01, patience=5, drop_after="2,4") == with_rate_drops(
        PAPER, (2, 4)
    )


@pytest.mark.parametrize("text", [" ", "a", "3,2", "0,4", "6", "2,2"])
def test_drops_that_cannot_be_are_refused(text):
    with pytest.raises(TrainError, match="`drop_after`: received"):
        make_recipe("paper", epochs=6, learning_rate=0.01, patience=5, drop_after=text)
