"""Exchanges of activations and gradients between the two columns of the network, overlapped with computation.

With one process, which holds both columns, there is nothing to exchange. With two, each rank holds one column, and
the layers that read both (conv3, fc6, fc7) exchange their inputs. The transfer runs while each rank computes with what
it has: forward with its own half of the inputs, backward its own gradients. The result equals that of the grouped
network on one device: both ranks compute the same loss, the gradient of an exchanged activation is the sum of both
ranks' contributions, and the gradient of the summed logits passes through unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from alexstream.pipeline.batch import BatchSlice, CropBatch, Exchange
from alexstream.trainer.distributed.watchdog import StallWatchdog
from alexstream.trainer.network.geometry import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Position of this process: rank ``index`` of the ``count`` of replica ``replica`` of ``replicas``.

    ``group`` (the replica's ranks) exchanges activations, ``data_group`` (the same ranks) input crops, and
    ``replica_group`` (the ranks that hold the same column) gradients. ``waiting`` watches every wait for another rank
    and ends those longer than ``timeout_s`` seconds.
    """

    index: int = 0
    count: int = 1
    replica: int = 0
    replicas: int = 1
    group: dist.ProcessGroup | None = None
    data_group: dist.ProcessGroup | None = None
    replica_group: dist.ProcessGroup | None = None
    watchdog: StallWatchdog | None = None
    timeout_s: float | None = None

    def wait_for(self, whom: str) -> AbstractContextManager[object]:
        """Return the context in which to wait for the ranks described by ``whom``, so that the wait is watched."""
        return nullcontext() if self.watchdog is None else self.watchdog.watch(whom, self.timeout_s)

    @property
    def batch_slice(self) -> BatchSlice:
        """The part of every batch that this process decodes."""
        return BatchSlice(index=self.replica * self.count + self.index, count=self.replicas * self.count)

    def apply_with_exchange(
        self, layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Apply a layer that reads both columns; ``x`` is this rank's half of its inputs, exchanged for the other."""
        return _ExchangedLayer.apply(x, weight, bias, layer, self)  # type: ignore[no-any-return, no-untyped-call]

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """Sum both columns' partial results; the backward pass passes the gradient through unchanged."""
        return partial if self.count == 1 else _SumPartials.apply(partial, self)  # type: ignore[no-untyped-call]

    def swap(self, mine: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Start sending a tensor to the other column and receiving one of the same shape.

        Returns a function that waits for the transfer and returns the received tensor.
        """
        sent, received = _to_memory_order(mine), torch.empty_like(_to_memory_order(mine))
        other = dist.get_global_rank(self.group, 1 - self.index) if self.group else 1 - self.index
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, sent.view(torch.uint8), other, self.group),
                dist.P2POp(dist.irecv, received.view(torch.uint8), other, self.group),
            ]
        )

        def wait() -> torch.Tensor:
            with self.wait_for("another rank"):
                for work in works:
                    work.wait()
            return received.permute(0, 3, 1, 2) if received.dim() == 4 else received

        return wait

    @property
    def exchange(self) -> Exchange | None:
        """The function that gathers the parts of a replica's input batch from its ranks; None for a single rank."""
        return None if self.count == 1 else self._start_exchange

    def _start_exchange(self, part: CropBatch) -> Callable[[], CropBatch]:
        wholes, works = [], []
        for tensor in part.tensors():
            whole = tensor.new_empty((tensor.shape[0] * self.count, *tensor.shape[1:]))
            halves = list(whole.chunk(self.count))
            works.append(dist.all_gather(halves, tensor.contiguous(), group=self.data_group, async_op=True))
            wholes.append(whole)

        def wait() -> CropBatch:
            with self.wait_for("another rank's part of a batch"):
                for work in works:
                    work.wait()
            return CropBatch.from_tensors(tuple(wholes))

        return wait


def _to_memory_order(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` contiguous and in memory order: images as (N, H, W, C)."""
    return x.permute(0, 2, 3, 1).contiguous() if x.dim() == 4 else x.contiguous()


class _ExchangedLayer(torch.autograd.Function):
    """A layer whose inputs lie in both columns. The weight is this rank's output rows over all inputs.

    Forward, the other column's inputs arrive while this rank applies its own half of the weight:
    y = W_mine · x + b, then + W_theirs · x_other.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, layer: Layer, columns: Columns
    ) -> torch.Tensor:
        arriving = columns.swap(x)
        mine, theirs = _split_weight(weight, columns)
        y = _apply_layer(layer, x, mine, bias)
        other = arriving()
        y += _apply_layer(layer, other, theirs, None)
        ctx.layer, ctx.columns = layer, columns
        ctx.save_for_backward(weight, x, other)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # Each rank's outputs depend on both halves of the inputs. The gradient that this rank computes for the other's
        # inputs is needed there, so it comes first and travels while the rest is computed here.
        weight, x, other = ctx.saved_tensors
        mine, theirs = _split_weight(weight, ctx.columns)
        arriving = ctx.columns.swap(_input_gradient(ctx.layer, grad, other, theirs))
        # The weight's input channels are in column order, whichever rank this is.
        whole = torch.cat((x, other) if ctx.columns.index == 0 else (other, x), 1)
        grad_weight = _weight_gradient(ctx.layer, grad, whole, weight)
        grad_bias = grad.sum((0, 2, 3) if grad.dim() == 4 else 0)
        grad_x = _input_gradient(ctx.layer, grad, x, mine)
        return grad_x + arriving(), grad_weight, grad_bias, None, None


def _split_weight(weight: torch.Tensor, columns: Columns) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a weight by input channels: the half for this column's inputs, and that for the other's."""
    halves = weight.chunk(2, 1)
    return halves[columns.index], halves[1 - columns.index]


def _apply_layer(layer: Layer, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
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
    # One gradient at a time: autograd would compute both in one call, but the input's is to be sent first.
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [layer.stride] * 2, [layer.padding] * 2, [1, 1], False, [0, 0], 1,
        [which == 0, which == 1, False],
    )  # fmt: skip
    return gradients[which]  # type: ignore[no-any-return]


class _SumPartials(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: torch.Tensor, columns: Columns) -> torch.Tensor:
        total = partial.clone()
        with columns.wait_for("another rank"):
            dist.all_reduce(total, group=columns.group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None
