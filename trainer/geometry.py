"""The network's layers as data: canonical shapes, and how each is cut into two columns.

Canonical = the single-device layout, in which conv2, conv4 and conv5 have two groups. A column (the paper's
"GPU") holds half the kernels of every layer, so cutting is taking one half of the output rows; fc8 alone is
cut along its inputs, since its outputs are the classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

NUM_COLUMNS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One weight layer. ``kernel`` is 0 for fully connected layers; ``groups`` 2 where columns do not talk."""

    name: str
    inputs: int
    outputs: int
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    groups: int = 1
    bias: float = 0.0
    cut_inputs: bool = False

    def weight_shape(self, columns: int = 1) -> tuple[int, ...]:
        """Shape of the weight held by one of ``columns`` processes (1: canonical)."""
        if self.cut_inputs:
            return (self.outputs, self.inputs // columns)
        kernel = (self.kernel, self.kernel) if self.kernel else ()
        return (self.outputs // columns, self.inputs // self.groups, *kernel)

    def bias_shape(self, columns: int = 1) -> tuple[int, ...]:
        """Shape of the bias held by one of ``columns`` processes; fc8's is held whole by each."""
        return (self.outputs if self.cut_inputs else self.outputs // columns,)


def layers(num_classes: int) -> tuple[Layer, ...]:
    """The eight layers of section 3.5; biases as in section 5 (1 in conv2, conv4, conv5, fc6 and fc7)."""
    return (
        Layer(name="conv1", inputs=3, outputs=96, kernel=11, stride=4),
        Layer(name="conv2", inputs=96, outputs=256, kernel=5, padding=2, groups=2, bias=1.0),
        Layer(name="conv3", inputs=256, outputs=384, kernel=3, padding=1),
        Layer(name="conv4", inputs=384, outputs=384, kernel=3, padding=1, groups=2, bias=1.0),
        Layer(name="conv5", inputs=384, outputs=256, kernel=3, padding=1, groups=2, bias=1.0),
        Layer(name="fc6", inputs=256 * 6 * 6, outputs=4096, bias=1.0),
        Layer(name="fc7", inputs=4096, outputs=4096, bias=1.0),
        Layer(name="fc8", inputs=4096, outputs=num_classes, cut_inputs=True),
    )


def parameter_shapes(num_classes: int, columns: int = 1) -> dict[str, tuple[int, ...]]:
    """Name → shape of every parameter that one of ``columns`` processes holds."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers(num_classes):
        shapes[f"{layer.name}.weight"] = layer.weight_shape(columns)
        shapes[f"{layer.name}.bias"] = layer.bias_shape(columns)
    return shapes


def num_parameters(num_classes: int) -> int:
    """60,965,224 at 1,000 classes."""
    return sum(math.prod(shape) for shape in parameter_shapes(num_classes).values())


def initial_parameters(num_classes: int, weight_sd: float, seed: int) -> dict[str, torch.Tensor]:
    """Canonical float32 start values (section 5): Gaussian weights, constant biases; the same on any topology."""
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, torch.Tensor] = {}
    for layer in layers(num_classes):
        weight = torch.empty(layer.weight_shape()).normal_(0.0, weight_sd, generator=generator)
        parameters[f"{layer.name}.weight"] = weight
        parameters[f"{layer.name}.bias"] = torch.full(layer.bias_shape(), layer.bias)
    return parameters


def cut(name: str, canonical: torch.Tensor, column: int) -> torch.Tensor:
    """Column ``column``'s half of a canonical parameter (a view; fc8's bias whole)."""
    axis = _cut_axis(name)
    return canonical if axis is None else canonical.chunk(NUM_COLUMNS, axis)[column]


def join(name: str, halves: list[torch.Tensor]) -> torch.Tensor:
    """The canonical parameter from its halves in column order, or from the single whole."""
    axis = _cut_axis(name)
    return halves[0] if axis is None or len(halves) == 1 else torch.cat(halves, axis)


def _cut_axis(name: str) -> int | None:
    if name == "fc8.bias":
        return None
    return 1 if name == "fc8.weight" else 0
