"""Metrics on predictions, and their intervals by bootstrap over sites.

Points of one site share weather, soil and acquisition dates, so they are no independent witnesses; what is
resampled is the site. All metrics are computed from sums per site, so one resampling is a matrix product.
Axes: R draws of training labels, T test points, S sites, C classes, B bootstrap resamplings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def kappa_error(balanced_accuracy: Array | float, classes: int) -> Array | float:
    """Chance-adjusted balanced error: 0 perfect, 1 as good as guessing among ``classes``.

    ``1 - kappa`` with ``kappa = (BA - 1/C) / (1 - 1/C)``, which is ``(1 - BA) / (1 - 1/C)``.
    """
    return (1 - balanced_accuracy) / (1 - 1 / classes)


def error_reduction(value: Array | float, best_baseline: Array | float) -> Array | float:
    """``1 - (1 - BA) / (1 - BA_best_baseline)``: the share of the best baseline's error that is gone.

    The kappa-adjusted form is the same number whenever both saw the same classes, since the adjustment multiplies
    both errors by ``C / (C - 1)``.
    """
    return 1 - (1 - np.asarray(value)) / np.maximum(1 - np.asarray(best_baseline), 1e-12)


def _by_site(values_RT: NDArray, sites_T: NDArray[np.intp], count: int) -> Array:
    """Sums of ``(R, T)`` over the points of each site: ``(R, S)``."""
    sums = np.zeros((count, values_RT.shape[0]))
    np.add.at(sums, sites_T, values_RT.T)
    return sums.T


@dataclass(frozen=True)
class ClassTally:
    """Counts of a classification by site.

    Attributes:
        hit_RSC: correct predictions; predicted_RSC: predictions; total_SC: true members, of each class.
    """

    hit_RSC: Array
    predicted_RSC: Array
    total_SC: Array

    @classmethod
    def of(cls, predicted_RT: NDArray, truth_T: NDArray, sites_T: NDArray, classes: int) -> ClassTally:
        """From class indices ``0 .. classes - 1``; ``sites_T`` are site indices ``0 .. S - 1``."""
        count = int(sites_T.max()) + 1
        shape = (predicted_RT.shape[0], count * classes)
        hit, predicted = np.zeros(shape), np.zeros(shape)
        cell = sites_T * classes + truth_T
        for r, row in enumerate(predicted_RT):
            hit[r] = np.bincount(cell[row == truth_T], minlength=shape[1])
            predicted[r] = np.bincount(sites_T * classes + row, minlength=shape[1])
        total = np.bincount(cell, minlength=shape[1]).astype(np.float64)
        full = (shape[0], count, classes)
        return cls(hit.reshape(full), predicted.reshape(full), total.reshape(count, classes))

    def balanced_accuracy(self, weights_BS: Array) -> Array:
        """``(B, R)``: mean recall over the classes that a resampling holds."""
        total = weights_BS @ self.total_SC  # (B, C)
        hit = np.einsum("bs,rsc->brc", weights_BS, self.hit_RSC, optimize=True)
        recall = hit / np.maximum(total, 1)[:, None]
        held = (total > 0)[:, None]
        return (recall * held).sum(2) / np.maximum(held.sum(2), 1)

    def macro_f1(self, weights_BS: Array) -> Array:
        """``(B, R)``: mean F1 over the classes that a resampling holds."""
        total = (weights_BS @ self.total_SC)[:, None]
        hit = np.einsum("bs,rsc->brc", weights_BS, self.hit_RSC, optimize=True)
        predicted = np.einsum("bs,rsc->brc", weights_BS, self.predicted_RSC, optimize=True)
        held = total > 0
        f1 = 2 * hit / np.maximum(total + predicted, 1)
        return (f1 * held).sum(2) / np.maximum(held.sum(2), 1)


@dataclass(frozen=True)
class ValueTally:
    """Sums of a regression by site: squared and absolute error, truth, squared truth, number of points."""

    squared_RS: Array
    absolute_RS: Array
    truth_S: Array
    truth2_S: Array
    points_S: Array

    @classmethod
    def of(cls, predicted_RT: NDArray, truth_T: NDArray, sites_T: NDArray) -> ValueTally:
        count = int(sites_T.max()) + 1
        truth = truth_T.astype(np.float64) - float(np.mean(truth_T))  # R2 does not move; sums stay precise
        error = predicted_RT.astype(np.float64) - truth_T.astype(np.float64)
        one = np.ones_like(truth)
        sums = _by_site(np.stack([truth, truth**2, one]), sites_T, count)
        return cls(_by_site(error**2, sites_T, count), _by_site(np.abs(error), sites_T, count), *sums)

    def r2(self, weights_BS: Array) -> Array:
        """``(B, R)``: 1 - residual over total sum of squares, about the mean of the resampling."""
        points = weights_BS @ self.points_S
        spread = weights_BS @ self.truth2_S - (weights_BS @ self.truth_S) ** 2 / np.maximum(points, 1)
        return 1 - (weights_BS @ self.squared_RS.T) / np.maximum(spread, 1e-12)[:, None]

    def mae(self, weights_BS: Array) -> Array:
        """``(B, R)``: mean absolute error."""
        return (weights_BS @ self.absolute_RS.T) / np.maximum(weights_BS @ self.points_S, 1)[:, None]


@dataclass(frozen=True)
class Bootstrap:
    """One set of resamplings, shared by all feature sets so that differences between them are paired.

    Attributes:
        sites_BS: how often each site was drawn.
        draws_BR: share of each draw of training labels.
    """

    sites_BS: Array
    draws_BR: Array

    @classmethod
    def make(cls, sites: int, draws: int, resamplings: int, seed: int) -> Bootstrap:
        rng = np.random.default_rng([seed, sites, draws])
        picked = rng.multinomial(sites, np.full(sites, 1 / sites), size=resamplings)
        return cls(
            picked.astype(np.float64),
            rng.multinomial(draws, np.full(draws, 1 / draws), size=resamplings) / draws,
        )

    def values(self, metric: Callable[[Array], Array]) -> Array:
        """``(B,)`` resampled means of a metric that maps ``(B, S)`` weights to ``(B, R)`` values."""
        return (metric(self.sites_BS) * self.draws_BR).sum(1)


def mean_of(metric: Callable[[Array], Array], sites: int) -> float:
    """The metric on all test points, averaged over the draws."""
    return float(metric(np.ones((1, sites))).mean())


def interval(values_B: Array, level: float = 0.95) -> tuple[float, float]:
    """Central percentile interval of resampled values."""
    low, high = np.quantile(values_B, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def balanced_accuracy(truth: NDArray, predicted: NDArray) -> float:
    """Mean recall over the classes present in ``truth``."""
    return float(np.mean([np.mean(predicted[truth == label] == label) for label in np.unique(truth)]))


def macro_f1(truth: NDArray, predicted: NDArray) -> float:
    """Mean F1 over the classes present in ``truth``."""
    scores = []
    for label in np.unique(truth):
        hit = np.sum((truth == label) & (predicted == label))
        scores.append(2 * hit / (np.sum(truth == label) + np.sum(predicted == label)))
    return float(np.mean(scores))


def r2(truth: NDArray, predicted: NDArray) -> float:
    """Coefficient of determination about the mean of ``truth``."""
    return float(1 - np.sum((truth - predicted) ** 2) / np.sum((truth - np.mean(truth)) ** 2))
