"""Hyper-parameters of network and training as one frozen value, which checkpoints record and require.

``PAPER`` is the recipe published by Krizhevsky, Sutskever and Hinton (2012). ``ORIGINAL`` is that of their program, as
far as its published source and run notes tell (layers-145, layer-params-145-2010); each difference is a field. The
fields under "ablations" are the paper's own experiments and other usual ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any, Literal

from alexstream.core.text import quote_value
from alexstream.trainer.errors import TrainError

Activation = Literal["relu", "tanh"]
REMOVABLE_LAYERS = ("conv2", "conv3", "conv4", "conv5")
WIDTHS = (1.0, 0.5, 0.25, 0.125)  # with these, each column has whole numbers of kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Learning rates from epoch ``start`` on.

    A rate of 0 freezes parameters: neither momentum nor decay changes them.

    Args:
        start: The epoch, counted from 0.
        rate: Of the weights.
        conv1_rate: Of the first layer's weights.
        bias_rate: Of all biases.
        lighting: If off, images have no color noise and are not divided by the value that belongs to it.
    """

    start: int
    rate: float
    conv1_rate: float
    bias_rate: float
    lighting: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Hyper-parameters, each with the section of the paper that states it.

    Args:
        name: The name of the recipe in messages and checkpoints.
        learning_rate: At the start (section 5).
        bias_rate_factor: The rate of biases is so many times that of weights (section 5: "an equal learning rate for
            all layers").
        momentum: Section 5.
        weight_decay: In the rule for every weight (section 5).
        bias_decay: Biases not excepted.
        rate_divisor: Divides the rate when the validation error stops improving (section 5).
        rate_drops: How often it does, prior to termination (section 5).
        patience_epochs: Epochs without a better validation error before the rate drops; the paper does not say.
        phases: A fixed schedule, instead of drops by the validation error.
        weight_sd: Deviation of the zero-mean Gaussian that weights are drawn from (section 5).
        upper_conv_sd: The same for conv3, conv4 and conv5.
        dropout: The share of units that are dropped in fc6 and fc7 (section 4.2); 0 for none.
        lrn_k: Section 3.3.
        lrn_maps: Adjacent maps over which a response is normalized (section 3.3).
        lrn_alpha: Multiplies the plain sum of squares over these maps, as section 3.3 is written; torch's
            ``local_response_norm`` divides its alpha by their number, as the program did.
        lrn_beta: Section 3.3.
        lrn_before_relu: In layer 1, where the program had ReLU after the pooling.
        spatial_norm: In layer 2, over 5x5 pixels, between LRN and pooling.
        activation: Ablation: ``relu`` or ``tanh`` (section 3.1, figure 1).
        lrn: Ablation: whether responses are normalized (section 3.3: 1.4 % and 1.2 % of top-1 and top-5).
        pool_size: Ablation: 3 overlaps, 2 does not (section 3.4: 0.4 % and 0.3 %).
        columns: Ablation: 1 is the network for one GPU (section 3.2: 1.7 % and 1.2 %).
        columns_talk: Ablation: exchanges at conv3, fc6 and fc7.
        removed: Ablation: the middle layer that is left out (section 7: "about 2 %"); empty for none.
        sixth_conv: Ablation: one more convolution over the last pooling layer, for the larger data set (section 6).
        width: Width of every layer, relative to the paper's; small networks are for trying things out.
    """

    name: str = "paper"
    learning_rate: float = 0.01
    bias_rate_factor: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.0005
    bias_decay: bool = True
    rate_divisor: float = 10.0
    rate_drops: int = 3
    patience_epochs: int = 5
    phases: tuple[Phase, ...] = ()
    weight_sd: float = 0.01
    upper_conv_sd: float = 0.01
    dropout: float = 0.5
    lrn_k: float = 2.0
    lrn_maps: int = 5
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    lrn_before_relu: bool = False
    spatial_norm: bool = False
    # ablations
    activation: Activation = "relu"
    lrn: bool = True
    pool_size: int = 3
    columns: int = 2
    columns_talk: bool = True
    removed: str = ""
    sixth_conv: bool = False
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.removed and self.removed not in REMOVABLE_LAYERS:
            raise TrainError(
                f"`removed`: received {quote_value(self.removed)}, expected one of {', '.join(REMOVABLE_LAYERS)}"
            )
        if self.columns not in (1, 2):
            raise TrainError(f"columns: received {self.columns}, expected 1 or 2")
        if self.width not in WIDTHS:
            raise TrainError(f"`width`: received {self.width:g}, expected one of {', '.join(f'{w:g}' for w in WIDTHS)}")
        self._check_numbers()
        starts = [phase.start for phase in self.phases]
        if starts and (starts[0] != 0 or starts != sorted(set(starts))):
            raise TrainError(f"phases: received starts at epochs {starts}, expected 0 first, then rising")

    def _check_numbers(self) -> None:
        """Raise TrainError for numbers with which no network computes; those of a checkpoint may be anything."""
        values = asdict(self)
        for phase in self.phases:
            values |= asdict(phase)
        if odd := next((name for name, value in values.items() if type(value) is float and not isfinite(value)), None):
            raise TrainError(f"{odd}: received {values[odd]}, expected a number")
        ranges = {"dropout": (0.0, 0.99), "lrn_maps": (1, 99), "pool_size": (2, 3), "lrn_k": (1e-6, 1e6)}
        for name, (least, most) in ranges.items():
            if not least <= values[name] <= most:
                raise TrainError(f"{name}: received {values[name]:g}, expected {least:g} to {most:g}")

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Recipe:
        """Make a recipe from the dict that ``asdict`` made of one, in this version or an older one."""
        phases = tuple(Phase(**phase) for phase in fields.get("phases", ()))
        return cls(**{**fields, "phases": phases})

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Return the fields that differ, each with its value here and in ``other``."""
        here, there = asdict(self), asdict(other)
        return {name: (here[name], there[name]) for name in here if here[name] != there[name]}


PAPER = Recipe()

# Epochs 1, 23, 51, 68, 72 and 78 in the notes of the 2010 run (layer-params-145-2010, lines 170-176).
ORIGINAL_EPOCHS = 93
_PHASES_2010 = (
    Phase(start=0, rate=1e-2, conv1_rate=1e-2, bias_rate=2e-2),
    Phase(start=22, rate=1e-3, conv1_rate=1e-3, bias_rate=2e-3),
    Phase(start=50, rate=1e-4, conv1_rate=1e-4, bias_rate=2e-3),
    Phase(start=67, rate=1e-4, conv1_rate=1e-5, bias_rate=2e-3, lighting=False),
    Phase(start=71, rate=1e-4, conv1_rate=0.0, bias_rate=2e-3, lighting=False),
    Phase(start=77, rate=1e-5, conv1_rate=0.0, bias_rate=2e-3, lighting=False),
)

ORIGINAL = Recipe(
    name="original",
    bias_rate_factor=2.0,  # layer-params-120-4gpu
    bias_decay=False,  # layer.cu:565
    phases=_PHASES_2010,
    upper_conv_sd=0.03,  # layers-145.cfg:135-218
    lrn_alpha=1e-4 / 5,  # layer.py:1183 divides the scale by the window
    lrn_before_relu=True,  # layers-145.cfg:9-63
    spatial_norm=True,  # layers-145.cfg:107-117
)

RECIPES = {recipe.name: recipe for recipe in (PAPER, ORIGINAL)}


def with_rate_drops(recipe: Recipe, drops: Sequence[int]) -> Recipe:
    """Return ``recipe`` with the rate divided after each of these numbers of epochs, instead of by validation error."""
    rates = [recipe.learning_rate / recipe.rate_divisor**i for i in range(len(drops) + 1)]
    phases = tuple(
        Phase(start=start, rate=rate, conv1_rate=rate, bias_rate=rate * recipe.bias_rate_factor)
        for start, rate in zip((0, *drops), rates, strict=True)
    )
    return replace(recipe, phases=phases)


def scale_to_run(recipe: Recipe, learning_rate: float, epochs: int) -> Recipe:
    """Return ``recipe`` with another initial rate, and its phases, if any, scaled from 93 to ``epochs`` epochs."""
    factor = learning_rate / recipe.learning_rate
    phases = []
    for index, start in _stretch_starts(recipe.phases, epochs).items():
        phase = recipe.phases[index]
        rates = {name: getattr(phase, name) * factor for name in ("rate", "conv1_rate", "bias_rate")}
        phases.append(replace(phase, start=start, **rates))
    return replace(recipe, learning_rate=learning_rate, phases=tuple(phases))


def _stretch_starts(phases: Sequence[Phase], epochs: int) -> dict[int, int]:
    """Return index → start epoch of the phases that fit into a run of ``epochs``, in order, at most one per epoch.

    Phases that drop the rate are placed first: each at its scaled epoch, but at least one epoch after the one before.
    If epochs run out, the last drops are left out. Then a phase between two drops gets an epoch between them, or is
    left out; its changes then take effect with the next drop.
    """
    wanted = [round(phase.start * epochs / ORIGINAL_EPOCHS) for phase in phases]
    starts: dict[int, int] = {}
    free = 0  # the first epoch in which a phase may start
    for i, phase in enumerate(phases):
        if i == 0 or phase.rate != phases[i - 1].rate:
            starts[i] = max(wanted[i], free)
            free = starts[i] + 1
    for i in range(len(phases)):
        if i not in starts:
            free = 1 + max(start for other, start in starts.items() if other < i)
            limit = min(start for other, start in [*starts.items(), (len(phases), epochs)] if other > i)
            if max(wanted[i], free) < limit:
                starts[i] = max(wanted[i], free)
    return {i: start for i, start in sorted(starts.items()) if start < epochs}


def make_recipe(
    name: str, *, epochs: int, learning_rate: float, patience: int, drop_after: str | None = None, **changes: Any
) -> Recipe:
    """Make the recipe ``name`` for a run, with ``changes`` to fields of ``Recipe``.

    ``drop_after``: comma-separated epochs after which the rate is divided, instead of by ``patience``. Raises
    TrainError for an unknown recipe, a layer that cannot be removed, or epochs that do not fit the run.
    """
    if name not in RECIPES:
        raise TrainError(f"`name`: received {name!r}, expected one of {', '.join(RECIPES)}")
    recipe = replace(scale_to_run(RECIPES[name], learning_rate, epochs), patience_epochs=patience)
    recipe = replace(recipe, **changes)
    return with_rate_drops(recipe, _parse_drop_epochs(drop_after, epochs)) if drop_after else recipe


def _parse_drop_epochs(text: str, last: int) -> tuple[int, ...]:
    try:
        drops = tuple(int(part) for part in text.split(","))
    except ValueError:
        drops = ()
    if not drops or list(drops) != sorted(set(drops)) or drops[0] < 1 or drops[-1] >= last:
        raise TrainError(f"`drop_after`: received {text!r}, expected rising numbers from 1 to {last - 1}, as 25,50,75")
    return drops
