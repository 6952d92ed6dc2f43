"""Norms of the embedding's numbers, beside numpy's eigenvectors."""

import numpy as np
import pytest
import torch

from aef_model.codenorm import RIDGE, CodeNorm, inverse_fourth_root


def codes(dim=8):
    """``(4, 16, 16, dim)``: numbers that go together, with a middle of their own; directions from 1 to 1/100 wide."""
    g = torch.Generator().manual_seed(0)
    mixed = torch.randn(dim, dim, generator=g)
    wide = torch.logspace(0, -2, dim)
    return (torch.randn(4, 16, 16, dim, generator=g) * wide) @ mixed + 5


def power(matrix, exponent):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def test_code_norm_standardises_a_batch_and_remembers_it():
    norm = CodeNorm(8)
    x = torch.randn(4, 16, 16, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9) + 5
    for _ in range(400):
        y = norm(x).flatten(0, -2)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.std(dim=0), torch.ones(8), atol=1e-3, rtol=0)
    norm.eval()
    # one place alone is told what it was told among the others
    torch.testing.assert_close(norm(x[:1]).flatten(0, -2), y[: 16 * 16], atol=5e-3, rtol=0)
    before = norm.mean.clone()
    norm(x + 3)
    assert (norm.mean == before).all()


def test_half_whitening_makes_a_directions_width_the_root_of_what_it_was():
    norm, x = CodeNorm(8, half_white=True), codes()
    for _ in range(600):  # until nothing of the start is remembered
        y = norm(x)
    cells = x.flatten(0, -2).double().numpy()
    covariance = np.cov(cells.T, bias=True)
    covariance = covariance / np.trace(covariance) + np.eye(8) * RIDGE / 8
    expected = (cells - cells.mean(axis=0)) @ power(covariance, -0.25)
    expected /= expected.std(axis=0)
    np.testing.assert_allclose(y.flatten(0, -2).numpy(), expected, atol=2e-3)
    widths = [np.linalg.svd(z - z.mean(axis=0), compute_uv=False) for z in (cells, expected)]
    assert widths[0].max() / widths[0].min() > 100 and widths[1].max() / widths[1].min() < 30
    norm.eval()
    torch.testing.assert_close(norm(x[:1]), y[:1], atol=2e-2, rtol=0)  # as among the others
    kept = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(x + 3)
    assert all(torch.equal(value, kept[name]) for name, value in norm.state_dict().items())


def test_several_batches_of_one_step_keep_their_own_matrix():
    norm, x = CodeNorm(8, half_white=True), codes().requires_grad_()
    (norm(x).sin().sum() + norm(x * 2).sin().sum()).backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0


def test_gradients_go_through_the_mean_and_the_scale_but_not_through_the_matrix():
    """As those of a fixed matrix, by autograd: the last that was used."""
    norm, x = CodeNorm(8, half_white=True), codes().requires_grad_()
    norm(x).sin().sum().backward()
    again = x.detach().requires_grad_()
    y = (again - again.flatten(0, -2).mean(dim=0)) @ norm.whitening
    (y / (y.flatten(0, -2).var(dim=0, correction=0) + 1e-5).sqrt()).sin().sum().backward()
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-3, atol=1e-5)


def test_codes_that_are_all_alike_are_finite():
    assert inverse_fourth_root(torch.zeros(64, 64, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("narrowest", [1.0, 1e-2, 1e-8, 0.0])
def test_the_inverse_fourth_root_is_that_of_the_eigenvalues(narrowest):
    """From all directions alike to some that hold nothing."""
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))
    covariance = 7 * (turn * np.linspace(narrowest, 1, 64) ** 2) @ turn.T
    expected = power(covariance / np.trace(covariance) + np.eye(64) * RIDGE / 64, -0.25)
    got = inverse_fourth_root(torch.from_numpy(covariance)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max())


def test_one_direction_alone_is_within_the_steps_of_the_iteration():
    """The hardest case: all of the variance in one direction, 640,000 times what the ridge gives each of the others."""
    covariance = np.zeros((64, 64))
    covariance[3, 3] = 5.0
    expected = power(covariance / 5 + np.eye(64) * RIDGE / 64, -0.25)
    got = inverse_fourth_root(torch.from_numpy(covariance)).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-6 * np.abs(expected).max())
