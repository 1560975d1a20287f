"""Dropout masks: what they depend on, how many zeros they hold, and that known ones never change.

They are read from the outside, from a network whose fc6 gives ones and whose fc7 adds them up: a feature is zero where
fc7 dropped it, and its gradient reaches the bias of each fc6 activation that was kept.
"""

import hashlib
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import make_initial_parameters
from alexstream.trainer.network.model import AlexNet
from alexstream.trainer.recipe import PAPER

SMALL = replace(PAPER, width=0.125)
HIDDEN = 512  # 256 of each column
PLAIN = Columns()


def network(recipe=SMALL, columns=PLAIN, seed=0):
    """fc6 gives ones whatever the image; fc7 gives the sum of what fc6 kept, plus 1."""
    start = {name: torch.zeros_like(value) for name, value in make_initial_parameters(2, recipe, 0).items()}
    start |= {"fc6.bias": torch.ones(HIDDEN), "fc7.bias": torch.ones(HIDDEN)}
    start["fc7.weight"] = torch.ones(HIDDEN, HIDDEN)
    return AlexNet(start, columns, recipe, seed)


def kept(step, images=2, **options):
    """Where fc6 and fc7 keep an activation: layer → bool (images, 512)."""
    model = network(**options)
    features = model.features(torch.zeros(images, 3, 224, 224), step)
    bias = model.canonical_parameters()["fc6.bias"]
    reached = [torch.autograd.grad(one.sum(), bias, retain_graph=True)[0] for one in features]
    return {"fc6": torch.stack(reached) > 0, "fc7": features.detach() > 0}


def share_of_agreement(a, b):
    return (a == b).float().mean().item()


def test_another_mask_for_each_layer_column_image_step_and_seed():
    masks = {}
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        for layer, whole in kept(step, seed=seed).items():
            for image, row in enumerate(whole):
                for column, half in enumerate(row.chunk(2)):
                    masks[seed, step, layer, image, column] = half
    assert len(masks) == 3 * 2 * 2 * 2
    for one, other in combinations(masks, 2):
        # Fair coins agree in 128 of 256 places, ± 8; 64 to 192 is eight standard deviations.
        assert 0.25 < share_of_agreement(masks[one], masks[other]) < 0.75, (one, other)


def test_the_same_mask_whenever_step_and_seed_are_the_same():
    first, again = kept(7, seed=3), kept(7, seed=3)
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("dropout", [0.2, 0.5])
def test_the_share_of_zeros_is_what_the_recipe_says(dropout):
    for mask in kept(0, images=4, recipe=replace(SMALL, dropout=dropout)).values():
        count, zeros = mask.numel(), mask.numel() - mask.sum().item()
        assert abs(zeros - dropout * count) < 5 * (count * dropout * (1 - dropout)) ** 0.5


def test_masks_are_not_scaled_and_evaluation_multiplies_by_what_is_kept():
    """Section 4.2: zero or as it is in training, times 1 - p in evaluation; p is not ½, so that 1 - p is not p."""
    recipe = replace(SMALL, dropout=0.2)
    masks = kept(0, images=1, recipe=recipe)
    features = network(recipe).features(torch.zeros(1, 3, 224, 224), 0).detach()
    assert torch.equal(features, masks["fc7"] * (masks["fc6"].sum() + 1.0))
    evaluated = network(recipe).features(torch.zeros(1, 3, 224, 224)).detach()
    torch.testing.assert_close(evaluated, torch.full((1, HIDDEN), 0.8 * (0.8 * HIDDEN + 1)))


def test_replicas_take_their_rows_of_the_mask_of_the_whole_batch():
    whole = kept(4, images=4)
    for replica in range(2):
        part = kept(4, columns=Columns(replica=replica, replicas=2))
        for name in part:
            assert torch.equal(part[name], whole[name][2 * replica : 2 * replica + 2])


KNOWN = {  # layer: the first 32 places of either column of the first image, and the sha256 of all bits of two images
    "fc6": (
        "10111110111111000010010111101101",
        "11000100011110011000010001111110",
        "9868b9fb2a0e197d803cb966899320a3a0fede39a9afa9523db8eddce6f82841",
    ),
    "fc7": (
        "01100010111101001111110000100111",
        "11011101011100011110010101111111",
        "e4afa263f7b17d8f65fff7cd4413eae237be3c945ce61f6e87f7fcfe4620a64c",
    ),
}


@pytest.mark.parametrize("layer", KNOWN)
def test_known_masks_never_change(layer):
    """Of seed 42 and step 1000 at dropout ½: a new version goes on with the masks of an old one's checkpoint."""
    mask = kept(1000, seed=42)[layer]
    first, second = ("".join(map(str, half[:32].int().tolist())) for half in mask[0].chunk(2))
    bits = hashlib.sha256(mask.numpy().tobytes()).hexdigest()
    assert (first, second, bits) == KNOWN[layer]
