"""The whole network against one written out here in torch's own functions: outputs and gradients, in float64.

``WrittenOut`` shares nothing with ``trainer.network.model``: shapes, columns, padding and constants are spelled out,
and parameters are found by name. Widths are an eighth of the paper's.
"""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import make_initial_parameters, parameter_shapes
from alexstream.trainer.network.model import AlexNet
from alexstream.trainer.recipe import ORIGINAL, PAPER, Recipe

NUM_CLASSES, NUM_IMAGES, STEP = 7, 2, 5
HIDDEN = 512


@dataclass(frozen=True, kw_only=True)
class Net:
    """What distinguishes the networks below, in this test's own words; as it stands, the paper's."""

    columns: int = 2
    exchanges: bool = True
    activation: str = "relu"
    normalized: bool = True
    k: float = 2.0  # section 3.3
    alpha: float = 1e-4  # of the plain sum, section 3.3
    maps: int = 5
    beta: float = 0.75
    activation_after_pooling: bool = False  # in layer 1
    spatial: bool = False
    window: int = 3  # of pooling
    dropped: float = 0.5
    without: str = ""
    sixth: bool = False


PAPERS, PROGRAMS = Net(), Net(alpha=2e-5, activation_after_pooling=True, spatial=True)
NETS = {
    "paper": (PAPER, PAPERS),
    "original": (ORIGINAL, PROGRAMS),
    "tanh": (replace(PAPER, activation="tanh"), replace(PAPERS, activation="tanh")),
    "one column": (replace(PAPER, columns=1), replace(PAPERS, columns=1)),
    "without exchange": (replace(PAPER, columns_talk=False), replace(PAPERS, exchanges=False)),
    "without LRN": (replace(PAPER, lrn=False), replace(PAPERS, normalized=False)),
    "without overlap": (replace(PAPER, pool_size=2), replace(PAPERS, window=2)),
    "without dropout": (replace(PAPER, dropout=0.0), replace(PAPERS, dropped=0.0)),
    "dropout of a fifth": (replace(PAPER, dropout=0.2), replace(PAPERS, dropped=0.2)),
    "sixth convolution": (replace(PAPER, sixth_conv=True), replace(PAPERS, sixth=True)),
    "without conv2": (replace(PAPER, removed="conv2"), replace(PAPERS, without="conv2")),
    "without conv3": (replace(PAPER, removed="conv3"), replace(PAPERS, without="conv3")),
    "without conv4": (replace(PAPER, removed="conv4"), replace(PAPERS, without="conv4")),
    "without conv5": (replace(PAPER, removed="conv5"), replace(PAPERS, without="conv5")),
    "other constants of LRN": (
        replace(PAPER, lrn_k=1.5, lrn_alpha=3e-4, lrn_maps=3, lrn_beta=0.5),
        replace(PAPERS, k=1.5, alpha=3e-4, maps=3, beta=0.5),
    ),
    "original, tanh": (replace(ORIGINAL, activation="tanh"), replace(PROGRAMS, activation="tanh")),
    "original, one column": (replace(ORIGINAL, columns=1), replace(PROGRAMS, columns=1)),
    "original without LRN": (replace(ORIGINAL, lrn=False), replace(PROGRAMS, normalized=False)),
    "original without overlap": (replace(ORIGINAL, pool_size=2), replace(PROGRAMS, window=2)),
    "original without exchange, sixth convolution": (
        replace(ORIGINAL, columns_talk=False, sixth_conv=True),
        replace(PROGRAMS, exchanges=False, sixth=True),
    ),
}


def shapes(net):
    """Name → shape of the parameters, at an eighth of the paper's width."""
    kernels = {"conv1": 12, "conv2": 32, "conv3": 48, "conv4": 48, "conv5": 32}
    if net.columns == 1:  # docs/training.md: 48, 128, 192, 192 and 256 kernels
        kernels = {"conv1": 6, "conv2": 16, "conv3": 24, "conv4": 24, "conv5": 32}
    if net.sixth:
        kernels["conv6"] = 32
    kernels.pop(net.without, None)
    both = net.columns if not net.exchanges else 1  # what a layer that sees both columns divides its inputs by
    made, inputs = {}, 3
    for name, count in kernels.items():
        seen = {"conv1": inputs, "conv3": inputs // both}.get(name, inputs // net.columns)
        side = {"conv1": 11, "conv2": 5}.get(name, 3)
        made[name] = (count, seen, side, side)
        inputs = count
    made["fc6"], made["fc7"] = (HIDDEN, inputs * 36 // both), (HIDDEN, HIDDEN // both)
    made["fc8"] = (NUM_CLASSES, HIDDEN)
    return made


def drawn_parameters(net):
    """Weights that keep activations at about 100 grey levels, where every normalization has something to do."""
    generator = torch.Generator().manual_seed(3)
    made = {}
    for name, shape in shapes(net).items():
        fan_in = torch.Size(shape[1:]).numel()
        gain = {"conv1": 2.0, "fc8": 0.01}.get(name, 4.0 if name.startswith("conv") else 1.4)
        made[f"{name}.weight"] = torch.randn(shape, generator=generator, dtype=torch.float64) * gain / fan_in**0.5
        made[f"{name}.bias"] = torch.randn(shape[0], generator=generator, dtype=torch.float64)
    return made


def by_column(function, x, weight, bias, columns):
    """Each column's outputs from its own inputs alone, the first column's first."""
    half = [t.chunk(columns, axis) for t, axis in ((x, 1), (weight, 0), (bias, 0))]
    return torch.cat([function(*own) for own in zip(*half, strict=True)], 1)


@dataclass(frozen=True)
class WrittenOut:
    """The layers of one network, in order."""

    net: Net
    p: dict

    def __call__(self, images, masks):
        """Logits (N, classes); ``masks`` by layer in training, None in evaluation."""
        x = self.second(self.first(images))
        for name in ("conv3", "conv4", "conv5"):
            if self.net.without != name:
                x = self.activated(self.convolved(name, x, 1))
        x = self.pooled(x)
        if self.net.sixth:
            x = self.activated(self.convolved("conv6", x, 1))
        x = x.flatten(1)
        for name in ("fc6", "fc7"):
            columns = 1 if self.net.exchanges else self.net.columns
            x = self.activated(by_column(F.linear, x, *self.of(name), columns))
            if self.net.dropped:
                x = x * (1.0 - self.net.dropped if masks is None else masks[name])
        return F.linear(x, *self.of("fc8"))

    def first(self, images):
        x = F.conv2d(F.pad(images, (0, 3, 0, 3)), *self.of("conv1"), stride=4)
        assert x.shape[2:] == (55, 55)
        # tanh always follows its convolution; the program's ReLU of layer 1 follows the pooling.
        if self.net.activation_after_pooling and self.net.activation == "relu":
            return F.relu(self.pooled(self.normalized(x)))
        return self.pooled(self.normalized(self.activated(x)))

    def second(self, x):
        if self.net.without != "conv2":
            x = self.activated(self.convolved("conv2", x, 2))
        x = self.normalized(x)
        if self.net.spatial:  # layers-145.cfg "cnorm2": scale 1e-3, divided by the 25 pixels of a window
            sums = F.conv2d((x**2).flatten(0, 1)[:, None], x.new_ones(1, 1, 5, 5), padding=2)[:, 0].view_as(x)
            x = x / (1.0 + 1e-3 / 25 * sums) ** 0.75
        return self.pooled(x)

    def of(self, name):
        return self.p[f"{name}.weight"], self.p[f"{name}.bias"]

    def convolved(self, name, x, edge):
        sees_both = name == "conv3" and self.net.exchanges
        return by_column(F.conv2d, F.pad(x, (edge,) * 4), *self.of(name), 1 if sees_both else self.net.columns)

    def normalized(self, x):
        """Within each column, zero beyond its maps; the library's alpha is that of a mean over the maps."""
        if not self.net.normalized:
            return x
        size, k = self.net.maps, self.net.k
        columns = x.chunk(self.net.columns, 1)
        return torch.cat([F.local_response_norm(c, size, self.net.alpha * size, self.net.beta, k) for c in columns], 1)

    def pooled(self, x):
        return F.max_pool2d(x, self.net.window, 2)

    def activated(self, x):
        return torch.tanh(x) if self.net.activation == "tanh" else F.relu(x)


def drawn_images():
    generator = torch.Generator().manual_seed(1)
    return 60 * torch.randn(NUM_IMAGES, 3, 224, 224, generator=generator, dtype=torch.float64)


def drawn_masks(share):
    generator = torch.Generator().manual_seed(2)
    return {name: (torch.rand(NUM_IMAGES, HIDDEN, generator=generator) >= share).double() for name in ("fc6", "fc7")}


@pytest.fixture(scope="module", params=NETS)
def both(request):
    """Of one network: evaluation, training and gradients, by the trainer and as written out here."""
    recipe, net = NETS[request.param]
    parameters, images, masks = drawn_parameters(net), drawn_images(), drawn_masks(net.dropped)
    model = AlexNet(parameters, Columns(), replace(recipe, width=0.125), seed=11)

    def mask(name, y, step):
        assert step == STEP and y.shape == masks[name].shape
        return masks[name]

    with torch.no_grad():
        evaluated = model(images), WrittenOut(net, parameters)(images, None)
    model._draw_dropout_mask = mask
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    trained = model(images, STEP), WrittenOut(net, leaves)(images, masks)
    for logits in trained:
        F.cross_entropy(logits, torch.arange(NUM_IMAGES)).backward()
    gradients = {name: (own.grad, leaves[name].grad) for name, own in model.canonical_parameters().items()}
    return evaluated, trained, gradients


def assert_same(ours, written):
    assert ((ours - written).abs().max() / written.abs().max()).item() < 1e-11


@pytest.mark.parametrize("name", NETS)
def test_parameters_have_the_shapes_spelled_out_here(name):
    recipe, net = NETS[name]
    made = parameter_shapes(NUM_CLASSES, recipe=replace(recipe, width=0.125))
    assert {name: shape for name, shape in made.items() if name.endswith("weight")} == {
        f"{name}.weight": shape for name, shape in shapes(net).items()
    }


def test_evaluation_is_the_network_written_out(both):
    assert_same(*both[0])


def test_training_with_given_masks_is_the_network_written_out(both):
    assert_same(*both[1])


def test_the_gradient_of_every_parameter_is_that_of_the_network_written_out(both):
    for ours, written in both[2].values():
        assert written.abs().max() > 0
        assert_same(ours, written)


def test_the_networks_written_out_are_so_different_that_one_is_not_taken_for_another():
    """Each departure, alone, moves what the paper's or the program's parameters say by more than a hundredth."""
    images = drawn_images()
    departures = [
        {"activation": "tanh"}, {"normalized": False}, {"k": 1.0}, {"alpha": 2e-5}, {"maps": 3}, {"beta": 0.5},
        {"dropped": 0.4}, {"dropped": 0.0}, {"window": 2}, {"activation_after_pooling": True}, {"spatial": True},
    ]  # fmt: skip
    parameters = drawn_parameters(PAPERS)
    with torch.no_grad():
        plain = WrittenOut(PAPERS, parameters)(images, None)
        for changed in departures:
            other = WrittenOut(replace(PAPERS, **changed), parameters)(images, None)
            assert ((other - plain).abs().max() / plain.abs().max()).item() > 0.01, changed


@pytest.mark.parametrize("width", [0.5, 0.25])
def test_a_network_of_another_width_answers(width):
    recipe = Recipe(width=width)
    start = make_initial_parameters(2, recipe, 0)
    assert start["fc7.weight"].shape == (4096 * width, 4096 * width) and start["conv1.weight"].shape[0] == 96 * width
    assert AlexNet(start, Columns(), recipe, 0)(torch.zeros(1, 3, 224, 224)).shape == (1, 2)
