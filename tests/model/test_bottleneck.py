import numpy as np
import pytest
import torch
from scipy.integrate import quad

from aef_model.bottleneck import sample_von_mises_fisher, to_unit


def exact_cosine_moments(kappa, dim):
    """Mean and standard deviation of u.mu by quadrature of the von Mises-Fisher density in s = 1 - u.mu."""

    def density(s):
        return (s * (2 - s)) ** ((dim - 3) / 2) * np.exp(-kappa * s)

    peak = (dim - 3) / 2 / kappa
    scale = density(peak)
    top = min(peak * 8, 2.0)
    norm, first, second = (
        quad(lambda s, k=k: s**k * density(s) / scale, 0, top, epsabs=1e-14, epsrel=1e-11, points=[peak])[0]
        for k in range(3)
    )
    return 1 - first / norm, np.sqrt(second / norm - (first / norm) ** 2)


@pytest.mark.parametrize(("kappa", "dim"), [(8000.0, 64), (3000.0, 64), (8000.0, 16)])
def test_samples_follow_the_exact_distribution(kappa, dim):
    g = torch.Generator().manual_seed(0)
    n = 40_000
    mean = to_unit(torch.randn(dim, generator=g)).expand(n, dim)
    u = sample_von_mises_fisher(mean, kappa, g).double()
    torch.testing.assert_close(u.norm(dim=-1), torch.ones(n, dtype=torch.float64), atol=1e-5, rtol=0)
    s = 1 - (u * mean).sum(-1)
    expected, spread = exact_cosine_moments(kappa, dim)
    # four standard errors, and a thousandth of the mean for the sampler's own error
    assert abs(s.mean() - (1 - expected)) < 4 * spread / n**0.5 + 1e-3 * (1 - expected)
    assert abs(s.std() / spread - 1) < 4 / (2 * n) ** 0.5 + 2e-3
    average = u.mean(dim=0)
    assert abs(average.norm() - expected) < 1e-4  # mean resultant length
    assert (average / average.norm() * mean[0]).sum() > 1 - 1e-5  # mean direction
    side = u - (u * mean).sum(-1, keepdim=True) * mean
    spread_by_axis = (side / side.norm(dim=-1, keepdim=True)).T.cov()
    uniform = (torch.eye(dim, dtype=torch.float64) - torch.outer(mean[0], mean[0]).double()) / (dim - 1)
    assert (spread_by_axis - uniform).abs().max() < 6 / (dim - 1) / n**0.5  # no side is preferred


def test_the_papers_noise():
    """SPEC 2.4: E[cos] is about 0.9961 at kappa 8000."""
    assert exact_cosine_moments(8000.0, 64)[0] == pytest.approx(0.9961, abs=5e-5)


def test_gradients_flow_through_a_sample():
    x = torch.randn(5, 64, requires_grad=True)
    sample_von_mises_fisher(to_unit(x), 8000.0, torch.Generator().manual_seed(0))[:, 0].sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_unit_of_zero_is_finite_with_finite_gradient():
    x = torch.zeros(2, 64, requires_grad=True)
    unit = to_unit(x)
    assert torch.equal(unit.norm(dim=-1), torch.ones(2))
    unit.sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 64))
