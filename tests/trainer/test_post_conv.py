"""ReLU, normalisation and pooling in one pass: the paper's formula, the library's result, the true gradient."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from alexstream.trainer.network.post_conv import PostConv

PAPER = PostConv(maps=5, alpha=1e-4, k=2.0, size=3, stride=2)
TAILS = {
    "layer 1 of the paper": PAPER,
    "without ReLU": PostConv(relu=False, maps=5, alpha=1e-4, k=2.0, size=3, stride=2),
    "normalisation alone": PostConv(relu=False, maps=5, alpha=0.03, k=2.0),
    "three maps": PostConv(maps=3, alpha=0.1, k=1.0, size=2, stride=2),
    "no normalisation": PostConv(size=3, stride=2),
    "ReLU alone": PostConv(),
    "nothing": PostConv(relu=False),
}
# Rounding of the type that is computed in, and of the type that is stored; the largest value is the unit.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 5e-7, torch.bfloat16: 2**-8}


def images(dtype=torch.float64, channels=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (30 * torch.randn(3, channels, 13, 11, dtype=torch.float64, generator=generator)).to(dtype)


def by_the_library(x, tail, groups):
    """By torch's own functions, each of them once."""
    x = F.relu(x) if tail.relu else x
    if tail.maps:
        n, c, h, w = x.shape
        by_group = x.reshape(n * groups, c // groups, h, w)
        x = F.local_response_norm(by_group, tail.maps, tail.alpha * tail.maps, tail.beta, tail.k).view(n, c, h, w)
    return F.max_pool2d(x, tail.size, tail.stride) if tail.size > 1 else x


def gradient(function, x, like):
    x = x.detach().clone().requires_grad_()
    y = function(x)
    y.backward(torch.cos(torch.arange(y.numel())).bfloat16().view(y.shape).to(like))
    return y.detach(), x.grad


def error(a, b):
    return ((a.double() - b.double()).abs().max() / b.abs().max()).item()


def test_normalisation_is_the_formula_of_section_3_3():
    x = images()
    y = TAILS["normalisation alone"](x, 1)
    for channel in range(10):
        window = x[:, max(0, channel - 2) : channel + 3]
        expected = x[:, channel] / (2.0 + 0.03 * (window**2).sum(1)) ** 0.75
        torch.testing.assert_close(y[:, channel], expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", TAILS)
@pytest.mark.parametrize("groups", [1, 2])
def test_result_and_gradient_are_the_library_s(name, groups, dtype):
    tail, x = TAILS[name], images(dtype)
    expected = gradient(lambda v: by_the_library(v, tail, groups), x.double(), torch.float64)
    for form in (tail, tail.apply_torch):
        ours = gradient(lambda v, form=form: form(v, groups), x, dtype)
        assert ours[0].dtype == dtype
        assert error(ours[0], expected[0]) < TOLERANCE[dtype]
        assert error(ours[1], expected[1]) < TOLERANCE[dtype]


@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_the_gradient_is_that_of_finite_differences(beta):
    tail = PostConv(relu=False, maps=5, alpha=0.03, beta=beta, k=2.0)
    x = images()[:1, :, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: tail(v, 2), x)


def test_columns_do_not_see_each_other():
    x = images()
    changed = x.clone()
    changed[:, 5:] *= 7
    assert torch.equal(PAPER(x, 2)[:, :5], PAPER(changed, 2)[:, :5])
    assert not torch.equal(PAPER(x, 1)[:, :5], PAPER(changed, 1)[:, :5])


def test_of_equal_maxima_the_first_gets_the_gradient_as_in_the_library():
    x = torch.ones(1, 2, 5, 5)
    tail = PostConv(relu=False, size=3, stride=2)
    expected = gradient(lambda v: F.max_pool2d(v, 3, 2), x, torch.float32)[1]
    for form in (tail, tail.apply_torch):
        assert torch.equal(gradient(lambda v, form=form: form(v, 1), x, torch.float32)[1], expected)


def test_what_is_not_a_number_stays_so():
    x = images()
    x[1, 3, 6, 6] = torch.nan
    assert torch.isnan(PAPER(x, 2)[1, 3]).any()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("relu", [True, False])
def test_what_is_not_a_number_stays_so_wherever_it_is_in_a_window(relu, dtype):
    tail = PostConv(relu=relu, size=3, stride=2)
    for place in product((4, 5, 6), repeat=2):
        x = images(dtype)
        x[1, 3, *place] = torch.nan
        expected = torch.isnan(F.max_pool2d(x, 3, 2))
        assert expected.any()
        for form in (tail, tail.apply_torch):
            assert torch.equal(torch.isnan(form(x, 1)), expected), place


def test_what_is_not_a_number_reaches_the_maps_that_it_is_normalized_with():
    x = images()
    x[1, 1, 5, 5] = torch.nan
    for form in (PAPER, PAPER.apply_torch):
        lost = torch.isnan(form(x, 2)).any(dim=(2, 3))
        assert lost[1].nonzero().flatten().tolist() == [0, 1, 2, 3] and not lost[0].any()


@pytest.mark.parametrize("tail", [PostConv(), PAPER, TAILS["no normalisation"]])
def test_at_exactly_zero_relu_has_no_gradient(tail):
    """As the library's: 0, not 1. Zeros are common, behind black margins and in what is padded."""
    x = images()
    x[:, ::2, :, 3:] = 0.0
    expected = gradient(lambda v: by_the_library(v, tail, 2), x, torch.float64)[1]
    for form in (tail, tail.apply_torch):
        ours = gradient(lambda v, form=form: form(v, 2), x, torch.float64)[1]
        assert (ours[x == 0] == 0).all()
        assert error(ours, expected) < 1e-14


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0])
def test_other_exponents_than_the_paper_s(beta):
    x = images()
    y = PostConv(relu=False, maps=3, alpha=0.02, beta=beta, k=1.5)(x, 1)
    for channel in range(10):
        window = x[:, max(0, channel - 1) : channel + 2]
        torch.testing.assert_close(
            y[:, channel], x[:, channel] / (1.5 + 0.02 * (window**2).sum(1)) ** beta, rtol=1e-13, atol=0
        )


def test_the_number_of_threads_and_the_layout_change_no_bit():
    x = images(torch.float32)
    results = []
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        results.append(gradient(lambda v: PAPER(v, 2), x, torch.float32))
        results.append(gradient(lambda v: PAPER(v.contiguous(memory_format=torch.channels_last), 2), x, torch.float32))
        torch.set_num_threads(before)
    for y, dx in results[1:]:
        assert torch.equal(y, results[0][0]) and torch.equal(dx, results[0][1])


def test_the_library_s_checks_of_the_operation_pass():
    """Fake shapes, autograd registration, no hidden aliasing: what torch.compile relies on."""
    x = images(torch.float32).contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(torch.ops.alexstream.tail.default, (x, [2, 1, 5, 3, 2], [1e-4, 2.0]))
