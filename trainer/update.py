"""The paper's update rule (section 5): v ← 0.9 v − 0.0005 ε w − ε ∂L/∂w, w ← w + v.

The rate ε is inside v. ``torch.optim.SGD`` keeps it outside (w ← w − ε v), which is the same at a constant
rate but not after a drop: here the velocity gathered at the old rate goes on decaying, there it is divided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from trainer import kernels
from trainer.recipe import Recipe
from trainer.threads import array, computing, in_threads

CHUNK = 1 << 16  # the fewest numbers worth a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """ε of conv1's weights, of the other weights, of the biases; 0 freezes."""

    conv1: float
    weights: float
    biases: float

    def of(self, name: str) -> float:
        """The rate of a parameter by its canonical name."""
        if name.endswith(".bias"):
            return self.biases if self.conv1 or not name.startswith("conv1") else 0.0
        return self.conv1 if name == "conv1.weight" else self.weights


class PaperUpdate:
    """Momentum updates of parameters by canonical name.

    ``velocity`` and ``master`` are float32 (float64 for float64 parameters) tensors like them; ``master`` are the
    parameters themselves unless those are of a narrower type, which then are roundings of it.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], recipe: Recipe) -> None:
        """Start at rest."""
        self.parameters, self.recipe = dict(parameters), recipe
        self.master = {name: _wide(p.detach()) for name, p in self.parameters.items()}
        self.velocity = {name: torch.zeros_like(w) for name, w in self.master.items()}

    @torch.no_grad()
    def step(self, rates: Rates) -> None:
        """Apply one update with the gradients that the parameters hold, and drop the gradients.

        Raises ValueError if there are none.
        """
        for name, parameter in self.parameters.items():
            gradient, rate = parameter.grad, rates.of(name)
            if gradient is None:
                raise ValueError(f"update of {name} without gradient: call backward first")
            parameter.grad = None
            if rate == 0.0:
                continue
            decay = 0.0 if name.endswith(".bias") and not self.recipe.bias_decay else self.recipe.weight_decay
            w, v = self.master[name], self.velocity[name]
            if w.device.type == "cpu":
                self._compiled(name, gradient, decay * rate, rate)
                continue
            v.mul_(self.recipe.momentum).add_(w, alpha=-decay * rate).add_(gradient.to(v.dtype), alpha=-rate)
            w.add_(v)
            if w.data_ptr() != parameter.data_ptr():
                parameter.copy_(w)

    def _compiled(self, name: str, gradient: torch.Tensor, decay: float, rate: float) -> None:
        w, v, stored = self.master[name], self.velocity[name], self.parameters[name].data
        tensors = (w, v, gradient) if stored.dtype == w.dtype else (w, v, gradient, stored)
        flat = [array(_flat(tensor, w)) for tensor in tensors]
        factors = np.array([self.recipe.momentum, decay, rate], computing(w))
        kernel = kernels.update if len(flat) == 3 else kernels.update_rounded

        def part(n: slice) -> None:
            kernel(*(one[n] for one in flat), factors)

        in_threads(part, w.numel(), at_least=CHUNK)


def _flat(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """One-dimensional, in the order of ``like``'s memory."""
    if tensor.stride() != like.stride():
        tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def _wide(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))
