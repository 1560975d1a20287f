"""AlexNet (section 3.5, figure 2) as one process holds it: one of its two columns, or both as grouped convolutions.

The input is 224×224; 3 rows and columns of zeros at the bottom and right give conv1 its 55×55 outputs, as in the
original program (docs/decisions). Columns exchange activations at conv3, fc6 and fc7, and sum their parts of fc8.
Activations are channels-last between the layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from alexstream.trainer.network.columns import Columns
from alexstream.trainer.network.geometry import cut_parameter, make_layers
from alexstream.trainer.network.post_conv import PostConv
from alexstream.trainer.recipe import Recipe

PostConvOp = Callable[[torch.Tensor, int], torch.Tensor]  # images and the number of columns among their channels


class AlexNet(nn.Module):
    """The network, or one column of it.

    ``parameters`` are canonical (``geometry.make_initial_parameters`` or a checkpoint's); this process takes its share
    of them, in ``dtype`` if given. ``seed`` determines the dropout masks, which are a function of (seed, step, layer,
    column, position in the batch), so that they are the same on any number of devices.
    """

    def __init__(
        self,
        parameters: dict[str, torch.Tensor],
        columns: Columns,
        recipe: Recipe,
        seed: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.columns, self.recipe, self.seed = columns, recipe, seed
        self.layers = {layer.name: layer for layer in make_layers(parameters["fc8.bias"].shape[0], recipe)}
        # Registered under their canonical names, with underscores, as torch forbids dots in parameter names.
        for name, canonical in parameters.items():
            share = canonical if columns.count == 1 else cut_parameter(name, canonical, columns.index)
            self.register_parameter(name.replace(".", "_"), nn.Parameter(share.to(dtype or share.dtype, copy=True)))
        self._post_conv = _make_post_conv(recipe)

    def canonical_parameters(self) -> dict[str, nn.Parameter]:
        """Return this process's parameters by canonical name."""
        return {name.replace("_", "."): parameter for name, parameter in self.named_parameters()}

    def forward(self, images_NCHW: torch.Tensor, step: int | None = None) -> torch.Tensor:
        """Return logits (N, classes) of images (N, 3, 224, 224).

        ``step``, the number of the training step, turns dropout on; without it activations are halved instead
        (section 4.2: "multiply their outputs by 0.5").
        """
        x = self.features(images_NCHW, step)
        weight, bias = self._weight_and_bias("fc8")
        return self.columns.sum(F.linear(x, weight)) + bias

    def features(self, images_NCHW: torch.Tensor, step: int | None = None) -> torch.Tensor:
        """Return this process's share of the activations of the last hidden layer: at width 1, (N, 4096 or 2048)."""
        x = images_NCHW.to(self._weight_and_bias("fc8")[0].dtype, memory_format=torch.channels_last)
        x = F.pad(x, (0, 3, 0, 3))
        for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6"):
            x = self._apply_conv_block(name, x)
        x = x.flatten(1)
        for name in ("fc6", "fc7"):
            x = self._apply_hidden_layer(name, x, step)
        return x

    def kernels(self) -> torch.Tensor:
        """Return this process's share of the first layer's kernels, (96 or 48, 3, 11, 11)."""
        return self._weight_and_bias("conv1")[0].detach()

    def _weight_and_bias(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")

    @property
    def _num_local_columns(self) -> int:
        """The number of columns in this process."""
        return self.recipe.columns // self.columns.count

    def _apply_conv_block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if name in self.layers:
            x = self._apply_layer(name, x)
            if self.recipe.activation == "tanh":
                x = torch.tanh(x)
        elif name == "conv6":
            return x
        for part in self._post_conv[name]:
            x = part(x, self._num_local_columns)
        return x

    def _apply_layer(self, name: str, x: torch.Tensor) -> torch.Tensor:
        layer = self.layers[name]
        weight, bias = self._weight_and_bias(name)
        if layer.crosses_columns and self.columns.count > 1:
            return self.columns.apply_with_exchange(layer, x, weight, bias)
        groups = min(layer.groups, self._num_local_columns)
        if layer.kernel:
            return F.conv2d(x, weight, bias, layer.stride, layer.padding, groups=groups)
        if groups == 1:
            return F.linear(x, weight, bias)
        parts = zip(x.chunk(groups, 1), weight.chunk(groups), bias.chunk(groups), strict=True)
        return torch.cat([F.linear(*part) for part in parts], 1)

    def _apply_hidden_layer(self, name: str, x: torch.Tensor, step: int | None) -> torch.Tensor:
        y = self._apply_layer(name, x)
        y = torch.tanh(y) if self.recipe.activation == "tanh" else F.relu(y)
        if self.recipe.dropout == 0.0:
            return y
        return y * (1.0 - self.recipe.dropout if step is None else self._draw_dropout_mask(name, y, step))

    def to_compiled(self) -> nn.Module:
        """Return this network under torch.compile, with the dropout masks drawn outside of the compiled graph.

        The compiler cannot trace the hash that seeds the masks, and would warn. A decorator on ``_draw_dropout_mask``
        would exclude it too, but would also import torch._dynamo, which takes 1.2 s, in processes that do not compile.
        """
        self._draw_dropout_mask = torch.compiler.disable(self._draw_dropout_mask)  # type: ignore[method-assign, no-untyped-call]
        return torch.compile(self)  # type: ignore[return-value]

    def _draw_dropout_mask(self, name: str, y: torch.Tensor, step: int) -> torch.Tensor:
        """Draw a dropout mask like ``y``: 1 with probability 1 − dropout, else 0, unscaled.

        Drawn column by column and for the batch of all replicas, of which each takes its rows: the mask of an image
        does not depend on how columns and images are distributed.
        """
        size = len(y)
        rows = slice(size * self.columns.replica, size * (self.columns.replica + 1))
        held = self._num_local_columns
        masks = []
        for column in range(self.columns.index * held, (self.columns.index + 1) * held):
            text = f"dropout:{self.seed}:{step}:{name}:{column}"
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
            generator = torch.Generator(y.device).manual_seed(number)
            shape = (size * self.columns.replicas, y.shape[1] // held)
            drawn = torch.rand(shape, generator=generator, device=y.device) >= self.recipe.dropout
            masks.append(drawn[rows])
        return torch.cat(masks, 1).to(y.dtype)


def _make_post_conv(recipe: Recipe) -> dict[str, list[PostConvOp]]:
    """Return the operations that follow each convolution, in order, by the convolution's name."""
    relu = recipe.activation == "relu"
    pool = PostConv(relu=False, size=recipe.pool_size, stride=2)
    norm = PostConv(
        relu=False,
        maps=recipe.lrn_maps if recipe.lrn else 0,
        alpha=recipe.lrn_alpha,
        beta=recipe.lrn_beta,
        k=recipe.lrn_k,
    )
    normed = replace(norm, size=pool.size, stride=pool.stride)
    first: list[PostConvOp] = [replace(normed, relu=relu)]
    if recipe.lrn_before_relu and relu:
        first = [normed, PostConv()]
    second: list[PostConvOp] = [replace(normed, relu=relu)]
    if recipe.spatial_norm:
        second = [replace(norm, relu=relu), spatial_norm, pool]
    activated: list[PostConvOp] = [PostConv()] if relu else []
    return {
        "conv1": first,
        "conv2": second,
        "conv3": activated,
        "conv4": activated,
        "conv5": [replace(pool, relu=relu)],
        "conv6": activated,
    }


def spatial_norm(x: torch.Tensor, _groups: int) -> torch.Tensor:
    """Return x / (1 + 4e-5 Σ x²)^¾, summed over 5×5 pixels of each map, zero outside (the program's "cnorm2")."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    sums = F.avg_pool2d(wide * wide, 5, stride=1, padding=2, count_include_pad=True)
    root = torch.rsqrt(1.0 + 1e-3 * sums)
    return (wide * root * root.sqrt()).to(x.dtype)
