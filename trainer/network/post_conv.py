"""Operations after a convolution, fused into one: ReLU, local response normalization, max pooling; each optional.

On a CPU this is a compiled pass over memory (``trainer.cpu.kernels``); on other devices, or for exponents other than ¾,
it is a series of torch operations. The two agree up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from alexstream.trainer.cpu import kernels
from alexstream.trainer.cpu.threads import as_array, compute_dtype, run_in_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class PostConv:
    """Apply ReLU, normalization b = a / (k + α Σ a²)^β over ``maps`` adjacent channels, and max pooling, to images.

    ``maps`` 0: no normalization. ``size`` 1: no pooling; otherwise windows of ``size`` × ``size`` pixels.
    """

    relu: bool = True
    maps: int = 0
    alpha: float = 0.0
    beta: float = 0.75
    k: float = 1.0
    size: int = 1
    stride: int = 1

    def __call__(self, x_NCHW: torch.Tensor, groups: int) -> torch.Tensor:
        """Apply the operations; channels are normalized within each of ``groups`` equal parts."""
        if x_NCHW.device.type == "cpu" and self.beta == 0.75:
            form = [groups, int(self.relu), self.maps, self.size, self.stride]
            y: torch.Tensor = torch.ops.alexstream.tail(x_NCHW, form, [self.alpha, self.k])[0]
            return y
        return self.apply_torch(x_NCHW, groups)

    def apply_torch(self, x_NCHW: torch.Tensor, groups: int) -> torch.Tensor:
        """Apply the operations with torch, using only those whose gradients are deterministic."""
        x = F.relu(x_NCHW) if self.relu else x_NCHW
        if self.maps:
            n, c, h, w = x.shape
            x = self._normalize(x.reshape(n * groups, c // groups, h, w)).view(n, c, h, w)
        if self.size > 1:
            x = _DeterministicMaxPool.apply(x, self.size, self.stride)  # type: ignore[no-untyped-call]
        return x.to(x_NCHW.dtype)

    def _normalize(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        squares = F.pad(wide * wide, (0, 0, 0, 0, self.maps // 2, self.maps // 2))
        total = squares[:, : x.shape[1]]
        for i in range(1, self.maps):
            total = total + squares[:, i : i + x.shape[1]]
        return wide * (self.k + self.alpha * total).pow(-self.beta)


class _DeterministicMaxPool(torch.autograd.Function):
    """Max pooling with a deterministic backward pass: it adds in a fixed order, unlike torch's on a GPU."""

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


def _forward_cpu(x: torch.Tensor, form: list[int], numbers: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    x_NHWC = _to_nhwc(x)
    y_NPQC, chosen_NPQC = _allocate_outputs(x_NHWC, form)
    constant = kernels.make_constants(numbers[0], numbers[1], compute_dtype(x))

    def part(n: slice) -> None:
        kernels.forward(as_array(x_NHWC[n]), tuple(form), constant, as_array(y_NPQC[n]), as_array(chosen_NPQC[n]))

    run_in_threads(part, len(x))
    return y_NPQC.permute(0, 3, 1, 2), chosen_NPQC


def _forward_fake(x: torch.Tensor, form: list[int], numbers: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    y_NPQC, chosen_NPQC = _allocate_outputs(x.permute(0, 2, 3, 1), form)
    return y_NPQC.permute(0, 3, 1, 2), chosen_NPQC


def _backward_cpu(
    grad: torch.Tensor, x: torch.Tensor, chosen: torch.Tensor, form: list[int], numbers: list[float]
) -> torch.Tensor:
    x_NHWC, g_NPQC = _to_nhwc(x), _to_nhwc(grad)
    dx_NHWC = torch.empty_like(x_NHWC)
    constant = kernels.make_constants(numbers[0], numbers[1], compute_dtype(x))

    def part(n: slice) -> None:
        given = as_array(x_NHWC[n]), tuple(form), constant, as_array(g_NPQC[n]), as_array(chosen[n])
        kernels.backward(*given, as_array(dx_NHWC[n]))

    run_in_threads(part, len(x))
    return dx_NHWC.permute(0, 3, 1, 2)


def _backward_fake(
    grad: torch.Tensor, x: torch.Tensor, chosen: torch.Tensor, form: list[int], numbers: list[float]
) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x, output[1])


def _autograd_backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
    return (torch.ops.alexstream.tail_backward(grad, *ctx.saved_tensors, *ctx.constants), None, None)


def _register_operators() -> torch.library.Library:
    """Register the forward and backward operators, which torch.compile treats as opaque.

    Not with ``torch.library.custom_op``, which imports torch._dynamo at the first call in every process, and takes
    more than a second for that.
    """
    library = torch.library.Library("alexstream", "DEF")
    library.define("tail(Tensor x, int[] form, float[] numbers) -> (Tensor, Tensor)")
    library.define("tail_backward(Tensor grad, Tensor x, Tensor chosen, int[] form, float[] numbers) -> Tensor")
    for name, kernel, fake in (("tail", _forward_cpu, _forward_fake), ("tail_backward", _backward_cpu, _backward_fake)):
        library.impl(name, kernel, "CPU")
        torch.library.register_fake(f"alexstream::{name}", fake, lib=library)
    torch.library.register_autograd(
        "alexstream::tail", _autograd_backward, setup_context=_save_for_backward, lib=library
    )
    return library


def _allocate_outputs(x_NHWC: torch.Tensor, form: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    n, h, w, c = x_NHWC.shape
    size, stride = form[3:]
    shape = (n, (h - size) // stride + 1, (w - size) // stride + 1, c)
    return x_NHWC.new_empty(shape), x_NHWC.new_empty(shape, dtype=torch.uint8)


def _to_nhwc(x_NCHW: torch.Tensor) -> torch.Tensor:
    """Return images as contiguous (N, H, W, C); channels-last images are not copied."""
    return x_NCHW.permute(0, 2, 3, 1).contiguous()


_LIBRARY = _register_operators()  # operators are unregistered when this is deleted
