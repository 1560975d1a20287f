"""Local response normalisation: the paper's formula, torch's result, the true gradient."""

import pytest
import torch
import torch.nn.functional as F

from trainer.lrn import local_response_norm

ARGS = {"maps": 5, "alpha": 0.03, "beta": 0.75, "k": 2.0}
X = torch.randn(3, 9, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_it_is_the_formula_of_section_3_3():
    y = local_response_norm(X, **ARGS)
    for channel in range(9):
        window = X[:, max(0, channel - 2) : channel + 3]
        expected = X[:, channel] / (2.0 + 0.03 * (window**2).sum(1)) ** 0.75
        torch.testing.assert_close(y[:, channel], expected, rtol=1e-13, atol=0)


def test_torch_divides_alpha_by_the_number_of_maps():
    torch.testing.assert_close(local_response_norm(X, **ARGS), F.local_response_norm(X, 5, 5 * 0.03, 0.75, 2.0))


@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_the_gradient_is_that_of_finite_differences(beta):
    x = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: local_response_norm(v, 5, 0.03, beta, 2.0), x)
