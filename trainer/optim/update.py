"""The paper's update rule (section 5): v ← 0.9 v − 0.0005 ε w − ε ∂L/∂w, w ← w + v.

The rate ε is part of v. ``torch.optim.SGD`` multiplies by it outside (w ← w − ε v), which is the same at a constant
rate but not after a drop: here the velocity accumulated at the old rate only decays, there it is scaled down at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from alexstream.trainer.cpu import kernels
from alexstream.trainer.cpu.threads import as_array, compute_dtype, run_in_threads
from alexstream.trainer.recipe import Phase, Recipe

MIN_ITEMS_PER_THREAD = 1 << 16  # fewer numbers than this are not worth a thread


def choose_rate(name: str, phase: Phase) -> float:
    """Return ε of a parameter by its canonical name; 0: frozen, as conv1's bias is together with its weights."""
    if name == "conv1.weight":
        return phase.conv1_rate
    if name == "conv1.bias" and phase.conv1_rate == 0.0:
        return 0.0
    return phase.bias_rate if name.endswith(".bias") else phase.rate


class PaperSGD:
    """Momentum updates of parameters, by canonical name.

    ``velocity`` and ``master`` are float32 tensors (float64 for float64 parameters) of the parameters' shapes.
    ``master`` are the parameters themselves, unless those are of a narrower type: then they are ``master`` rounded.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], recipe: Recipe) -> None:
        self.parameters, self.recipe = dict(parameters), recipe
        self.master = {name: _widen(p.detach()) for name, p in self.parameters.items()}
        self.velocity = {name: torch.zeros_like(w) for name, w in self.master.items()}

    @torch.no_grad()
    def restore(self, master: Mapping[str, torch.Tensor], velocity: Mapping[str, torch.Tensor] | None) -> None:
        """Set the master parameters, and the velocity unless None; round parameters of a narrower type from these."""
        for name, w in self.master.items():
            w.copy_(master[name])
            self.parameters[name].data.copy_(w)
            if velocity is not None:
                self.velocity[name].copy_(velocity[name])

    @torch.no_grad()
    def step(self, phase: Phase) -> None:
        """Apply one update with the parameters' gradients, and delete these. Raises ValueError if there are none."""
        for name, parameter in self.parameters.items():
            gradient, rate = parameter.grad, choose_rate(name, phase)
            if gradient is None:
                raise ValueError(f"update of {name} without gradient: call backward first")
            parameter.grad = None
            if rate == 0.0:
                continue
            decay = 0.0 if name.endswith(".bias") and not self.recipe.bias_decay else self.recipe.weight_decay
            w, v = self.master[name], self.velocity[name]
            if w.device.type == "cpu":
                self._step_compiled(name, gradient, decay * rate, rate)
                continue
            v.mul_(self.recipe.momentum).add_(w, alpha=-decay * rate).add_(gradient.to(v.dtype), alpha=-rate)
            w.add_(v)
            if w.data_ptr() != parameter.data_ptr():
                parameter.copy_(w)

    def _step_compiled(self, name: str, gradient: torch.Tensor, decay: float, rate: float) -> None:
        w, v, stored = self.master[name], self.velocity[name], self.parameters[name].data
        tensors = (w, v, gradient) if stored.dtype == w.dtype else (w, v, gradient, stored)
        flat = [as_array(_flatten_like(tensor, w)) for tensor in tensors]
        factors = np.array([self.recipe.momentum, decay, rate], compute_dtype(w))
        kernel = kernels.update_weights if len(flat) == 3 else kernels.update_weights_bf16

        def part(n: slice) -> None:
            kernel(*(one[n] for one in flat), factors)

        run_in_threads(part, w.numel(), at_least=MIN_ITEMS_PER_THREAD)


def _flatten_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a one-dimensional view of a tensor in the order of ``like``'s memory; a copy if its own order differs."""
    if tensor.stride() != like.stride():
        tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def _widen(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))
