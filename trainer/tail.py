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
    """``relu``; LRN over ``maps`` adjacent channels (0: none), b = a / (k + α Σ a²)^β; pooling of ``size``², 1: none."""

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
            return _compiled(x_NCHW, groups, self.relu, self.maps, self.alpha, self.k, self.size, self.stride)[0]
        return self.by_library(x_NCHW, groups)

    def by_library(self, x_NCHW: torch.Tensor, groups: int) -> torch.Tensor:
        """The same by torch's operations, in float32 at least."""
        x = F.relu(x_NCHW) if self.relu else x_NCHW
        if self.maps:
            n, c, h, w = x.shape
            x = x.reshape(n * groups, c // groups, h, w)
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            alpha = self.alpha * self.maps  # torch divides it by the number of maps
            wide = F.local_response_norm(wide, self.maps, alpha, self.beta, self.k)
            x = wide.to(x.dtype).view(n, c, h, w)
        return F.max_pool2d(x, self.size, self.stride) if self.size > 1 else x


@torch.library.custom_op("alexstream::tail", mutates_args=())
def _compiled(
    x: torch.Tensor, groups: int, relu: bool, maps: int, alpha: float, k: float, size: int, stride: int
) -> tuple[torch.Tensor, torch.Tensor]:
    x_NHWC = _rows(x)
    y_NPQC, chosen_NPQC = _empty(x_NHWC, size, stride)
    constant = kernels.constants(alpha, k, computing(x))

    def part(n: slice) -> None:
        kernels.forward(
            array(x_NHWC[n]), groups, relu, maps, constant, size, stride, array(y_NPQC[n]), array(chosen_NPQC[n])
        )

    in_threads(part, len(x))
    return y_NPQC.permute(0, 3, 1, 2), chosen_NPQC


@_compiled.register_fake
def _(x: torch.Tensor, groups: int, relu: bool, maps: int, alpha: float, k: float, size: int, stride: int) -> Any:
    y_NPQC, chosen_NPQC = _empty(x.permute(0, 2, 3, 1), size, stride)
    return y_NPQC.permute(0, 3, 1, 2), chosen_NPQC


@torch.library.custom_op("alexstream::tail_backward", mutates_args=())
def _compiled_backward(
    grad: torch.Tensor, x: torch.Tensor, chosen: torch.Tensor,
    groups: int, relu: bool, maps: int, alpha: float, k: float, size: int, stride: int,
) -> torch.Tensor:  # fmt: skip
    x_NHWC, g_NPQC = _rows(x), _rows(grad)
    dx_NHWC = torch.empty_like(x_NHWC)
    constant = kernels.constants(alpha, k, computing(x))

    def part(n: slice) -> None:
        kernels.backward(
            array(x_NHWC[n]), groups, relu, maps, constant, size, stride,
            array(g_NPQC[n]), array(chosen[n]), array(dx_NHWC[n]),
        )  # fmt: skip

    in_threads(part, len(x))
    return dx_NHWC.permute(0, 3, 1, 2)


@_compiled_backward.register_fake
def _(grad: torch.Tensor, x: torch.Tensor, chosen: torch.Tensor, *_: Any) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x, output[1])


def _backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
    return (_compiled_backward(grad, *ctx.saved_tensors, *ctx.constants), *[None] * 7)


_compiled.register_autograd(_backward, setup_context=_save)


def _empty(x_NHWC: torch.Tensor, size: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    n, h, w, c = x_NHWC.shape
    shape = (n, (h - size) // stride + 1, (w - size) // stride + 1, c)
    return x_NHWC.new_empty(shape), x_NHWC.new_empty(shape, dtype=torch.uint8)


def _rows(x_NCHW: torch.Tensor) -> torch.Tensor:
    """(N, H, W, C), contiguous: no copy where images are channels-last."""
    return x_NCHW.permute(0, 2, 3, 1).contiguous()
