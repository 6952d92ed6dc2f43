"""The measurements of one place over one support period, as arrays in their native types.

The same record serves a training sequence (one site) and an inference window (one tile with its margin).
It knows nothing of files, catalogs or models. Axes: N frames, C bands, H rows, W columns, G geometry numbers, K points.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.grid import Period, Window


@dataclass(frozen=True)
class RasterFrames:
    """The frames of one gridded source.

    ``physical = values * scale + offset`` per frame and band; values are the producer's own numbers, untouched.

    Attributes:
        values: ``(N, C, H, W)`` native dtype. H = W = 1 for sources without spatial extent (climate).
        nodata: the value in ``values`` that means "not measured" (NaN for float sources without a sentinel).
        weight: ``(N, H, W)`` uint8, 255 a trusted pixel, 0 cloud, shadow, nodata, between them where a mask is a
            probability; used in the loss only.
        time_ms: ``(N,)`` int64 acquisition time, ascending; the middle of the validity for aggregates.
        valid_ms: ``(N, 2)`` int64 half-open validity (an acquisition: ``[t, t + 1)``; a monthly mean: the month).
        scale, offset: ``(N, C)`` float64.
        geometry: ``(N, G)`` float32, the decoder's acquisition metadata, in the order of ``Source.geometry``.
        scene_ids: per frame the ids of the scenes that it was made from, joined by ``+``.
    """

    values: NDArray
    nodata: float
    weight: NDArray[np.uint8]
    time_ms: NDArray[np.int64]
    valid_ms: NDArray[np.int64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    geometry: NDArray[np.float32]
    scene_ids: tuple[str, ...]


@dataclass(frozen=True)
class PointSamples:
    """Sparse measurements (lidar footprints) on the pixel grid of the window.

    Attributes:
        row, col: ``(K,)`` int32 pixel indices.
        time_ms: ``(K,)`` int64.
        values: ``(K, C)`` float32 physical values.
    """

    row: NDArray[np.int32]
    col: NDArray[np.int32]
    time_ms: NDArray[np.int64]
    values: NDArray[np.float32]

    def where(self, keep: NDArray[np.bool_]) -> PointSamples:
        """Some of them, by a mask ``(K,)``."""
        return PointSamples(self.row[keep], self.col[keep], self.time_ms[keep], self.values[keep])


@dataclass(frozen=True)
class TextSamples:
    """Geolocated texts within the window.

    Attributes:
        row, col: ``(K,)`` int32 pixel indices.
        valid_ms: ``(K, 2)`` int64.
        uncertainty_m: ``(K,)`` float32, positional uncertainty in metres.
        text: the texts themselves, possibly already dropped (empty tuple) once vectors exist.
        vector: ``(K, T)`` float32, of a frozen language model.
    """

    row: NDArray[np.int32]
    col: NDArray[np.int32]
    valid_ms: NDArray[np.int64]
    uncertainty_m: NDArray[np.float32]
    text: tuple[str, ...]
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class Sequence:
    """Everything measured in one window over one support period.

    Attributes:
        sequence_id: unique and stable over runs.
        window: where, on the 10 m UTM grid.
        period: the support period.
        split: "train" or "test".
        rasters, points: by source name; a source without any measurement here is absent.
        texts: or None.
    """

    sequence_id: str
    window: Window
    period: Period
    split: str
    rasters: dict[str, RasterFrames] = field(default_factory=dict)
    points: dict[str, PointSamples] = field(default_factory=dict)
    texts: TextSamples | None = None
