"""The column that this process is, and the exchanges between columns, forward and backward.

With one process (both columns in it) every exchange is the identity. With two, each rank holds one column.
The gradients equal those of the single-device grouped network: every rank computes the same loss, the
gradient of a gathered activation is the sum of both ranks' contributions, that of summed logits passes as is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from pipeline.batch import CropBatch, Part
from trainer.geometry import NUM_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """``index`` of ``count`` processes; ``group`` exchanges activations, ``data_group`` input crops."""

    index: int = 0
    count: int = 1
    group: dist.ProcessGroup | None = None
    data_group: dist.ProcessGroup | None = None

    @property
    def local(self) -> range:
        """The columns that this process holds."""
        held = NUM_COLUMNS // self.count
        return range(self.index * held, (self.index + 1) * held)

    @property
    def part(self) -> Part:
        """Which part of every batch this process decodes."""
        return Part(index=self.index, count=self.count)

    def gather(self, half: torch.Tensor) -> torch.Tensor:
        """Both columns' activations side by side in dimension 1; the backward pass sums both uses."""
        return half if self.count == 1 else _Gather.apply(half, self)  # type: ignore[no-untyped-call]

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum of both columns' partial results; the backward pass hands the gradient through."""
        return partial if self.count == 1 else _Sum.apply(partial, self)  # type: ignore[no-untyped-call]

    def exchange(self, part: CropBatch) -> Callable[[], CropBatch]:
        """Start to bring the parts of an input batch together (``pipeline.batch.Exchange``)."""
        if self.count == 1:
            return lambda: part
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


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, half: torch.Tensor, columns: Columns) -> torch.Tensor:
        ctx.columns = columns
        halves = [torch.empty_like(half) for _ in range(columns.count)]
        dist.all_gather(halves, half.contiguous(), group=columns.group)
        return torch.cat(halves, 1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        columns: Columns = ctx.columns
        # An all-to-all and a sum: gloo has no reduce-scatter that every supported torch offers.
        sent = torch.stack([g.contiguous() for g in grad.chunk(columns.count, 1)])
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=columns.group)
        return received.sum(0), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: torch.Tensor, columns: Columns) -> torch.Tensor:
        total = partial.clone()
        dist.all_reduce(total, group=columns.group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad, None
