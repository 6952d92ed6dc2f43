"""The probes of the protocol: nearest neighbours and ordinary least squares, many draws at a time.

A draw is a set of rows of the training features. Distances are computed once per feature set and block of test
points and used by every draw. Axes: P training pool, T test points, D features, M points of a draw, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Draw = NDArray[np.intp]
BLOCK = 4096  # test points whose distances to the pool are held at once: 4096 x 10,000 float32 is 160 MB


def squared_distances(a_TD: Array, b_PD: Array) -> NDArray[np.float32]:
    """``(T, P)`` squared Euclidean distances; formed in float64 about the pool's mean: offsets cost no digits."""
    centre = b_PD.mean(0)
    a, b = a_TD - centre, b_PD - centre
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)
    return np.maximum(squared, 0).astype(np.float32)


def nearest(distances_TM: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """``(T, k)`` columns of the k smallest distances, nearest first; all of them when there are fewer than k."""
    k = min(k, distances_TM.shape[1])
    if k == 1:
        return distances_TM.argmin(1)[:, None]
    if k == distances_TM.shape[1]:
        return distances_TM.argsort(1, kind="stable")
    found = np.sort(distances_TM.argpartition(k - 1, axis=1)[:, :k], axis=1)
    order = np.take_along_axis(distances_TM, found, 1).argsort(1, kind="stable")
    return np.take_along_axis(found, order, 1)


def majority(labels_Tk: NDArray) -> NDArray:
    """The most frequent label of each row; among equally frequent ones that of the nearest (first) neighbour."""
    votes = (labels_Tk[:, :, None] == labels_Tk[:, None, :]).sum(2)
    return np.take_along_axis(labels_Tk, votes.argmax(1)[:, None], 1)[:, 0]


def knn(
    train_PD: Array, labels_P: NDArray, test_TD: Array, draws: Sequence[Draw], ks: Sequence[int], mean: bool = False
) -> dict[int, NDArray]:
    """Predictions of k nearest neighbours for every draw and k.

    Args:
        train_PD: pool of training points.
        labels_P: their labels.
        test_TD: test points.
        draws: index arrays into the pool.
        ks: neighbour counts.
        mean: mean of the neighbours' labels (regression) in place of their majority.

    Returns:
        for each k: ``(R, T)``.
    """
    out = {k: np.empty((len(draws), len(test_TD)), labels_P.dtype) for k in ks}
    most = max(ks)
    for start in range(0, len(test_TD), BLOCK):
        block = slice(start, start + BLOCK)
        distances = squared_distances(test_TD[block], train_PD)
        for r, draw in enumerate(draws):
            found = labels_P[draw][nearest(distances[:, draw], most)]
            for k in ks:
                out[k][r, block] = found[:, :k].mean(1) if mean else majority(found[:, :k])
    return out


def least_squares(x_MD: Array, y_MC: Array) -> tuple[Array, Array]:
    """Ordinary least squares with an intercept, no ridge; of several solutions the one with the smallest slopes.

    The intercept is not part of the norm: features and targets are centred first.

    Returns:
        slopes ``(D, C)`` and intercepts ``(C,)``.
    """
    x_mean, y_mean = x_MD.mean(0), y_MC.mean(0)
    x, y = x_MD - x_mean, y_MC - y_mean
    if len(x) <= x.shape[1]:
        # Fewer points than features: the same solution through the (M, M) Gram matrix, far cheaper.
        values, vectors = np.linalg.eigh(x @ x.T)
        keep = values > values[-1] * 1e-12
        dual = vectors[:, keep] @ ((vectors[:, keep].T @ y) / values[keep, None])
        slopes = x.T @ dual
    else:
        slopes = np.linalg.lstsq(x, y, rcond=None)[0]
    return slopes, y_mean - x_mean @ slopes


def linear_classes(train_PD: Array, labels_P: NDArray[np.intp], test_TD: Array, draws: Sequence[Draw]) -> NDArray:
    """``(R, T)`` class indices of one-vs-rest least squares on targets -1 and +1."""
    out = np.empty((len(draws), len(test_TD)), np.intp)
    for r, draw in enumerate(draws):
        present = np.unique(labels_P[draw])
        targets = np.where(labels_P[draw][:, None] == present, 1.0, -1.0)
        slopes, intercepts = least_squares(train_PD[draw], targets)
        out[r] = present[(test_TD @ slopes + intercepts).argmax(1)]
    return out


def linear_values(train_PD: Array, labels_P: Array, test_TD: Array, draws: Sequence[Draw]) -> Array:
    """``(R, T)`` values of least squares."""
    out = np.empty((len(draws), len(test_TD)))
    for r, draw in enumerate(draws):
        slopes, intercepts = least_squares(train_PD[draw], labels_P[draw][:, None].astype(np.float64))
        out[r] = (test_TD @ slopes + intercepts)[:, 0]
    return out


def best_threshold(scores_M: Array, positive_M: NDArray[np.bool_]) -> float:
    """The threshold on ``score > threshold`` with the best balanced accuracy; the middle one of equally good gaps.

    Candidates are the midpoints between neighbouring scores and one beyond each end.
    """
    order = np.sort(np.unique(scores_M))
    candidates = np.concatenate([[order[0] - 1e-9], (order[1:] + order[:-1]) / 2, [order[-1] + 1e-9]])
    above = scores_M[None] > candidates[:, None]
    recall = (above & positive_M).sum(1) / max(int(positive_M.sum()), 1)
    specificity = (~above & ~positive_M).sum(1) / max(int((~positive_M).sum()), 1)
    quality = recall + specificity
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    return float(candidates[best[len(best) // 2]])
