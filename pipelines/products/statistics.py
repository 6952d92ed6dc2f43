"""One colour scheme for any number of tiles: sums taken when a tile is written make principal components later.

The moments of a tile are one ``(65, 65)`` matrix, the sum of ``[1, v] [1, v]^T`` over its valid vectors: count, sum and
outer product in one. They add up over tiles, so a map of a continent gets the same colours everywhere without reading
it again.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.products.quantise import DIMENSIONS, NODATA, dequantize
from pipelines.storage import Storage

READ_THREADS = 16
STRETCH_SIGMA = 2.5
_CHUNK = 1 << 16


def moments(codes: NDArray[np.int8]) -> NDArray[np.float64]:
    """``(65, 65)`` moments of the valid vectors of ``(64, ...)`` codes, decoded and scaled to length 1."""
    flat = codes.reshape(DIMENSIONS, -1)
    total = np.zeros((DIMENSIONS + 1, DIMENSIONS + 1))
    for start in range(0, flat.shape[1], _CHUNK):
        part = flat[:, start : start + _CHUNK]
        part = part[:, part[0] != NODATA]
        vectors = np.ones((DIMENSIONS + 1, part.shape[1]))
        vectors[1:] = dequantize(part, axis=0, renormalise=True)
        total += vectors @ vectors.T
    return total


def moments_bytes(matrix: NDArray[np.float64]) -> bytes:
    """The matrix as an ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, matrix)
    return buffer.getvalue()


def read_moments(storage: Storage, paths: Iterable[str]) -> NDArray[np.float64]:
    """The sum of the moments of many tiles, added in order of path so that it does not depend on timing."""
    total = np.zeros((DIMENSIONS + 1, DIMENSIONS + 1))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for blob in pool.map(storage.read_bytes, sorted(paths)):
            total += np.load(io.BytesIO(blob))
    return total


@dataclass(frozen=True)
class Components:
    """The first three principal components of embeddings.

    Attributes:
        mean: ``(64,)``.
        axes: ``(3, 64)``, each of length 1, its largest element positive.
        sigma: ``(3,)`` standard deviation along each axis.
        explained: ``(3,)`` share of the variance.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    sigma: NDArray[np.float64]
    explained: NDArray[np.float64]

    @classmethod
    def of(cls, matrix: NDArray[np.float64]) -> Components:
        """Components from summed moments.

        Raises:
            ValueError: when there is no valid vector.
        """
        count = matrix[0, 0]
        if count < 1:
            raise ValueError("no valid embedding to take principal components of")
        mean = matrix[0, 1:] / count
        covariance = matrix[1:, 1:] / count - np.outer(mean, mean)
        values, vectors = np.linalg.eigh(covariance)
        axes = vectors[:, ::-1][:, :3].T
        # An eigenvector's sign is arbitrary; without a rule two runs would swap colours.
        signs = np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])
        values = np.clip(values[::-1], 0, None)
        total = values.sum()
        explained = values[:3] / total if total > 0 else np.zeros(3)
        return cls(mean, axes * signs[:, None], np.sqrt(values[:3]), explained)


def pca_rgb(codes: NDArray[np.int8], components: Components, stretch_sigma: float = STRETCH_SIGMA) -> NDArray[np.uint8]:
    """A picture of embeddings: the first three components as red, green and blue.

    Args:
        codes: ``(64, H, W)``.
        components: of all tiles that are to be seen beside each other.
        stretch_sigma: standard deviations at which a colour is saturated.

    Returns:
        ``(H, W, 4)`` uint8; the fourth band is 0 where there is no embedding.
    """
    picture = np.zeros((*codes.shape[1:], 4), np.uint8)
    for row in range(codes.shape[1]):
        valid = codes[0, row] != NODATA
        vectors = dequantize(codes[:, row][:, valid], axis=0, renormalise=True)
        scores = components.axes @ (vectors - components.mean[:, None])
        reach = np.where(components.sigma > 0, components.sigma, 1.0) * stretch_sigma
        colours = np.clip((scores / reach[:, None] + 1) / 2, 0, 1) * 255
        picture[row, valid, :3] = np.round(colours).T.astype(np.uint8)
        picture[row, valid, 3] = 255
    return picture
