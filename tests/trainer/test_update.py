"""The update rule of section 5, and where torch's SGD departs from it."""

from dataclasses import replace

import pytest
import torch

from alexstream.trainer.optim.update import PaperSGD
from alexstream.trainer.recipe import ORIGINAL, Phase, Recipe


def phase(rate, **rates):
    return Phase(**{"start": 0, "rate": rate, "conv1_rate": rate, "bias_rate": rate, **rates})


def run(rates, gradients):
    w = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    update = PaperSGD({"fc7.weight": w}, Recipe())
    for rate, gradient in zip(rates, gradients, strict=True):
        w.grad = gradient.clone()
        update.step(phase(rate))
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
    update = PaperSGD({"fc7.weight": w}, Recipe())
    w.grad = torch.ones(2)
    update.step(phase(0.1))
    assert w.grad is None
    with pytest.raises(ValueError, match="fc7"):
        update.step(phase(0.1))


def stepped(recipe, rates, gradient=0.0):
    """What one step makes of parameters and velocities that are all 1."""
    names = ("conv1.weight", "conv1.bias", "fc7.weight", "fc7.bias")
    parameters = {name: torch.nn.Parameter(torch.ones(1, dtype=torch.float64)) for name in names}
    update = PaperSGD(parameters, recipe)
    update.restore({k: v.detach() for k, v in parameters.items()}, {k: torch.ones(1) for k in names})
    for p in parameters.values():
        p.grad = torch.full((1,), gradient, dtype=torch.float64)
    update.step(rates)
    return {name: (p.item(), update.velocity[name].item()) for name, p in parameters.items()}


def test_the_program_s_biases_do_not_decay_and_have_their_own_rate():
    rates = phase(0.01, bias_rate=0.02)
    paper, original = stepped(Recipe(), rates, 1.0), stepped(ORIGINAL, rates, 1.0)
    assert paper["fc7.bias"][1] == pytest.approx(0.9 - 0.0005 * 0.02 - 0.02, abs=1e-15)
    assert original["fc7.bias"][1] == pytest.approx(0.9 - 0.02, abs=1e-15)
    assert paper["fc7.weight"] == original["fc7.weight"] == pytest.approx((1 + 0.889995, 0.889995), abs=1e-15)


def test_a_rate_of_zero_freezes_without_momentum_and_decay():
    after = stepped(Recipe(), phase(0.01, conv1_rate=0.0), 1.0)
    assert after["conv1.weight"] == after["conv1.bias"] == (1.0, 1.0)
    assert after["fc7.weight"] != (1.0, 1.0) != after["fc7.bias"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_parameters_are_updated_in_threads_to_the_same_bits(threads):
    generator = torch.Generator().manual_seed(3)
    start, gradient = (torch.randn(300_001, generator=generator) for _ in range(2))
    results = []
    for count in (1, threads):
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        w = torch.nn.Parameter(start.clone())
        update = PaperSGD({"fc6.weight": w}, Recipe())
        for _ in range(3):
            w.grad = gradient.clone()
            update.step(phase(0.1))
        torch.set_num_threads(before)
        results.append(w.detach())
    assert torch.equal(*results)


def test_bfloat16_parameters_are_roundings_of_float32_ones():
    """Steps far below a bfloat16's resolution add up."""
    w = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    update = PaperSGD({"fc7.weight": w}, Recipe(momentum=0.0, weight_decay=0.0))
    for _ in range(100):
        w.grad = torch.ones(8, dtype=torch.bfloat16)
        update.step(phase(1e-4))
    torch.testing.assert_close(update.master["fc7.weight"], torch.full((8,), 0.99), rtol=1e-5, atol=0)
    assert w.dtype == torch.bfloat16
    assert torch.equal(w.detach(), update.master["fc7.weight"].bfloat16())


def bfloat16_values(count, seed):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_a_bfloat16_update_is_the_float32_one_momentum_and_decay_included():
    """The masters are the same bits; the rule in float64, by hand, says the same to rounding."""
    start, wide = bfloat16_values(1000, 0), torch.nn.Parameter(bfloat16_values(1000, 0).float())
    narrow = torch.nn.Parameter(start.clone())
    updates = [PaperSGD({"fc7.weight": p}, Recipe(weight_decay=0.05)) for p in (narrow, wide)]
    w, v = start.double(), torch.zeros(1000, dtype=torch.float64)
    for number in range(10):
        gradient = bfloat16_values(1000, 1 + number)
        v = 0.9 * v - 0.05 * 0.1 * w - 0.1 * gradient.double()
        w = w + v
        narrow.grad, wide.grad = gradient.clone(), gradient.float()
        for update in updates:
            update.step(phase(0.1))
        # Each step is larger than what a bfloat16 can tell apart: one stored too late would be another.
        assert torch.equal(narrow.detach(), updates[0].master["fc7.weight"].bfloat16())
    assert torch.equal(updates[0].master["fc7.weight"], wide.detach())
    assert torch.equal(updates[0].velocity["fc7.weight"], updates[1].velocity["fc7.weight"])
    torch.testing.assert_close(wide.detach().double(), w, rtol=1e-5, atol=1e-6)


def test_a_stored_bfloat16_is_the_nearest_and_of_two_the_even_one():
    """All 2^16 patterns, exactly between two neighbours, and just below and above."""
    high = torch.arange(1 << 16, dtype=torch.int64) << 16
    bits = torch.cat([high + low for low in (0, 0x7FFF, 0x8000, 0x8001)])
    master = torch.where(bits < 1 << 31, bits, bits - (1 << 32)).to(torch.int32).view(torch.float32)
    master = master[torch.isfinite(master)]
    w = torch.nn.Parameter(torch.zeros(len(master), dtype=torch.bfloat16))
    update = PaperSGD({"fc7.weight": w}, Recipe(momentum=0.0, weight_decay=0.0))
    update.restore({"fc7.weight": master}, None)
    w.data.zero_()
    w.grad = torch.zeros_like(w)
    update.step(phase(0.1))
    assert torch.equal(update.master["fc7.weight"], master)
    assert torch.equal(w.detach(), master.bfloat16())
    assert len(master) == 4 * 2 * 255 * 128


class Elsewhere(torch.Tensor):
    """A tensor that says that it is on a GPU: the update takes the path that it takes there."""

    @property
    def device(self):
        return torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["fc7.weight", "fc7.bias"])
def test_the_update_of_a_gpu_is_the_rule_as_printed(name, dtype):
    start = bfloat16_values(100, 0).to(dtype)
    parameter = torch.nn.Parameter(start.clone())
    update = PaperSGD({name: parameter}, replace(ORIGINAL, weight_decay=0.05))
    update.master[name] = update.master[name].as_subclass(Elsewhere)
    w, v = start.double(), torch.zeros(100, dtype=torch.float64)
    decay = 0.05 if name == "fc7.weight" else 0.0
    for number, rate in enumerate((0.1, 0.1, 0.01)):
        gradient = bfloat16_values(100, 1 + number).to(dtype)
        v = 0.9 * v - decay * rate * w - rate * gradient.double()
        w = w + v
        parameter.grad = gradient
        update.step(phase(rate))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    master = update.master[name].as_subclass(torch.Tensor)
    rounding = 1e-13 if wide == torch.float64 else 1e-6
    assert master.dtype == update.velocity[name].dtype == wide
    torch.testing.assert_close(master.double(), w, rtol=rounding, atol=rounding)
    torch.testing.assert_close(update.velocity[name].double(), v, rtol=rounding, atol=rounding)
    assert torch.equal(parameter.detach(), master.to(dtype))


def test_a_gradient_in_another_layout_is_read_right():
    start = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    gradient = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        w = torch.nn.Parameter(start.clone())
        update = PaperSGD({"conv5.weight": w}, Recipe())
        w.grad = gradient.contiguous(memory_format=layout)
        update.step(phase(0.1))
        results.append(w.detach())
    assert torch.equal(*results)
