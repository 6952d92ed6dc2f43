"""Random convolutional features in the manner of MOSAIKS (Rolf et al. 2021): texture and colour without training.

Filters are whitened random patches of training images; a filter's response passes two opposite rectifiers and is
averaged over a small neighbourhood of the point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


@dataclass(frozen=True)
class RandomFilters:
    """A bank of filters. F filters, C bands, p pixels a side.

    Attributes:
        mean_C, std_C: of the training patches, by band.
        weights: ``(C * p * p, F)``, whitening included; a response has unit spread over the training patches.
        bias: ``(F,)`` thresholds of the rectifiers.
        patch_px: side p of a filter.
        pool_px: side of the neighbourhood over which responses are averaged.
    """

    mean_C: Values
    std_C: Values
    weights: Values
    bias: Values
    patch_px: int
    pool_px: int

    @classmethod
    def fit(cls, patches: Values, filters: int = 512, pool_px: int = 5, seed: int = 0) -> RandomFilters:
        """From ``(n, C, p, p)`` patches of training images; gives ``2 * filters`` features.

        Raises:
            ValueError: without any patch.
        """
        if not len(patches):
            raise ValueError("random convolutional features need at least one training patch")
        rng = np.random.default_rng(seed)
        mean = np.nan_to_num(_safe(np.nanmean, patches))
        std = np.nan_to_num(_safe(np.nanstd, patches), nan=1.0)
        std = np.where(std < 1e-6, 1.0, std).astype(np.float32)
        flat = _normalised(patches, mean, std).reshape(len(patches), -1).astype(np.float64)
        centre = flat.mean(0)
        # ZCA whitening, softened so that directions without variance are not blown up.
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(flat - centre, rowvar=False)))
        whiten = vectors @ np.diag(1 / np.sqrt(np.maximum(values, 0) + 1e-2)) @ vectors.T
        picked = rng.integers(0, len(flat), filters)
        bank = (flat[picked] - centre) @ whiten
        bank /= np.maximum(np.linalg.norm(bank, axis=1, keepdims=True), 1e-9)
        weights = whiten @ bank.T
        response = (flat - centre) @ weights
        weights = weights / np.maximum(response.std(0), 1e-6)
        bias = rng.uniform(-1, 1, filters) - centre @ weights
        return cls(
            mean.astype(np.float32),
            std,
            weights.astype(np.float32),
            bias.astype(np.float32),
            patches.shape[-1],
            pool_px,
        )

    @property
    def window_px(self) -> int:
        """Side of the image piece that the features of one point need."""
        return self.patch_px + self.pool_px - 1

    def __call__(self, windows: Values) -> Values:
        """``(K, C, window_px, window_px)`` pieces around the points -> ``(K, 2 F)`` features."""
        if windows.shape[2:] != (self.window_px, self.window_px):
            raise ValueError(f"windows are {windows.shape[2:]} px, the filters need {self.window_px}")
        x = _normalised(windows, self.mean_C, self.std_C)
        pieces = np.lib.stride_tricks.sliding_window_view(x, (self.patch_px, self.patch_px), axis=(2, 3))
        # (K, C, pool, pool, p, p) -> (K * pool * pool, C * p * p)
        columns = pieces.transpose(0, 2, 3, 1, 4, 5).reshape(-1, self.weights.shape[0])
        response = (columns @ self.weights + self.bias).reshape(len(windows), -1, len(self.bias))
        both = [np.maximum(response, 0).mean(1), np.maximum(-response, 0).mean(1)]
        return np.concatenate(both, axis=1).astype(np.float32)


def _safe(reduce: object, patches: Values) -> Values:
    """A NaN-aware reduction over all axes but the bands, silent where a band was never measured."""
    flat = np.moveaxis(patches, 1, 0).reshape(patches.shape[1], -1)
    known = ~np.isnan(flat).all(1)
    out = np.full(len(flat), np.nan)
    out[known] = reduce(flat[known].astype(np.float64), axis=1)  # type: ignore[operator]
    return out


def _normalised(patches: Values, mean_C: NDArray, std_C: NDArray) -> Values:
    """Standardised by band, 0 where not measured."""
    x = (patches - mean_C[:, None, None]) / std_C[:, None, None]
    return np.nan_to_num(x, nan=0.0).astype(np.float32)
