"""The update rule of section 5, and where torch's SGD departs from it."""

import pytest
import torch

from trainer.recipe import Recipe
from trainer.update import PaperUpdate


def run(rates, gradients):
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    update = PaperUpdate([w], Recipe())
    for rate, gradient in zip(rates, gradients, strict=True):
        w.grad = gradient.clone()
        update.step(rate)
    return w.detach()


def run_torch(rates, gradients):
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    sgd = torch.optim.SGD([w], lr=1.0, momentum=0.9, weight_decay=0.0005)
    for rate, gradient in zip(rates, gradients, strict=True):
        sgd.param_groups[0]["lr"] = rate
        w.grad = gradient.clone()
        sgd.step()
    return w.detach()


GRADIENTS = list(torch.randn(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def test_it_is_the_rule_as_printed():
    w, v = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    rates = [0.01] * 6 + [0.001] * 6
    for rate, gradient in zip(rates, GRADIENTS, strict=True):
        v = 0.9 * v - 0.0005 * rate * w - rate * gradient
        w = w + v
    torch.testing.assert_close(run(rates, GRADIENTS), w, rtol=1e-14, atol=0)


def test_torch_sgd_agrees_at_a_constant_rate_and_departs_after_a_drop():
    constant, drop = [0.01] * 12, [0.01] * 6 + [0.001] * 6
    torch.testing.assert_close(run(constant, GRADIENTS), run_torch(constant, GRADIENTS), rtol=1e-13, atol=0)
    assert (run(drop, GRADIENTS) - run_torch(drop, GRADIENTS)).abs().max() > 1e-3


def test_gradients_are_dropped_after_the_step_and_missing_ones_are_an_error():
    w = torch.nn.Parameter(torch.ones(2))
    update = PaperUpdate([w], Recipe())
    w.grad = torch.ones(2)
    update.step(0.1)
    assert w.grad is None
    with pytest.raises(ValueError, match="backward"):
        update.step(0.1)
