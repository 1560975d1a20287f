"""The paper's update rule (section 5): v ← 0.9 v − 0.0005 ε w − ε ∂L/∂w, w ← w + v.

The rate ε is inside v. ``torch.optim.SGD`` keeps it outside (w ← w − ε v), which is the same at a constant
rate but not after a drop: here the velocity gathered at the old rate goes on decaying, there it is divided.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer.recipe import Recipe


class PaperUpdate:
    """Momentum updates of a list of parameters; ``velocity`` are tensors like them, in the same order."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], recipe: Recipe) -> None:
        """Start at rest."""
        self.parameters: list[torch.Tensor] = list(parameters)
        self.velocity = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.recipe = recipe

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Apply one update with the gradients that the parameters hold, and drop the gradients."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if len(gradients) != len(self.parameters):
            raise ValueError("update without gradients: call backward first")
        torch._foreach_mul_(self.velocity, self.recipe.momentum)
        torch._foreach_add_(self.velocity, self.parameters, alpha=-self.recipe.weight_decay * learning_rate)
        torch._foreach_add_(self.velocity, gradients, alpha=-learning_rate)
        torch._foreach_add_(self.parameters, self.velocity)
        for parameter in self.parameters:
            parameter.grad = None
