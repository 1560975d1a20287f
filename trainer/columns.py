"""The column that this process is, and the exchanges between columns, forward and backward.

With one process (both columns in it) there is nothing to exchange. With two, each rank holds one column, and layers
that see both (conv3, fc6, fc7) swap their inputs. The swap runs while each rank works on what it has: forward on its
own half of the inputs, backward on its own gradients. The result is that of the single-device grouped network: every
rank computes the same loss, the gradient of a swapped activation is the sum of both ranks' contributions, that of
summed logits passes as is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from pipeline.batch import CropBatch, Exchange, Part, no_exchange
from trainer.geometry import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """``index`` of ``count`` processes of replica ``replica`` of ``replicas``.

    ``group`` exchanges activations, ``data_group`` input crops (both of the replica's ranks), ``replica_group``
    gradients (the ranks that hold the same column).
    """

    index: int = 0
    count: int = 1
    replica: int = 0
    replicas: int = 1
    group: dist.ProcessGroup | None = None
    data_group: dist.ProcessGroup | None = None
    replica_group: dist.ProcessGroup | None = None

    @property
    def part(self) -> Part:
        """Which part of every batch this process decodes."""
        return Part(index=self.replica * self.count + self.index, count=self.replicas * self.count)

    def talking(self, layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """A layer's outputs from its inputs in both columns, of which ``x`` are this rank's."""
        return _Talking.apply(x, weight, bias, layer, self)  # type: ignore[no-any-return, no-untyped-call]

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum of both columns' partial results; the backward pass hands the gradient through."""
        return partial if self.count == 1 else _Sum.apply(partial, self)  # type: ignore[no-untyped-call]

    def swap(self, mine: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Start to send a tensor to the other column and to receive its like; call the result to have it."""
        sent, received = _dense(mine), torch.empty_like(_dense(mine))
        other = dist.get_global_rank(self.group, 1 - self.index) if self.group else 1 - self.index
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, sent.view(torch.uint8), other, self.group),
                dist.P2POp(dist.irecv, received.view(torch.uint8), other, self.group),
            ]
        )

        def wait() -> torch.Tensor:
            for work in works:
                work.wait()
            return received.permute(0, 3, 1, 2) if received.dim() == 4 else received

        return wait

    @property
    def exchange(self) -> Exchange:
        """What brings the parts of a replica's input batch together."""
        return no_exchange if self.count == 1 else self._exchange

    def _exchange(self, part: CropBatch) -> Callable[[], CropBatch]:
        wholes, works = [], []
        for tensor in part.tensors():
            whole = tensor.new_empty((tensor.shape[0] * self.count, *tensor.shape[1:]))
            halves = list(whole.chunk(self.count))
            works.append(dist.all_gather(halves, tensor.contiguous(), group=self.data_group, async_op=True))
            wholes.append(whole)

        def wait() -> CropBatch:
            for work in works:
                work.wait()
            return CropBatch.of(tuple(wholes))

        return wait


def _dense(x: torch.Tensor) -> torch.Tensor:
    """In the order of its memory: images channels-last."""
    return x.permute(0, 2, 3, 1).contiguous() if x.dim() == 4 else x.contiguous()


class _Talking(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, layer: Layer, columns: Columns
    ) -> torch.Tensor:
        arriving = columns.swap(x)
        mine, theirs = _halves(weight, columns)
        y = _apply(layer, x, mine, bias)
        other = arriving()
        y += _apply(layer, other, theirs, None)
        ctx.layer, ctx.columns = layer, columns
        ctx.save_for_backward(weight, x, other)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, x, other = ctx.saved_tensors
        mine, theirs = _halves(weight, ctx.columns)
        arriving = ctx.columns.swap(_input_gradient(ctx.layer, grad, other, theirs))
        whole = torch.cat((x, other) if ctx.columns.index == 0 else (other, x), 1)
        grad_weight = _weight_gradient(ctx.layer, grad, whole, weight)
        grad_bias = grad.sum((0, 2, 3) if grad.dim() == 4 else 0)
        grad_x = _input_gradient(ctx.layer, grad, x, mine)
        return grad_x + arriving(), grad_weight, grad_bias, None, None


def _halves(weight: torch.Tensor, columns: Columns) -> tuple[torch.Tensor, torch.Tensor]:
    """What a weight does with this column's inputs, and with the other's."""
    halves = weight.chunk(2, 1)
    return halves[columns.index], halves[1 - columns.index]


def _apply(layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if layer.kernel:
        return F.conv2d(x, weight, bias, layer.stride, layer.padding)
    return F.linear(x, weight, bias)


def _input_gradient(layer: Layer, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _convolution_backward(layer, grad, x, weight, 0) if layer.kernel else grad @ weight


def _weight_gradient(layer: Layer, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _convolution_backward(layer, grad, x, weight, 1) if layer.kernel else grad.t() @ x


def _convolution_backward(
    layer: Layer, grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, which: int
) -> torch.Tensor:
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [layer.stride] * 2, [layer.padding] * 2, [1, 1], False, [0, 0], 1,
        [which == 0, which == 1, False],
    )  # fmt: skip
    return gradients[which]  # type: ignore[no-any-return]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: torch.Tensor, columns: Columns) -> torch.Tensor:
        total = partial.clone()
        dist.all_reduce(total, group=columns.group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None
