"""The paper's update rule (section 5): v ← 0.9 v − 0.0005 ε w − ε ∂L/∂w, w ← w + v.

The rate ε is inside v. ``torch.optim.SGD`` keeps it outside (w ← w − ε v), which is the same at a constant
rate but not after a drop: here the velocity gathered at the old rate goes on decaying, there it is divided.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from trainer import kernels
from trainer.recipe import Phase, Recipe
from trainer.threads import array, computing, in_threads

CHUNK = 1 << 16  # the fewest numbers worth a thread


def rate_of(name: str, phase: Phase) -> float:
    """ε of a parameter by its canonical name; 0: frozen, as conv1's bias is with its weights."""
    if name == "conv1.weight":
        return phase.conv1_rate
    if name == "conv1.bias" and phase.conv1_rate == 0.0:
        return 0.0
    return phase.bias_rate if name.endswith(".bias") else phase.rate


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
    def restore(self, master: Mapping[str, torch.Tensor], velocity: Mapping[str, torch.Tensor] | None) -> None:
        """Go on from these; float32 values that ``parameters`` of a narrower type are roundings of."""
        for name, w in self.master.items():
            w.copy_(master[name])
            self.parameters[name].data.copy_(w)
            if velocity is not None:
                self.velocity[name].copy_(velocity[name])

    @torch.no_grad()
    def step(self, phase: Phase) -> None:
        """Apply one update with the gradients that the parameters hold, and drop the gradients.

        Raises ValueError if there are none.
        """
        for name, parameter in self.parameters.items():
            gradient, rate = parameter.grad, rate_of(name, phase)
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
