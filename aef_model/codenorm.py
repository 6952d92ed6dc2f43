"""Norms of the embedding's numbers over the places of the global training batch, before they are brought to the sphere.

At inference they are one fixed map, so that a pixel's code depends on nothing else.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aef_model.distributed import exchange
from aef_model.precision import full_precision


class CodeNorm(nn.Module):
    """Centre and scale each of the embedding's numbers over the places of the global training batch.

    All places of a batch share a season, and without this most of a young code is what they share: the sphere's other
    directions are found late.

    A code's numbers go together, and scaled one by one they leave nearly all of the variance to a few directions; what
    the others hold lies below the bottleneck's noise, and is neither decoded nor learned. Half-whitening multiplies by
    the covariance's power of -1/4 first, so that a direction's standard deviation is the square root of what it was.
    The power of -1/2, whitening, would make all directions alike, those that hold nothing but noise too. No gradient
    goes through that matrix: it is only the scale on which directions are learned.

    Args:
        dim: of the embedding.
        half_white: whether to half-whiten.
    """

    MOMENTUM = 0.02
    COVARIANCE_MOMENTUM = 0.05
    mean: Tensor
    variance: Tensor
    covariance: Tensor
    whitening: Tensor

    def __init__(self, dim: int, half_white: bool = False) -> None:
        super().__init__()
        self.half_white = half_white
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        if half_white:
            self.register_buffer("covariance", torch.eye(dim))
            self.register_buffer("whitening", torch.eye(dim))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., D)`` to the same, float32."""
        x = x.float()
        if not self.training:
            x = x - self.mean
            if self.half_white:
                with full_precision(x.device):
                    x = x @ self.whitening
            return x * (self.variance + 1e-5).rsqrt()
        with full_precision(x.device):
            mean = _over_processes(x.flatten(0, -2).mean(dim=0))
            x = x - mean
            if self.half_white:
                x = x @ self._learned_whitening(x.detach().flatten(0, -2))
            variance = _over_processes(x.flatten(0, -2).square().mean(dim=0))
        with torch.no_grad():
            self.mean.lerp_(mean, self.MOMENTUM)
            self.variance.lerp_(variance, self.MOMENTUM)
        return x * (variance + 1e-5).rsqrt()

    @torch.no_grad()
    def _learned_whitening(self, cells: Tensor) -> Tensor:
        """The matrix for this batch, ``(N, D)`` around its mean, of its covariance and those before it.

        A tensor of its own: a step has several batches, and each one's backward pass needs what it was multiplied by.
        """
        covariance = _over_processes(cells.T @ cells / len(cells))
        self.covariance.lerp_(covariance, self.COVARIANCE_MOMENTUM)
        whitening = inverse_fourth_root(self.covariance.double()).to(cells.dtype)
        self.whitening.copy_(whitening)
        return whitening


def _over_processes(x: Tensor) -> Tensor:
    """The mean of all processes' ``x``."""
    return exchange(x[None]).mean(dim=0)


RIDGE = 1e-4  # of the mean eigenvalue: directions with less are no wider for it
ROOT_STEPS, FOURTH_ROOT_STEPS = 24, 16


def inverse_fourth_root(covariance: Tensor) -> Tensor:
    """``(covariance / trace + RIDGE / D)`` to the power of -1/4, ``(D, D)`` float64.

    By products alone: an eigendecomposition makes the host wait for the device.
    """
    dim = len(covariance)
    eye = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)
    trace = covariance.diagonal().sum().clamp_min(1e-30)  # codes that are all alike have nothing to whiten
    scaled = covariance / trace + eye * (RIDGE / dim)
    root, _ = _square_roots(scaled / (1 + RIDGE / dim), ROOT_STEPS)
    _, inverse = _square_roots(root, FOURTH_ROOT_STEPS)
    return inverse / (1 + RIDGE / dim) ** 0.25


def _square_roots(matrix: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Square root and inverse square root of a symmetric matrix with eigenvalues in (0, 1].

    The coupled Newton-Schulz iteration (Higham, Functions of Matrices, 2008, section 6.3): the root of a small
    eigenvalue grows by half a step until it is there.
    """
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    root, inverse = matrix, eye
    for _ in range(steps):
        turn = 1.5 * eye - 0.5 * (inverse @ root)
        root, inverse = root @ turn, turn @ inverse
    return root, inverse
