"""The learning rate: divided by ten when the validation error stops improving, three times."""

import pytest

from trainer.errors import TrainError
from trainer.recipe import ORIGINAL, PAPER, Recipe, chosen, for_run, scripted
from trainer.schedule import phase_after

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
    phase = phase_after(errors, RECIPE)
    assert phase.rate == phase.conv1_rate == phase.bias_rate == pytest.approx(rate)
    assert phase.lighting


def script(recipe, epochs):
    return [phase_after([0.5] * epoch, recipe) for epoch in range(epochs)]


def test_the_program_s_script_is_that_of_its_notes():
    """Epochs counted from 1, as in layer-params-145-2010: drops at 23 and 51, noise off at 68, conv1 frozen at 72."""
    phases = script(ORIGINAL, 93)
    rates = {1: 1e-2, 22: 1e-2, 23: 1e-3, 50: 1e-3, 51: 1e-4, 77: 1e-4, 78: 1e-5, 93: 1e-5}
    assert {epoch: phases[epoch - 1].rate for epoch in rates} == rates
    assert [p.conv1_rate for p in phases[66:72]] == [1e-4, 1e-5, 1e-5, 1e-5, 1e-5, 0.0]
    assert [p.lighting for p in phases] == [True] * 67 + [False] * 26
    assert {p.bias_rate for p in phases[:22]} == {0.02} and {p.bias_rate for p in phases[22:]} == {0.002}


def test_a_script_is_stretched_to_the_length_of_the_run():
    short = for_run(ORIGINAL, 0.02, 10)
    assert [phase.start for phase in short.phases] == [0, 2, 5, 7, 8]
    assert short.phases[-1].rate == pytest.approx(2e-5) and short.phases[-1].conv1_rate == 0.0
    assert for_run(ORIGINAL, 0.01, 93) == ORIGINAL and for_run(PAPER, 0.01, 7) == PAPER


def test_scripted_drops():
    rates = [phase.rate for phase in script(scripted(PAPER, (2, 4)), 6)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])
    assert chosen("paper", epochs=6, learning_rate=0.01, patience=5, drop_after="2,4") == scripted(PAPER, (2, 4))


@pytest.mark.parametrize("text", [" ", "a", "3,2", "0,4", "6", "2,2"])
def test_drops_that_cannot_be_are_refused(text):
    with pytest.raises(TrainError, match="--drop-after: received"):
        chosen("paper", epochs=6, learning_rate=0.01, patience=5, drop_after=text)
