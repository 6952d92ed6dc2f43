"""Checks of embeddings that need no labels beyond parcel numbers: collapse, grid artefacts, seams, stability.

Each has a known failure behind it: a learned upsampling whose sub-pixels speak different codes, vectors that share one
direction, tiles that disagree at their edges. Axes: H, W rows and columns, D embedding, NaN where there is no data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
# Bounds that tell a broken embedding from a sound one; they do not rank sound ones.
NEIGHBOUR_SLACK = 0.002
LEAST_RANK = 4
MOST_DOT = 0.9


@dataclass(frozen=True)
class Check:
    """One line of the quality table.

    Attributes:
        name: what was measured.
        value: the number.
        expected: in words, what a sound embedding shows, with the bound that ``passed`` was decided by.
        passed: None where there is no sharp limit.
    """

    name: str
    value: float
    expected: str
    passed: bool | None = None


def _unit(vectors: NDArray) -> NDArray[np.float64]:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def neighbour_cosine(embedding_HWD: Vectors, parcels_HW: NDArray[np.integer], distance_px: int) -> float:
    """Mean cosine of two pixels of one parcel, ``distance_px`` apart in a row or a column.

    Parcel 0 is no parcel. At 1 px it must not be below 2 px: neighbours that differ more than the next but one are
    the checkerboard of an upsampling kernel.

    Raises:
        ValueError: when no two such pixels exist.
    """
    unit = _unit(embedding_HWD)
    total, count = 0.0, 0
    for axis in (0, 1):
        ahead = _slices(axis, distance_px, None)
        behind = _slices(axis, None, -distance_px)
        cosine = (unit[ahead] * unit[behind]).sum(-1)
        same = (parcels_HW[ahead] == parcels_HW[behind]) & (parcels_HW[ahead] != 0) & np.isfinite(cosine)
        total += float(cosine[same].sum())
        count += int(same.sum())
    if not count:
        raise ValueError(f"no parcel holds two pixels {distance_px} px apart")
    return total / count


def _slices(axis: int, start: int | None, stop: int | None) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(start, stop),)


def effective_rank(vectors_PD: Vectors) -> float:
    """Number of directions in use: the exponential of the entropy of the covariance's eigenvalues.

    1 for vectors on a line, D for an even spread (Roy & Vetterli 2007).
    """
    vectors = np.asarray(vectors_PD, np.float64)
    vectors = vectors[np.isfinite(vectors).all(1)]
    share = np.maximum(np.linalg.eigvalsh(np.atleast_2d(np.cov(vectors, rowvar=False))), 0)
    share = share[share > 0] / max(share.sum(), 1e-300)
    return float(np.exp(-(share * np.log(share)).sum()))


def mean_abs_dot(vectors_PD: Vectors, sites_P: NDArray, seed: int = 0, pairs: int = 20_000) -> float:
    """Mean ``|u . u'|`` over random pairs from different sites: near 1 when collapsed, 0.100 when uniform in 64-D.

    Raises:
        ValueError: with fewer than two sites.
    """
    finite = np.isfinite(vectors_PD).all(1)
    unit, sites = _unit(vectors_PD[finite]), np.asarray(sites_P)[finite]
    if len(np.unique(sites)) < 2:
        raise ValueError("pairs of different sites need at least two sites")
    rng = np.random.default_rng(seed)
    one, two = rng.integers(0, len(unit), (2, pairs))
    apart = sites[one] != sites[two]
    return float(np.abs((unit[one] * unit[two]).sum(1))[apart].mean())


def pair_cosine(before: Vectors, after: Vectors, mask: NDArray[np.bool_] | None = None) -> float:
    """Mean cosine of two years' vectors of the same pixels, of those in ``mask`` (unchanged ground).

    Raises:
        ValueError: when nothing is left to compare.
    """
    cosine = (_unit(before) * _unit(after)).sum(-1)
    chosen = np.isfinite(cosine) if mask is None else np.isfinite(cosine) & mask
    if not chosen.any():
        raise ValueError("no pixel has a vector in both years")
    return float(cosine[chosen].mean())


def seam_ratio(embedding_HWD: Vectors, rows: list[int], cols: list[int], away_px: int = 8) -> float:
    """How much more neighbours differ across tile boundaries than inside tiles; 1 without seams.

    The mean of ``1 - cos`` between the two pixels on either side of a boundary, over that of the pairs ``away_px``
    before and after it, which lie in the same landscape.

    Args:
        embedding_HWD: a mosaic of several tiles.
        rows: boundaries between row ``r - 1`` and row ``r``.
        cols: boundaries between column ``c - 1`` and column ``c``.
        away_px: distance of the pairs compared with.

    Raises:
        ValueError: when no boundary has data on both sides.
    """
    unit = _unit(embedding_HWD)
    across: list[NDArray] = []
    inside: list[NDArray] = []
    for axis, edges in ((0, rows), (1, cols)):
        line = np.moveaxis(unit, axis, 0)
        for edge in edges:
            for at, kept in ((edge, across), (edge - away_px, inside), (edge + away_px, inside)):
                if 1 <= at < len(line):
                    gap = 1 - (line[at - 1] * line[at]).sum(-1)
                    kept.append(gap[np.isfinite(gap)])
    if not across or not inside or not sum(map(len, across)) or not sum(map(len, inside)):
        raise ValueError("no tile boundary has data on both sides")
    return float(np.concatenate(across).mean() / max(float(np.concatenate(inside).mean()), 1e-9))


def checkerboard_ratio(embedding_HWD: Vectors) -> float:
    """Spectral power at the three Nyquist frequencies over that of their neighbours; 1 without a pattern.

    A pattern that repeats every second row, column or both has its power exactly there; a landscape has no reason to.
    Neighbours lie up to 4 bins away on the axes, and up to 2 bins in both directions for the diagonal one. Missing
    pixels count as the mean.

    Raises:
        ValueError: for an image below 16 x 16 px.
    """
    rows, cols = (size // 2 * 2 for size in embedding_HWD.shape[:2])
    if min(rows, cols) < 16:
        raise ValueError(f"an image of {rows} x {cols} px is too small for a spectrum; 16 x 16 px are needed")
    unit = _unit(embedding_HWD[:rows, :cols])
    centred = np.nan_to_num(unit - np.nanmean(unit, axis=(0, 1)))
    power = (np.abs(np.fft.fft2(centred, axes=(0, 1))) ** 2).sum(-1)
    row, col = rows // 2, cols // 2
    near = range(-2, 3)
    places = [
        ((row, 0), [(row - k, 0) for k in range(1, 5)]),
        ((0, col), [(0, col - k) for k in range(1, 5)]),
        ((row, col), [(row + k, (col + j) % cols) for k in near for j in near if (k, j) != (0, 0)]),
    ]
    peak = sum(power[at] for at, _ in places)
    around = sum(np.mean([power[at] for at in others]) for _, others in places)
    return float(peak / max(around, 1e-12))


def neighbour_check(embedding_HWD: Vectors, parcels_HW: NDArray[np.integer]) -> list[Check]:
    """The two rows of the sub-pixel check."""
    near, far = (neighbour_cosine(embedding_HWD, parcels_HW, distance) for distance in (1, 2))
    return [
        Check(
            "same-parcel cosine at 1 px",
            near,
            f"at least {far - NEIGHBOUR_SLACK:.3f}, that at 2 px less {NEIGHBOUR_SLACK:g}",
            near >= far - NEIGHBOUR_SLACK,
        ),
        Check("same-parcel cosine at 2 px", far, "near 1; no bound"),
    ]


def vector_checks(vectors_PD: Vectors, sites_P: NDArray) -> list[Check]:
    """Collapse checks on vectors of many sites."""
    dims = vectors_PD.shape[1]
    rank, least = effective_rank(vectors_PD), min(LEAST_RANK, dims)
    dot = mean_abs_dot(vectors_PD, sites_P)
    uniform = float(np.sqrt(2 / (np.pi * dims)))  # mean of |N(0, 1/D)|: 0.0997 in 64-D
    return [
        Check("effective rank", rank, f"above {least}; {dims} at most", rank > least),
        Check("mean |u·u'| between sites", dot, f"below {MOST_DOT:g}; {uniform:.3f} if uniform", dot < MOST_DOT),
    ]
