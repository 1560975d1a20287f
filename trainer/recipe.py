"""What is trained and how, as one frozen value; a checkpoint is bound to it.

``PAPER`` is what Krizhevsky, Sutskever and Hinton (2012) print. ``ORIGINAL`` is what their program did, as far as its
published source and run notes tell (layers-145, layer-params-145-2010); each difference is a field. The fields under
"ablations" are the paper's own experiments and the usual ones beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from trainer.errors import TrainError

Activation = Literal["relu", "tanh"]
REMOVABLE = ("conv2", "conv3", "conv4", "conv5")
WIDTHS = (1.0, 0.5, 0.25, 0.125)  # that leave each column whole numbers of kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Rates from epoch ``start`` (0: the first) on.

    A rate of 0 freezes: no momentum, no decay. ``lighting`` off: images without colour noise and without the division
    that goes with it.
    """

    start: int
    rate: float
    conv1_rate: float
    bias_rate: float
    lighting: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Hyper-parameters, with the section that states each.

    ``lrn_alpha`` multiplies the plain sum of squares over ``lrn_maps`` adjacent maps, as section 3.3 is
    written (torch's ``local_response_norm`` divides its alpha by the number of maps, as the program did).
    """

    name: str = "paper"
    learning_rate: float = 0.01  # section 5
    bias_rate_factor: float = 1.0  # section 5: "an equal learning rate for all layers"
    momentum: float = 0.9  # section 5
    weight_decay: float = 0.0005  # section 5: in the rule for every weight ...
    bias_decay: bool = True  # ... biases not excepted
    rate_divisor: float = 10.0  # section 5: when validation error stops improving ...
    rate_drops: int = 3  # ... three times prior to termination
    patience_epochs: int = 5  # the paper does not say how long it waited
    phases: tuple[Phase, ...] = ()  # scripted rates, in place of the validation error's
    weight_sd: float = 0.01  # section 5: zero-mean Gaussian in each layer
    upper_conv_sd: float = 0.01  # conv3, conv4, conv5
    dropout: float = 0.5  # section 4.2; 0 for none
    lrn_k: float = 2.0  # section 3.3
    lrn_maps: int = 5
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    lrn_before_relu: bool = False  # in layer 1, where the program had ReLU after the pooling
    spatial_norm: bool = False  # in layer 2, over 5x5 pixels, between LRN and pooling
    # ablations
    activation: Activation = "relu"  # section 3.1, figure 1
    lrn: bool = True  # section 3.3: 1.4 % and 1.2 % of top-1 and top-5
    pool_size: int = 3  # section 3.4: overlapping; 2 for none, 0.4 % and 0.3 %
    columns: int = 2  # section 3.2; 1: the net of one GPU, 1.7 % and 1.2 %
    columns_talk: bool = True  # exchanges at conv3, fc6 and fc7
    removed: str = ""  # section 7: a middle layer less is "about 2 %"
    sixth_conv: bool = False  # section 6: over the last pooling layer, for the larger data set
    width: float = 1.0  # of every layer, as a part of the paper's: a small network to try things out

    def __post_init__(self) -> None:
        """Raise TrainError for what is no network."""
        if self.removed and self.removed not in REMOVABLE:
            raise TrainError(f"--remove: received {self.removed!r}, expected one of {', '.join(REMOVABLE)}")
        if self.columns not in (1, 2):
            raise TrainError(f"columns: received {self.columns}, expected 1 or 2")
        if self.width not in WIDTHS:
            raise TrainError(f"--width: received {self.width:g}, expected one of {', '.join(f'{w:g}' for w in WIDTHS)}")
        starts = [phase.start for phase in self.phases]
        if starts and (starts[0] != 0 or starts != sorted(set(starts))):
            raise TrainError(f"phases: they start at epochs {starts}, expected 0 and rising")

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Recipe:
        """A recipe from what ``asdict`` made of one, by this version or an older one."""
        phases = tuple(Phase(**phase) for phase in fields.get("phases", ()))
        return cls(**{**fields, "phases": phases})

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Field → (here, there), where they differ."""
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


def scripted(recipe: Recipe, drops: Sequence[int]) -> Recipe:
    """``recipe`` with the rate divided after each of these numbers of epochs, not when the validation error says so."""
    rates = [recipe.learning_rate / recipe.rate_divisor**i for i in range(len(drops) + 1)]
    phases = tuple(
        Phase(start=start, rate=rate, conv1_rate=rate, bias_rate=rate * recipe.bias_rate_factor)
        for start, rate in zip((0, *drops), rates, strict=True)
    )
    return replace(recipe, phases=phases)


def for_run(recipe: Recipe, learning_rate: float, epochs: int) -> Recipe:
    """``recipe`` begun at another rate, its script, if it has one, stretched from 93 epochs to ``epochs``."""
    factor = learning_rate / recipe.learning_rate
    phases: dict[int, Phase] = {}  # of phases that begin together in a short run, the last counts
    for phase in recipe.phases:
        start = round(phase.start * epochs / ORIGINAL_EPOCHS)
        rates = {name: getattr(phase, name) * factor for name in ("rate", "conv1_rate", "bias_rate")}
        phases[start] = replace(phase, start=start, **rates)
    return replace(recipe, learning_rate=learning_rate, phases=tuple(phases.values()))


def chosen(
    name: str, *, epochs: int, learning_rate: float, patience: int, drop_after: str | None = None, **changes: Any
) -> Recipe:
    """The recipe that a command line asks for; ``changes``: fields of ``Recipe``.

    Raises TrainError for a recipe, a layer or epochs that do not exist.
    """
    if name not in RECIPES:
        raise TrainError(f"--recipe: received {name!r}, expected one of {', '.join(RECIPES)}")
    recipe = replace(for_run(RECIPES[name], learning_rate, epochs), patience_epochs=patience)
    recipe = replace(recipe, **changes)
    return scripted(recipe, _epochs(drop_after, epochs)) if drop_after else recipe


def _epochs(text: str, last: int) -> tuple[int, ...]:
    try:
        drops = tuple(int(part) for part in text.split(","))
    except ValueError:
        drops = ()
    if not drops or list(drops) != sorted(set(drops)) or drops[0] < 1 or drops[-1] >= last:
        raise TrainError(f"--drop-after: received {text!r}, expected rising numbers from 1 to {last - 1}, as 25,50,75")
    return drops
