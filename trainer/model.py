"""AlexNet in two columns (section 3.5, figure 2), as one process holds it: one column, or both grouped.

Input 224×224; conv1's 55×55 outputs come from 3 zero pixels on the right and bottom, as in the original
program (docs/decisions). Columns exchange at conv3, fc6, fc7, and sum their parts of fc8. Images are channels-last
between the layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from trainer.columns import Columns
from trainer.geometry import cut, layers
from trainer.recipe import Recipe
from trainer.tail import Tail

Part = Callable[[torch.Tensor, int], torch.Tensor]  # images and the number of columns among their channels


class AlexNet(nn.Module):
    """The network, or one column of it.

    ``parameters`` are canonical (``geometry.initial_parameters`` or a checkpoint's); this process keeps its
    share, in ``dtype`` if given. ``seed`` decides the dropout masks, which are a function of (seed, step, layer,
    column, place in the batch).
    """

    def __init__(
        self,
        parameters: dict[str, torch.Tensor],
        columns: Columns,
        recipe: Recipe,
        seed: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Take this process's share of the canonical parameters."""
        super().__init__()
        self.columns, self.recipe, self.seed = columns, recipe, seed
        self.layers = {layer.name: layer for layer in layers(parameters["fc8.bias"].shape[0], recipe)}
        # One flat level, canonical names: torch forbids dots in parameter names, so they get underscores.
        for name, canonical in parameters.items():
            share = canonical if columns.count == 1 else cut(name, canonical, columns.index)
            self.register_parameter(name.replace(".", "_"), nn.Parameter(share.to(dtype or share.dtype, copy=True)))
        self._tails = _tails(recipe)

    def named(self) -> dict[str, nn.Parameter]:
        """This process's parameters by canonical name."""
        return {name.replace("_", "."): parameter for name, parameter in self.named_parameters()}

    def forward(self, images_NCHW: torch.Tensor, step: int | None = None) -> torch.Tensor:
        """Logits (N, classes) of images (N, 3, 224, 224).

        ``step`` numbers the training step and turns dropout on; without it, activations are halved instead
        (section 4.2: "multiply their outputs by 0.5").
        """
        x = self.features(images_NCHW, step)
        weight, bias = self._of("fc8")
        return self.columns.sum(F.linear(x, weight)) + bias

    def features(self, images_NCHW: torch.Tensor, step: int | None = None) -> torch.Tensor:
        """This process's share of the 4096 activations of the last hidden layer, (N, 4096 or 2048)."""
        x = images_NCHW.to(self._of("fc8")[0].dtype, memory_format=torch.channels_last)
        x = F.pad(x, (0, 3, 0, 3))
        for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6"):
            x = self._convolved(name, x)
        x = x.flatten(1)
        for name in ("fc6", "fc7"):
            x = self._hidden(name, x, step)
        return x

    def kernels(self) -> torch.Tensor:
        """The first layer's kernels that this process holds, (96 or 48, 3, 11, 11)."""
        return self._of("conv1")[0].detach()

    def _of(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")

    @property
    def _held(self) -> int:
        """Columns in this process."""
        return self.recipe.columns // self.columns.count

    def _convolved(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if name in self.layers:
            x = self._layer(name, x)
            if self.recipe.activation == "tanh":
                x = torch.tanh(x)
        elif name == "conv6":
            return x
        for part in self._tails[name]:
            x = part(x, self._held)
        return x

    def _layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        layer = self.layers[name]
        weight, bias = self._of(name)
        if layer.talks and self.columns.count > 1:
            return self.columns.talking(layer, x, weight, bias)
        groups = min(layer.groups, self._held)
        if layer.kernel:
            return F.conv2d(x, weight, bias, layer.stride, layer.padding, groups=groups)
        if groups == 1:
            return F.linear(x, weight, bias)
        parts = zip(x.chunk(groups, 1), weight.chunk(groups), bias.chunk(groups), strict=True)
        return torch.cat([F.linear(*part) for part in parts], 1)

    def _hidden(self, name: str, x: torch.Tensor, step: int | None) -> torch.Tensor:
        y = self._layer(name, x)
        y = torch.tanh(y) if self.recipe.activation == "tanh" else F.relu(y)
        if self.recipe.dropout == 0.0:
            return y
        return y * (1.0 - self.recipe.dropout if step is None else self._mask(name, y, step))

    def compiled(self) -> nn.Module:
        """This network under torch.compile, with masks drawn outside of it: it would try to trace the hash, and say so.

        Not by a decorator, which loads torch._dynamo, 1.2 s, in every process that does not compile, too.
        """
        self._mask = torch.compiler.disable(self._mask)  # type: ignore[method-assign, no-untyped-call]
        return torch.compile(self)  # type: ignore[return-value]

    def _mask(self, name: str, y: torch.Tensor, step: int) -> torch.Tensor:
        """1 with probability 1 − dropout, else 0, unscaled; drawn for the whole batch and column by column."""
        size = len(y)
        rows = slice(size * self.columns.replica, size * (self.columns.replica + 1))
        held = self._held
        masks = []
        for column in range(self.columns.index * held, (self.columns.index + 1) * held):
            text = f"dropout:{self.seed}:{step}:{name}:{column}"
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
            generator = torch.Generator(y.device).manual_seed(number)
            shape = (size * self.columns.replicas, y.shape[1] // held)
            drawn = torch.rand(shape, generator=generator, device=y.device) >= self.recipe.dropout
            masks.append(drawn[rows])
        return torch.cat(masks, 1).to(y.dtype)


def _tails(recipe: Recipe) -> dict[str, list[Part]]:
    """What follows each convolution, in order."""
    relu = recipe.activation == "relu"
    pool = Tail(relu=False, size=recipe.pool_size, stride=2)
    norm = Tail(
        relu=False,
        maps=recipe.lrn_maps if recipe.lrn else 0,
        alpha=recipe.lrn_alpha,
        beta=recipe.lrn_beta,
        k=recipe.lrn_k,
    )
    normed = replace(norm, size=pool.size, stride=pool.stride)
    first: list[Part] = [replace(normed, relu=relu)]
    if recipe.lrn_before_relu and relu:
        first = [normed, Tail()]
    second: list[Part] = [replace(normed, relu=relu)]
    if recipe.spatial_norm:
        second = [replace(norm, relu=relu), spatial_norm, pool]
    activated: list[Part] = [Tail()] if relu else []
    return {
        "conv1": first,
        "conv2": second,
        "conv3": activated,
        "conv4": activated,
        "conv5": [replace(pool, relu=relu)],
        "conv6": activated,
    }


def spatial_norm(x: torch.Tensor, _groups: int) -> torch.Tensor:
    """x / (1 + 4e-5 Σ x²)^¾ over 5×5 pixels of each map, zero outside (the program's "cnorm2")."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    sums = F.avg_pool2d(wide * wide, 5, stride=1, padding=2, count_include_pad=True)
    root = torch.rsqrt(1.0 + 1e-3 * sums)
    return (wide * root * root.sqrt()).to(x.dtype)
