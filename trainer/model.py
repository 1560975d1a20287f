"""AlexNet in two columns (section 3.5, figure 2), as one process holds it: one column, or both grouped.

Input 224×224; conv1's 55×55 outputs come from 3 zero pixels on the right and bottom, as in the original
program (docs/decisions). Columns exchange at conv3, fc6, fc7, and sum their parts of fc8.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import nn

from trainer.columns import Columns
from trainer.geometry import Layer, cut, layers
from trainer.lrn import local_response_norm
from trainer.recipe import Recipe


class AlexNet(nn.Module):
    """The network, or one column of it.

    ``parameters`` are canonical (``geometry.initial_parameters`` or a checkpoint's); this process keeps its
    share. ``seed`` decides the dropout masks, which are a function of (seed, step, layer, column).
    """

    def __init__(self, parameters: dict[str, torch.Tensor], columns: Columns, recipe: Recipe, seed: int) -> None:
        """Take this process's share of the canonical parameters."""
        super().__init__()
        self.columns, self.recipe, self.seed = columns, recipe, seed
        self.layers = {layer.name: layer for layer in layers(parameters["fc8.bias"].shape[0])}
        # One flat level, canonical names: torch forbids dots in parameter names, so they get underscores.
        for name, canonical in parameters.items():
            share = canonical if columns.count == 1 else cut(name, canonical, columns.index)
            self.register_parameter(name.replace(".", "_"), nn.Parameter(share.clone()))

    def named(self) -> dict[str, nn.Parameter]:
        """This process's parameters by canonical name."""
        return {name.replace("_", "."): parameter for name, parameter in self.named_parameters()}

    def forward(self, images_NCHW: torch.Tensor, step: int | None = None) -> torch.Tensor:
        """Logits (N, classes) of images (N, 3, 224, 224).

        ``step`` numbers the training step and turns dropout on; without it, activations are halved instead
        (section 4.2: "multiply their outputs by 0.5").
        """
        x = F.pad(images_NCHW, (0, 3, 0, 3))
        x = self._pool(self._norm(self._conv("conv1", x)))
        x = self._pool(self._norm(self._conv("conv2", x)))
        x = self._conv("conv3", self.columns.gather(x))
        x = self._conv("conv4", x)
        x = self._pool(self._conv("conv5", x)).flatten(1)
        x = self._hidden("fc6", self.columns.gather(x), step)
        x = self._hidden("fc7", self.columns.gather(x), step)
        weight, bias = self._of("fc8")
        return self.columns.sum(F.linear(x, weight)) + bias

    def _of(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")

    def _conv(self, name: str, x: torch.Tensor) -> torch.Tensor:
        layer: Layer = self.layers[name]
        weight, bias = self._of(name)
        groups = layer.groups if self.columns.count == 1 else 1
        return F.relu_(F.conv2d(x, weight, bias, layer.stride, layer.padding, groups=groups))

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        """LRN within each column: both columns of one process become separate images of the batch."""
        r = self.recipe
        held = len(self.columns.local)
        n, c, h, w = x.shape
        by_column = x.reshape(n * held, c // held, h, w)
        y = local_response_norm(by_column, r.lrn_maps, r.lrn_alpha, r.lrn_beta, r.lrn_k)
        return y.view(n, c, h, w)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, kernel_size=3, stride=2)  # section 3.4: overlapping

    def _hidden(self, name: str, x: torch.Tensor, step: int | None) -> torch.Tensor:
        weight, bias = self._of(name)
        y = F.relu(F.linear(x, weight, bias))
        keep = 1.0 - self.recipe.dropout
        return y * (keep if step is None else self._mask(name, y, step))

    def _mask(self, name: str, y: torch.Tensor, step: int) -> torch.Tensor:
        """1 with probability 1 − dropout, else 0, unscaled; drawn column by column, so topology-free."""
        held = self.columns.local
        masks = []
        for column in held:
            text = f"dropout:{self.seed}:{step}:{name}:{column}"
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
            generator = torch.Generator(y.device).manual_seed(number)
            shape = (y.shape[0], y.shape[1] // len(held))
            masks.append(torch.rand(shape, generator=generator, device=y.device) >= self.recipe.dropout)
        return torch.cat(masks, 1).to(y.dtype)
