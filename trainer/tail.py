"""What follows a convolution, as one operation: ReLU, local response normalisation, max pooling; each optional.

On a CPU it is a compiled pass (``kernels``); elsewhere, or for exponents other than ¾, the library's operations. The
two agree to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from trainer import kernels
from trainer.threads import array, computing, in_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """ReLU if wanted; LRN over ``maps`` adjacent channels, b = a / (k + α Σ a²)^β; pooling of ``size``² places.

    ``maps`` 0: no normalisation; ``size`` 1: no pooling.
    """

    relu: bool = True
    maps: int = 0
    alpha: float = 0.0
    beta: float = 0.75
    k: float = 1.0
    size: int = 1
    stride: int = 1

    def __call__(self, x_NCHW: torch.Tensor, groups: int) -> torch.Tensor:
        """Apply to images; normalisation stays within each of ``groups`` equal parts of the channels."""
        if x_NCHW.device.type == "cpu" and self.beta == 0.75:
            form = [groups, int(self.relu), self.maps, self.size, self.stride]
            y: torch.Tensor = torch.ops.alexstream.tail(x_NCHW, form, [self.alpha, self.k])[0]
            return y
        return self.by_library(x_NCHW, groups)

    def by_library(self, x_NCHW: torch.Tensor, groups: int) -> torch.Tensor:
        """The same by torch's operations, those whose gradients are the same every time."""
        x = F.relu(x_NCHW) if self.relu else x_NCHW
        if self.maps:
            n, c, h, w = x.shape
            x = self._normalised(x.reshape(n * groups, c // groups, h, w)).view(n, c, h, w)
        if self.size > 1:
            x = _MaxPool.apply(x, self.size, self.stride)  # type: ignore[no-untyped-call]
        return x.to(x_NCHW.dtype)

    def _normalised(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        squares = F.pad(wide * wide, (0, 0, 0, 0, self.maps // 2, self.maps // 2))
        total = squares[:, : x.shape[1]]
        for i in range(1, self.maps):
            total = total + squares[:, i : i + x.shape[1]]
        return wide * (self.k + self.alpha * total).pow(-self.beta)


class _MaxPool(torch.autograd.Function):
    """Max pooling whose backward pass adds in a fixed order; the library's, on a GPU, does not."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
        y, index = F.max_pool2d(x, size, stride, return_indices=True)
        ctx.save_for_backward(index)
        ctx.form = x.shape, size, stride
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (index,) = ctx.saved_tensors
        shape, size, stride = ctx.form
        wide = torch.promote_types(grad.dtype, torch.float32)
        dx = grad.new_zeros(shape, dtype=wide).contiguous(memory_format=torch.channels_last)
        rows, columns = grad.shape[2:]
        corner = stride * (
            torch.arange(rows, device=grad.device)[:, None] * shape[3] + torch.arange(columns, device=grad.device)
        )
        for i in range(size):
            for j in range(size):
                part = dx[:, :, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
                part += torch.where(index == corner + i * shape[3] + j, grad, 0)
        return dx.to(grad.dtype), None, None


def _forward(x: torch.Tensor, form: list[int], numbers: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    x_NHWC = _rows(x)
    y_NPQC, chosen_NPQC = _empty(x_NHWC, form)
    constant = kernels.constants(numbers[0], numbers[1], computing(x))

    def part(n: slice) -> None:
        kernels.forward(array(x_NHWC[n]), tuple(form), constant, array(y_NPQC[n]), array(chosen_NPQC[n]))

    in_threads(part, len(x))
    return y_NPQC.permute(0, 3, 1, 2), chosen_NPQC


def _forward_fake(x: torch.Tensor, form: list[int], numbers: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    y_NPQC, chosen_NPQC = _empty(x.permute(0, 2, 3, 1), form)
    return y_NPQC.permute(0, 3, 1, 2), chosen_NPQC


def _backward(
    grad: torch.Tensor, x: torch.Tensor, chosen: torch.Tensor, form: list[int], numbers: list[float]
) -> torch.Tensor:
    x_NHWC, g_NPQC = _rows(x), _rows(grad)
    dx_NHWC = torch.empty_like(x_NHWC)
    constant = kernels.constants(numbers[0], numbers[1], computing(x))

    def part(n: slice) -> None:
        given = array(x_NHWC[n]), tuple(form), constant, array(g_NPQC[n]), array(chosen[n])
        kernels.backward(*given, array(dx_NHWC[n]))

    in_threads(part, len(x))
    return dx_NHWC.permute(0, 3, 1, 2)


def _backward_fake(
    grad: torch.Tensor, x: torch.Tensor, chosen: torch.Tensor, form: list[int], numbers: list[float]
) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x, output[1])


def _differentiate(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
    return (torch.ops.alexstream.tail_backward(grad, *ctx.saved_tensors, *ctx.constants), None, None)


def _register() -> torch.library.Library:
    """The two operators, which torch.compile takes as they are.

    By hand: ``torch.library.custom_op`` loads torch._dynamo, a second and more, at the first call in every process.
    """
    library = torch.library.Library("alexstream", "DEF")
    library.define("tail(Tensor x, int[] form, float[] numbers) -> (Tensor, Tensor)")
    library.define("tail_backward(Tensor grad, Tensor x, Tensor chosen, int[] form, float[] numbers) -> Tensor")
    for name, kernel, fake in (("tail", _forward, _forward_fake), ("tail_backward", _backward, _backward_fake)):
        library.impl(name, kernel, "CPU")
        torch.library.register_fake(f"alexstream::{name}", fake, lib=library)
    torch.library.register_autograd("alexstream::tail", _differentiate, setup_context=_save, lib=library)
    return library


def _empty(x_NHWC: torch.Tensor, form: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    n, h, w, c = x_NHWC.shape
    size, stride = form[3:]
    shape = (n, (h - size) // stride + 1, (w - size) // stride + 1, c)
    return x_NHWC.new_empty(shape), x_NHWC.new_empty(shape, dtype=torch.uint8)


def _rows(x_NCHW: torch.Tensor) -> torch.Tensor:
    """(N, H, W, C), contiguous: no copy where images are channels-last."""
    return x_NCHW.permute(0, 2, 3, 1).contiguous()


_LIBRARY = _register()  # operators last as long as this
