"""The geometry is the paper's, in one process and cut into two columns."""

import pytest
import torch

from alexstream.trainer.errors import TrainError
from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import (
    count_parameters,
    cut_parameter,
    join_parameter,
    make_initial_parameters,
    make_layers,
    parameter_shapes,
)
from alexstream.trainer.network.model import AlexNet
from alexstream.trainer.recipe import ORIGINAL, PAPER, Recipe


def test_parameters_at_1000_classes():
    assert count_parameters(1000) == 60_965_224


def test_a_real_network_has_that_many():
    model = AlexNet(make_initial_parameters(1000, PAPER, 0), Columns(), PAPER, 0)
    assert sum(p.numel() for p in model.parameters()) == 60_965_224


def test_kernels_and_widths_are_those_of_section_3_5():
    shapes = parameter_shapes(1000)
    assert shapes["conv1.weight"] == (96, 3, 11, 11)
    assert shapes["conv2.weight"] == (256, 48, 5, 5)
    assert shapes["conv3.weight"] == (384, 256, 3, 3)
    assert shapes["conv4.weight"] == (384, 192, 3, 3)
    assert shapes["conv5.weight"] == (256, 192, 3, 3)
    assert shapes["fc6.weight"] == (4096, 9216)
    assert shapes["fc7.weight"] == (4096, 4096)
    assert shapes["fc8.weight"] == (1000, 4096)


def test_each_column_holds_half_of_every_weight():
    whole, half = parameter_shapes(10), parameter_shapes(10, columns=2)
    for name in whole:
        halves = [cut_parameter(name, torch.empty(whole[name]), c) for c in range(2)]
        assert all(tuple(h.shape) == half[name] for h in halves)


@pytest.mark.parametrize("name", sorted(parameter_shapes(5)))
def test_joining_the_halves_gives_the_canonical_parameter(name):
    whole = torch.randn(parameter_shapes(5)[name])
    halves = [cut_parameter(name, whole, column) for column in range(2)]
    assert torch.equal(join_parameter(name, halves), whole)


def test_start_values_are_those_of_section_5():
    start = make_initial_parameters(10, PAPER, 0)
    ones = {"conv2", "conv4", "conv5", "fc6", "fc7"}
    for layer in make_layers(10):
        bias, weight = start[f"{layer.name}.bias"], start[f"{layer.name}.weight"]
        assert torch.equal(bias, torch.full_like(bias, 1.0 if layer.name in ones else 0.0))
        assert abs(weight.std().item() - 0.01) < 0.0005 and abs(weight.mean().item()) < 0.0005


def test_start_values_depend_on_the_seed_alone():
    a, b, c = (make_initial_parameters(10, PAPER, seed)["conv1.weight"] for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_program_s_upper_convolutions_start_wider():
    start = make_initial_parameters(10, ORIGINAL, 0)
    names = ("conv1", "conv2", "conv3", "conv4", "conv5")
    sd = {name: round(start[f"{name}.weight"].std().item(), 3) for name in names}
    assert sd == {"conv1": 0.01, "conv2": 0.01, "conv3": 0.03, "conv4": 0.03, "conv5": 0.03}


def seen_by(recipe, monkeypatch):
    """The shapes that come out of the convolutions for one image."""
    model = AlexNet(make_initial_parameters(2, recipe, 0), Columns(), recipe, 0)
    seen, layer = {}, model._apply_layer
    monkeypatch.setattr(model, "_apply_layer", lambda name, x: seen.setdefault(name, layer(name, x)))
    model(torch.zeros(1, 3, 224, 224))
    return {name: tuple(y.shape[1:]) for name, y in seen.items()}


def test_conv1_gives_55_by_55_with_the_last_window_over_the_edge(monkeypatch):
    """The original's rule: 1 + ceil((224 − 11) / 4) outputs; the 3 missing pixels read as zero."""
    seen = seen_by(PAPER, monkeypatch)
    assert seen["conv1"] == (96, 55, 55) and seen["conv2"] == (256, 27, 27) and seen["conv5"] == (256, 13, 13)


@pytest.mark.parametrize(
    ("changes", "shapes", "parameters"),
    [
        ({"columns": 1}, {"conv1.weight": (48, 3, 11, 11), "conv3.weight": (192, 128, 3, 3)}, None),
        ({"columns": 1}, {"conv5.weight": (256, 192, 3, 3), "fc6.weight": (4096, 9216)}, None),
        ({"columns_talk": False}, {"conv3.weight": (384, 128, 3, 3), "fc6.weight": (4096, 4608)}, None),
        ({"columns_talk": False}, {"fc7.weight": (4096, 2048), "fc8.weight": (1000, 4096)}, None),
        ({"removed": "conv3"}, {"conv4.weight": (384, 128, 3, 3)}, None),
        ({"removed": "conv5"}, {"fc6.weight": (4096, 384 * 36)}, None),
        ({"sixth_conv": True}, {"conv6.weight": (256, 128, 3, 3)}, 60_965_224 + 256 * 128 * 9 + 256),
        ({"pool_size": 2, "activation": "tanh", "lrn": False}, {}, 60_965_224),
        ({"width": 0.125}, {"conv1.weight": (12, 3, 11, 11), "fc6.weight": (512, 32 * 36)}, None),
    ],
)
def test_ablations_have_their_shapes_and_run(changes, shapes, parameters, monkeypatch):
    recipe = Recipe(**changes)
    made = parameter_shapes(1000, recipe=recipe)
    assert {name: made[name] for name in shapes} == shapes
    assert parameters is None or count_parameters(1000, recipe) == parameters
    assert ("conv6" in seen_by(recipe, monkeypatch)) == recipe.sixth_conv


@pytest.mark.parametrize("changes", [{"removed": "conv1"}, {"removed": "fc6"}, {"columns": 3}, {"width": 0.3}])
def test_networks_that_cannot_be_are_refused(changes):
    with pytest.raises(TrainError, match="received"):
        Recipe(**changes)
