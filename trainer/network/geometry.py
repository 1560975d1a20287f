"""Layers of the network as data: canonical shapes, initial values, and the split of each layer into two columns.

The canonical layout is that of one device, where layers that do not cross columns have two groups. A column (the
paper's "GPU") holds half the kernels of every layer, so it takes half of the output rows of each parameter; only fc8
is split along its inputs, since its outputs are the classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from alexstream.trainer.recipe import PAPER, Recipe

NUM_COLUMNS = 2
# Kernels per layer of the two-column network, and of the network for one GPU. The latter has half as many, except in
# the last convolution and the fully connected layers (section 3.5, footnote 2).
_TWO_COLUMNS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256}
_ONE_COLUMN = {"conv1": 48, "conv2": 128, "conv3": 192, "conv4": 192, "conv5": 256}
HIDDEN_UNITS = 4096
POOLED_PX = 6  # side of the last pooling's output


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer with weights.

    ``kernel`` is 0 for fully connected layers; ``groups`` is 2 where each column reads only its own inputs. ``bias``
    and ``sd`` are the initial bias and the standard deviation of the initial weights.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: float = 0.0
    weight_sd: float = 0.01
    cut_inputs: bool = False

    @property
    def crosses_columns(self) -> bool:
        """True if each column also reads the other column's outputs of the layer before."""
        return self.groups == 1 and not self.cut_inputs and self.inputs != 3

    def weight_shape(self, columns: int = 1) -> tuple[int, ...]:
        """Return the shape of the weight held by one of ``columns`` processes (1: canonical)."""
        if self.cut_inputs:
            return (self.outputs, self.inputs // columns)
        kernel = (self.kernel, self.kernel) if self.kernel else ()
        return (self.outputs // columns, self.inputs // self.groups, *kernel)

    def bias_shape(self, columns: int = 1) -> tuple[int, ...]:
        """Return the shape of the bias held by one of ``columns`` processes; each holds all of fc8's."""
        return (self.outputs if self.cut_inputs else self.outputs // columns,)


def make_layers(num_classes: int, recipe: Recipe = PAPER) -> tuple[Layer, ...]:
    """Return the layers of section 3.5, in order; initial biases as in section 5 (1 in conv2, 4, 5 and fc6, fc7)."""
    whole = _TWO_COLUMNS if recipe.columns == 2 else _ONE_COLUMN
    kernels = {name: int(count * recipe.width) for name, count in whole.items()}
    hidden = int(HIDDEN_UNITS * recipe.width)
    if recipe.sixth_conv:
        kernels["conv6"] = kernels["conv5"]
    kernels.pop(recipe.removed, None)
    form = {
        "conv1": {"kernel": 11, "stride": 4},
        "conv2": {"kernel": 5, "padding": 2, "bias": 1.0},
    }
    alone = recipe.columns  # groups of a layer that reads its own column only
    together = 1 if recipe.columns_talk else alone
    made, inputs = [], 3
    for name, outputs in kernels.items():
        upper = {"kernel": 3, "padding": 1, "bias": 0.0 if name == "conv3" else 1.0}
        made.append(
            Layer(
                name=name,
                inputs=inputs,
                outputs=outputs,
                groups={"conv1": 1, "conv3": together}.get(name, alone),
                weight_sd=recipe.weight_sd if name in form else recipe.upper_conv_sd,
                **form.get(name, upper),  # type: ignore[arg-type]
            )
        )
        inputs = outputs
    full = Layer(
        name="fc6", inputs=inputs * POOLED_PX**2, outputs=hidden, groups=together, bias=1.0, weight_sd=recipe.weight_sd
    )
    made += [
        full,
        replace(full, name="fc7", inputs=hidden),
        replace(full, name="fc8", inputs=hidden, outputs=num_classes, groups=1, bias=0.0, cut_inputs=True),
    ]
    return tuple(made)


def parameter_shapes(num_classes: int, columns: int = 1, recipe: Recipe = PAPER) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters that one of ``columns`` processes holds, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in make_layers(num_classes, recipe):
        shapes[f"{layer.name}.weight"] = layer.weight_shape(columns)
        shapes[f"{layer.name}.bias"] = layer.bias_shape(columns)
    return shapes


def count_parameters(num_classes: int, recipe: Recipe = PAPER) -> int:
    """Return the number of parameters of the whole network: 60,965,224 at 1,000 classes."""
    return sum(math.prod(shape) for shape in parameter_shapes(num_classes, recipe=recipe).values())


def make_initial_parameters(num_classes: int, recipe: Recipe, seed: int) -> dict[str, torch.Tensor]:
    """Draw canonical float32 initial values (section 5): Gaussian weights, constant biases. Same on any topology."""
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, torch.Tensor] = {}
    for layer in make_layers(num_classes, recipe):
        weight = torch.empty(layer.weight_shape()).normal_(0.0, layer.weight_sd, generator=generator)
        parameters[f"{layer.name}.weight"] = weight
        parameters[f"{layer.name}.bias"] = torch.full(layer.bias_shape(), layer.bias)
    return parameters


def cut_parameter(name: str, canonical: torch.Tensor, column: int) -> torch.Tensor:
    """Return column ``column``'s half of a canonical parameter, as a view; fc8's bias is returned whole."""
    axis = _find_cut_axis(name)
    return canonical if axis is None else canonical.chunk(NUM_COLUMNS, axis)[column]


def join_parameter(name: str, halves: list[torch.Tensor]) -> torch.Tensor:
    """Join the halves of a parameter, in column order, to the canonical one; a single entry is returned as it is."""
    axis = _find_cut_axis(name)
    return halves[0] if axis is None or len(halves) == 1 else torch.cat(halves, axis)


def _find_cut_axis(name: str) -> int | None:
    if name == "fc8.bias":
        return None
    return 1 if name == "fc8.weight" else 0
