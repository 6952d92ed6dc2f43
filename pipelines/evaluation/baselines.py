"""Designed features of single points: what an embedding has to beat (SPEC 6.3).

Composites, robust harmonics, regular interpolation and position, computed from the same frames as the model saw and,
unlike the model, with the producer's cloud mask. Random convolutional features: :mod:`.randomconv`.
Everything of a point comes from its own sequence, so no statistic of test points can leak; numbers that cannot be
known stay NaN and are filled from training points by the protocol. Axes: N frames, C bands, K points.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.randomconv import RandomFilters
from pipelines.grid import DAY_MS, WGS84, Period, transformer
from pipelines.sequence import RasterFrames, Sequence
from pipelines.sources.base import Source

Values = NDArray[np.float32]

ANNUAL = "annual_composite"
SEASONAL = "seasonal_composite"
HARMONICS = "harmonics"
INTERPOLATED = "interpolated_14d"
RANDOM_CONV = "random_conv"
XY = "xy"
XYZ = "xyz"
NAMES = (ANNUAL, SEASONAL, HARMONICS, INTERPOLATED, RANDOM_CONV, XY, XYZ)

IMAGING = ("sentinel2", "sentinel1", "landsat")
RADAR = ("sentinel1",)
NOT_MEASUREMENTS = ("angle",)  # incidence angle tells of the orbit, not of the ground
TRUSTED = 128  # of 255: a pixel whose weight is at least half

SEASONS = 4
STEP_DAYS = 14
PAIRS = 3
YEAR_DAYS = 365.25
HUBER = 1.345  # 95 % efficiency under normal noise (Huber 1981)
BISQUARE = 4.685  # the same of Tukey's redescending weight: a cloud missed by the mask ends with weight 0
# Ridge per harmonic order, in units of observations: nothing beside 20 clear looks, but three looks stay bounded.
RIDGE = (0.02, 0.1, 0.3)


@dataclass(frozen=True)
class PointSeries:
    """The observations of one source at some points.

    Attributes:
        values_NCK: in model space, NaN where not measured or (unless nothing else is left) not clear.
        time_ms: of the frames.
        radar: averaged rather than medianed in composites.
    """

    values_NCK: Values
    time_ms: NDArray[np.int64]
    radar: bool


def point_series(frames: RasterFrames, source: Source, rows: NDArray, cols: NDArray) -> PointSeries:
    """Observations at pixels ``(rows, cols)``: masked, except bands of a point that would have nothing left."""
    kept = [index for index, name in enumerate(source.band_names) if name not in NOT_MEASUREMENTS]
    picked = frames.values[:, :, rows, cols][..., None]  # (N, C, K, 1)
    values = np.asarray(source.to_model_space(picked, frames.scale, frames.offset, frames.nodata))[..., 0][:, kept]
    cloudy = (frames.weight[:, rows, cols] < TRUSTED)[:, None]  # (N, 1, K)
    clear = np.where(cloudy, np.float32(np.nan), values)
    bare = np.isnan(clear).all(0)
    values = np.where(bare, values, clear)
    return PointSeries(values.astype(np.float32), frames.time_ms, source.name in RADAR)


def nan_median(values: Values) -> Values:
    """Median over the first axis ignoring NaN; NaN where there is nothing. Much faster than ``np.nanmedian``."""
    if not len(values):
        return np.full(values.shape[1:], np.nan, np.float32)
    ordered = np.sort(values, axis=0)  # NaN last
    count = (~np.isnan(values)).sum(0)
    low, high = np.maximum((count - 1) // 2, 0), np.maximum(np.minimum(count // 2, len(values) - 1), 0)
    middle = np.take_along_axis(ordered, low[None], 0) + np.take_along_axis(ordered, high[None], 0)
    return (middle[0] / 2).astype(np.float32)


def nan_mean(values: Values) -> Values:
    """Mean over the first axis ignoring NaN; NaN where there is nothing."""
    known = ~np.isnan(values)
    count = known.sum(0)
    total = np.where(known, values, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def composite(series: PointSeries) -> Values:
    """``(C, K)``: median of an optical source, mean of a radar (in decibels)."""
    return nan_mean(series.values_NCK) if series.radar else nan_median(series.values_NCK)


def seasonal_composites(series: PointSeries, period: Period, seasons: int = SEASONS) -> Values:
    """``(seasons, C, K)`` composites of equal parts of the period.

    A part without observations takes the mean of the nearest parts before and after it, around the year.
    """
    share = (series.time_ms - period.start_ms) / (period.end_ms - period.start_ms)
    part = np.floor(share * seasons).astype(np.intp)  # a frame outside the period belongs to no part
    parts = np.stack(
        [
            composite(PointSeries(series.values_NCK[part == index], series.time_ms[part == index], series.radar))
            for index in range(seasons)
        ]
    )
    known = parts.copy()
    for step in range(1, seasons):
        missing = np.isnan(parts)
        if not missing.any():
            break
        around = nan_mean(np.stack([np.roll(known, step, 0), np.roll(known, -step, 0)]))
        parts = np.where(missing, around, parts)
    return parts


def harmonics(series: PointSeries, pairs: int = PAIRS, rounds: int = 6) -> Values:
    """``(2 * pairs + 2, C, K)`` robust annual harmonics: mean, cosine and sine per order, residual spread.

    In the manner of CCDC: iteratively reweighted least squares with Huber's weights and, in the last round, Tukey's
    bisquare; a tiny ridge on the harmonics keeps points with few looks bounded. The spread is the root mean square of
    the residuals under the final weights.
    """
    y_NS = series.values_NCK.reshape(len(series.time_ms), -1).astype(np.float64)  # S = C * K
    known = ~np.isnan(y_NS)
    count_S = known.sum(0)
    y_NS = np.where(known, y_NS, 0.0)
    phase = 2 * np.pi * (series.time_ms / DAY_MS / YEAR_DAYS)[:, None] * np.arange(1, pairs + 1)
    waves = np.stack([np.cos(phase), np.sin(phase)], axis=2).reshape(len(phase), -1)
    x_NF = np.concatenate([np.ones((len(phase), 1)), waves], axis=1)
    ridge = np.concatenate([[1e-9], np.repeat([RIDGE[min(order, len(RIDGE) - 1)] for order in range(pairs)], 2)])
    # Centre each series so that the ridge pulls towards the series' own mean.
    centre_S = y_NS.sum(0) / np.maximum(count_S, 1)
    z_NS = np.where(known, y_NS - centre_S, 0.0)
    outer = (x_NF[:, :, None] * x_NF[:, None, :]).reshape(len(x_NF), -1)
    weight_NS = known.astype(np.float64)
    features = x_NF.shape[1]
    residual_NS = z_NS
    for turn in range(rounds):
        normal = (weight_NS.T @ outer).reshape(-1, features, features) + np.diag(ridge)
        target = (weight_NS * z_NS).T @ x_NF
        beta_SF = np.linalg.solve(normal, target[..., None])[..., 0]
        residual_NS = np.where(known, z_NS - x_NF @ beta_SF.T, 0.0)
        size = np.abs(residual_NS)
        spread_S = nan_median(np.where(known, size, np.nan).astype(np.float32)) / 0.6745
        ratio = size / np.maximum(spread_S, 1e-6)
        if turn < rounds - 2:
            weight_NS = known * np.minimum(1.0, HUBER / np.maximum(ratio, 1e-9))
        elif turn < rounds - 1:
            weight_NS = known * np.clip(1 - (ratio / BISQUARE) ** 2, 0, None) ** 2
    beta_SF[:, 0] += centre_S
    rmse_S = np.sqrt((weight_NS * residual_NS**2).sum(0) / np.maximum(weight_NS.sum(0), 1e-9))
    out = np.concatenate([beta_SF.T, rmse_S[None]])
    out[:, count_S == 0] = np.nan
    return out.reshape(features + 1, *series.values_NCK.shape[1:]).astype(np.float32)


def interpolated(series: PointSeries, period: Period, step_days: int = STEP_DAYS) -> Values:
    """``(steps, C, K)``: linear in time between clear observations, constant beyond the first and last."""
    steps = max(round(period.days / step_days), 1)
    wanted = period.start_ms + (np.arange(steps) + 0.5) * (period.end_ms - period.start_ms) / steps
    _, bands, points = series.values_NCK.shape
    flat = series.values_NCK.reshape(len(series.time_ms), -1)
    out = np.full((steps, bands * points), np.nan, np.float32)
    for index in range(flat.shape[1]):
        known = ~np.isnan(flat[:, index])
        if known.any():
            out[:, index] = np.interp(wanted, series.time_ms[known], flat[known, index])
    return out.reshape(steps, bands, points)


def positions(sequence: Sequence, rows: NDArray, cols: NDArray) -> Values:
    """``(K, 4)``: sine and cosine of longitude and latitude."""
    x, y = sequence.window.centres()
    lon, lat = transformer(sequence.window.epsg, WGS84).transform(x[cols], y[rows])
    lon, lat = np.radians(lon), np.radians(lat)
    return np.stack([np.sin(lon), np.cos(lon), np.sin(lat), np.cos(lat)], axis=1).astype(np.float32)


def elevations(sequence: Sequence, rows: NDArray, cols: NDArray, source: Source) -> Values:
    """``(K,)`` metres, NaN without a model of the terrain."""
    frames = sequence.rasters.get(source.name)
    if frames is None or not len(frames.values):
        return np.full(len(rows), np.nan, np.float32)
    values = source.to_model_space(
        frames.values[:1, :, rows, cols][..., None], frames.scale[:1], frames.offset[:1], frames.nodata
    )
    return np.asarray(values)[0, source.band_names.index("elevation"), :, 0]


def median_image(sequence: Sequence, rows: NDArray, cols: NDArray, sources: Mapping[str, Source]) -> Values:
    """``(C, K)`` annual composites of all imaging sources, NaN rows for a source that is not there."""
    parts = []
    for name in IMAGING:
        if name in sources:
            series = _series(sequence, name, rows, cols, sources)
            parts.append(composite(series))
    return np.concatenate(parts)


def _series(sequence: Sequence, name: str, rows: NDArray, cols: NDArray, sources: Mapping[str, Source]) -> PointSeries:
    source = sources[name]
    if name in sequence.rasters:
        return point_series(sequence.rasters[name], source, rows, cols)
    bands = sum(band not in NOT_MEASUREMENTS for band in source.band_names)
    empty = np.full((1, bands, len(rows)), np.nan, np.float32)
    return PointSeries(empty, np.array([sequence.period.start_ms], np.int64), name in RADAR)


def sample_patches(
    sequence: Sequence, sources: Mapping[str, Source], count: int, seed: int, patch_px: int = 3
) -> Values:
    """``(count, C, patch_px, patch_px)`` pieces of a sequence's median image, for :meth:`RandomFilters.fit`.

    Training sequences only: the filters are then free of the test region.
    """
    rng = np.random.default_rng([seed, sequence.window.left_m % 2**32, sequence.window.top_m % 2**32])
    height, width = sequence.window.shape
    half = patch_px // 2
    rows, cols = rng.integers(half, height - half, count), rng.integers(half, width - half, count)
    return _patches(sequence, rows, cols, sources, patch_px)


def _patches(sequence: Sequence, rows: NDArray, cols: NDArray, sources: Mapping[str, Source], size_px: int) -> Values:
    """``(K, C, size, size)`` of the median image around points; edge pixels are repeated beyond the border."""
    height, width = sequence.window.shape
    reach = np.arange(size_px) - size_px // 2
    r = np.clip(rows[:, None, None] + reach[:, None], 0, height - 1)
    c = np.clip(cols[:, None, None] + reach[None, :], 0, width - 1)
    r, c = np.broadcast_arrays(r, c)
    # Windows of neighbouring points overlap: compute each pixel once.
    pixels, inverse = np.unique(r.ravel() * width + c.ravel(), return_inverse=True)
    image = median_image(sequence, pixels // width, pixels % width, sources)
    return image[:, inverse].reshape(len(image), len(rows), size_px, size_px).transpose(1, 0, 2, 3)


def point_features(
    sequence: Sequence,
    rows: NDArray,
    cols: NDArray,
    sources: Mapping[str, Source],
    filters: RandomFilters | None = None,
    names: Collection[str] = NAMES,
) -> dict[str, Values]:
    """Every baseline at pixels of one sequence.

    Args:
        sequence: with all its frames.
        rows: pixel rows ``(K,)``.
        cols: pixel columns ``(K,)``.
        sources: by name, in the band selection of the sequence; the same for all sequences, so that columns agree.
        filters: fitted on training sequences; without them there are no random convolutional features.
        names: baselines wanted.

    Returns:
        by name ``(K, D)`` float32, NaN where a number cannot be known.

    Raises:
        ValueError: for an unknown baseline, or points outside the sequence.
    """
    unknown = set(names) - set(NAMES)
    if unknown:
        raise ValueError(f"evaluate.features: unknown baseline {sorted(unknown)}; choose among {', '.join(NAMES)}")
    rows, cols = np.asarray(rows, np.intp), np.asarray(cols, np.intp)
    height, width = sequence.window.shape
    if len(rows) and (rows.min() < 0 or cols.min() < 0 or rows.max() >= height or cols.max() >= width):
        raise ValueError(f"sequence {sequence.sequence_id}: points lie outside its {height} x {width} px")
    series = [_series(sequence, name, rows, cols, sources) for name in IMAGING if name in sources]
    if not series:
        raise ValueError(f"no imaging source is configured; baselines need one of {', '.join(IMAGING)}")
    out: dict[str, Values] = {}

    def put(name: str, parts: list[Values]) -> None:
        """Joins ``(..., K)`` parts into ``(K, D)``."""
        if name in names:
            out[name] = np.concatenate([part.reshape(-1, len(rows)) for part in parts]).T.astype(np.float32)

    if ANNUAL in names:
        put(ANNUAL, [composite(one) for one in series])
    if SEASONAL in names:
        put(SEASONAL, [seasonal_composites(one, sequence.period) for one in series])
    if HARMONICS in names:
        put(HARMONICS, [harmonics(one) for one in series])
    if INTERPOLATED in names:
        put(INTERPOLATED, [interpolated(one, sequence.period) for one in series])
    place = positions(sequence, rows, cols)
    put(XY, [place.T])
    if "elevation" in sources:
        put(XYZ, [place.T, elevations(sequence, rows, cols, sources["elevation"])])
    if RANDOM_CONV in names and filters is not None:
        out[RANDOM_CONV] = filters(_patches(sequence, rows, cols, sources, filters.window_px))
    return out
