"""What the recipes are, field by field, with the paper's section or the line of the program that says so."""

from dataclasses import asdict, fields, replace
from itertools import pairwise

import pytest

from alexstream.trainer.errors import TrainError
from alexstream.trainer.recipe import (
    ORIGINAL,
    PAPER,
    RECIPES,
    WIDTHS,
    Phase,
    Recipe,
    make_recipe,
    scale_to_run,
    with_rate_drops,
)

# Krizhevsky, Sutskever and Hinton (2012); what it does not print is marked by "-".
PAPER_IS = {
    "name": ("paper", "-"),
    "learning_rate": (0.01, "section 5: initialized at 0.01"),
    "bias_rate_factor": (1.0, "section 5: an equal learning rate for all layers"),
    "momentum": (0.9, "section 5"),
    "weight_decay": (0.0005, "section 5"),
    "bias_decay": (True, "section 5: the rule excepts nothing"),
    "rate_divisor": (10.0, "section 5: divide the learning rate by 10"),
    "rate_drops": (3, "section 5: reduced three times prior to termination"),
    "patience_epochs": (5, "- (docs/decisions/0004)"),
    "phases": ((), "section 5: when the validation error rate stopped improving"),
    "weight_sd": (0.01, "section 5: zero-mean Gaussian with standard deviation 0.01"),
    "upper_conv_sd": (0.01, "section 5: in each layer"),
    "dropout": (0.5, "section 4.2: with probability 0.5"),
    "lrn_k": (2.0, "section 3.3"),
    "lrn_maps": (5, "section 3.3"),
    "lrn_alpha": (1e-4, "section 3.3, times the plain sum"),
    "lrn_beta": (0.75, "section 3.3"),
    "lrn_before_relu": (False, "section 3.3: after applying the ReLU nonlinearity"),
    "spatial_norm": (False, "- (the program's alone)"),
    "activation": ("relu", "section 3.1"),
    "lrn": (True, "section 3.3"),
    "pool_size": (3, "section 3.4: s = 2, z = 3"),
    "columns": (2, "section 3.5, figure 2"),
    "columns_talk": (True, "section 3.2: the GPUs communicate only in certain layers"),
    "removed": ("", "section 7"),
    "sixth_conv": (False, "section 6"),
    "width": (1.0, "section 3.5"),
}
# computerhistory/AlexNet-Source-Code at 2f8b81f; fields that are not named here are those of PAPER_IS.
ORIGINAL_IS = {
    "name": ("original", "-"),
    "bias_rate_factor": (2.0, "layer-params-120-4gpu:1-7: epsB 0.02 beside epsW 0.01"),
    "bias_decay": (False, "layer.cu:565"),
    "upper_conv_sd": (0.03, "layers-145.cfg:135-218: initW of conv3, conv4, conv5"),
    "lrn_alpha": (2e-5, "layer.py:1183: the scale, 1e-4, is divided by the size, 5"),
    "lrn_before_relu": (True, "layers-145.cfg:9-63: conv1 has no neuron, pool1 has ReLU"),
    "spatial_norm": (True, "layers-145.cfg:107-117: cnorm2"),
    "phases": (
        # epochs that are finished before; rate of weights, of conv1's weights, of biases; noise: layer-params-145-2010
        (
            {"start": 0, "rate": 1e-2, "conv1_rate": 1e-2, "bias_rate": 2e-2, "lighting": True},  # epoch 1
            {"start": 22, "rate": 1e-3, "conv1_rate": 1e-3, "bias_rate": 2e-3, "lighting": True},  # epoch 23
            {"start": 50, "rate": 1e-4, "conv1_rate": 1e-4, "bias_rate": 2e-3, "lighting": True},  # epoch 51
            {"start": 67, "rate": 1e-4, "conv1_rate": 1e-5, "bias_rate": 2e-3, "lighting": False},  # epoch 68
            {"start": 71, "rate": 1e-4, "conv1_rate": 0.0, "bias_rate": 2e-3, "lighting": False},  # epoch 72
            {"start": 77, "rate": 1e-5, "conv1_rate": 0.0, "bias_rate": 2e-3, "lighting": False},  # epoch 78
        ),
        "layer-params-145-2010:170-176",
    ),
}


def values(table):
    return {name: value for name, (value, _source) in table.items()}


def test_the_paper_is_what_it_prints():
    assert asdict(PAPER) == values(PAPER_IS)
    assert [field.name for field in fields(Recipe)] == list(PAPER_IS)
    assert Recipe() == PAPER


def test_the_original_is_what_the_program_and_its_notes_say():
    assert asdict(ORIGINAL) == values(PAPER_IS) | values(ORIGINAL_IS)


def test_recipes_are_found_by_their_names():
    assert RECIPES == {"paper": PAPER, "original": ORIGINAL}


def test_the_widths_are_those_of_the_help():
    assert WIDTHS == (1.0, 0.5, 0.25, 0.125)
    for width in (1.0, 0.5, 0.25, 0.125):
        assert Recipe(width=width).width == width


def phase(start, **changes):
    return Phase(**{"start": start, "rate": 0.01, "conv1_rate": 0.01, "bias_rate": 0.01, **changes})


@pytest.mark.parametrize("starts", [(1,), (1, 2), (0, 3, 2), (0, 2, 2)])
def test_phases_begin_with_the_first_epoch_and_rise(starts):
    with pytest.raises(TrainError, match="expected 0 first, then rising"):
        Recipe(phases=tuple(phase(start) for start in starts))


def test_scripted_drops_keep_the_biases_own_rate():
    """``--recipe original --drop-after 2``: biases at twice the rate before and after."""
    recipe = make_recipe("original", epochs=4, learning_rate=0.01, patience=5, drop_after="2")
    assert [(p.start, p.rate, p.conv1_rate, p.bias_rate) for p in recipe.phases] == [
        (0, pytest.approx(0.01), pytest.approx(0.01), pytest.approx(0.02)),
        (2, pytest.approx(0.001), pytest.approx(0.001), pytest.approx(0.002)),
    ]
    assert all(p.lighting for p in recipe.phases)
    assert with_rate_drops(replace(PAPER, rate_divisor=4.0), (1,)).phases[1].rate == pytest.approx(0.0025)


def test_the_script_of_twenty_epochs():
    """22, 50, 67, 71 and 77 of 93 epochs are 4.7, 10.8, 14.4, 15.3 and 16.6 of 20."""
    phases = scale_to_run(ORIGINAL, 0.02, 20).phases
    assert [asdict(p) for p in phases] == [
        pytest.approx(row)
        for row in (
            {"start": 0, "rate": 2e-2, "conv1_rate": 2e-2, "bias_rate": 4e-2, "lighting": True},
            {"start": 5, "rate": 2e-3, "conv1_rate": 2e-3, "bias_rate": 4e-3, "lighting": True},
            {"start": 11, "rate": 2e-4, "conv1_rate": 2e-4, "bias_rate": 4e-3, "lighting": True},
            {"start": 14, "rate": 2e-4, "conv1_rate": 2e-5, "bias_rate": 4e-3, "lighting": False},
            {"start": 15, "rate": 2e-4, "conv1_rate": 0.0, "bias_rate": 4e-3, "lighting": False},
            {"start": 17, "rate": 2e-5, "conv1_rate": 0.0, "bias_rate": 4e-3, "lighting": False},
        )
    ]


def test_what_is_chosen_is_what_was_asked_for():
    recipe = make_recipe("paper", epochs=7, learning_rate=0.02, patience=3, lrn=False, pool_size=2)
    assert recipe == replace(PAPER, learning_rate=0.02, patience_epochs=3, lrn=False, pool_size=2)
    with pytest.raises(TrainError, match=r"`name`: received 'caffe', expected one of paper, original"):
        make_recipe("caffe", epochs=7, learning_rate=0.02, patience=3)


def test_a_recipe_of_a_checkpoint_comes_back_and_says_where_it_differs():
    assert Recipe.from_dict(asdict(ORIGINAL)) == ORIGINAL and Recipe.from_dict(asdict(PAPER)) == PAPER
    old = {name: value for name, value in asdict(PAPER).items() if name not in ("phases", "width")}
    assert Recipe.from_dict(old) == PAPER  # by a version that had neither
    assert PAPER.differences(replace(PAPER, momentum=0.8)) == {"momentum": (0.9, 0.8)}


@pytest.mark.parametrize("epochs", range(1, 94))
def test_no_two_phases_of_a_short_run_begin_in_the_same_epoch(epochs):
    starts = [phase.start for phase in scale_to_run(ORIGINAL, 0.01, epochs).phases]
    assert starts[0] == 0 and starts[-1] < epochs
    assert all(one < two for one, two in pairwise(starts))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dropout", 1.0), ("dropout", -0.1), ("pool_size", 0), ("pool_size", 1 << 40), ("lrn_maps", 0),
        ("lrn_maps", 1 << 40), ("lrn_k", 0.0), ("momentum", float("nan")), ("learning_rate", float("inf")),
    ],
)  # fmt: skip
def test_numbers_with_which_nothing_computes_are_refused(field, value):
    """They come from checkpoints: no option sets most of them."""
    with pytest.raises(TrainError, match=f"{field}: received"):
        replace(PAPER, **{field: value})


def test_rates_of_phases_are_numbers():
    with pytest.raises(TrainError, match="conv1_rate: received nan"):
        replace(PAPER, phases=(Phase(start=0, rate=0.1, conv1_rate=float("nan"), bias_rate=0.1),))
