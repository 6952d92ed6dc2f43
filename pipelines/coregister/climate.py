"""Monthly weather of the cell that a window lies in, from a Zarr store of hourly or daily fields.

The twelve variables of SPEC 1.2: precipitation (sum over the month; least and greatest day), air temperature, dew point
and pressure (mean, least, greatest value). A quantity that the store does not hold is NaN, and so are extremes where
it holds daily means only: the extremes of means are not the means' extremes.
"""

from __future__ import annotations

import calendar
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import xarray as xr

from pipelines.coregister.complete import nearly_all, samples_a_day
from pipelines.coregister.fetch import Failure, Sign, Signers, retrying, signer_of
from pipelines.coregister.frames import ReadFailure
from pipelines.coregister.rain import daily, days_of, difference, is_accumulated
from pipelines.coregister.units import step_of, to_si
from pipelines.coregister.zarr_store import open_store
from pipelines.grid import WGS84, Period, Window, transformer
from pipelines.scenes import Scene
from pipelines.sequence import RasterFrames
from pipelines.sources.base import Source
from pipelines.sources.era5 import ENDINGS, PRECIPITATION, SAMPLED, STORED

# Chunks up to this size (all variables and times, single precision) are kept whole for the neighbouring cells.
CHUNK_BYTES = 64 * 2**20

# Cells of a chunk whose precipitation is looked at to tell what it is.
CELLS_ASKED = 64
# Samples further apart than this are by the day.
DAILY_S = 0.7 * 86_400
# More than this for the months of one place is no reading but a download.
FETCH_BYTES = 4 * 2**30
# Attribute of a store that holds months already, under the names of the source's bands.
MONTHLY = "monthly_of"

# In era5-pds as it lies on AWS, accumulations have an axis of their own.
TIMES = ("time", "valid_time", "time0", "time1")
RAIN = "total_precipitation"
LATITUDE, LONGITUDE = ("latitude", "lat", "y"), ("longitude", "lon", "x")


def read_climate(
    scenes: Sequence[Scene], window: Window, period: Period, source: Source, sign: Signers = None
) -> tuple[RasterFrames | None, list[ReadFailure]]:
    """The months of a period (those whose middle lies in it) at a window's centre, ``(N, C, 1, 1)`` float32."""
    failures: list[ReadFailure] = []
    x, y = (
        window.left_m + window.width_px * window.resolution_m / 2,
        window.top_m - window.height_px * (window.resolution_m / 2),
    )
    lon, lat = transformer(window.epsg, WGS84).transform(x, y)
    months: dict[tuple[int, int], tuple[str, dict[str, float]]] = {}
    for scene in sorted(scenes, key=lambda scene: scene.scene_id):
        if scene.footprint is not None and not scene.footprint.intersects(window.footprint()):
            continue
        for asset in scene.assets.values():
            options = json.dumps(asset.extra.get("open_kwargs") or {}, sort_keys=True)
            units = tuple(sorted((asset.extra.get("units") or {}).items()))
            read = partial(
                _monthly,
                options=options,
                units=units,
                accumulated=asset.extra.get("accumulated"),
                lon=round(lon, 4),
                lat=round(lat, 4),
                period=period,
                sign=signer_of(sign, scene),
            )
            found = retrying(read, asset.href, None)  # the store signs its keys itself, as their turn comes
            if isinstance(found, Failure):
                failures.append(ReadFailure(source.name, scene.scene_id, asset.href, found.kind, found.reason))
                continue
            for month, values in found.items():
                have = months.setdefault(month, (scene.scene_id, {}))
                for name, value in values.items():
                    have[1].setdefault(name, value)
    return _frames(months, period, source), failures


def _frames(
    months: Mapping[tuple[int, int], tuple[str, dict[str, float]]], period: Period, source: Source
) -> RasterFrames | None:
    rows = []
    for (year, month), (scene_id, values) in sorted(months.items()):
        start_ms, end_ms = month_bounds(year, month)
        numbers = [values.get(name, np.nan) for name in source.band_names]
        if period.contains((start_ms + end_ms) // 2) and not np.isnan(numbers).all():
            rows.append((start_ms, end_ms, scene_id, numbers))
    if not rows:
        return None
    bands = len(source.bands)
    return RasterFrames(
        values=np.array([row[3] for row in rows], np.float32)[:, :, None, None],
        nodata=float(source.nodata),
        weight=np.full((len(rows), 1, 1), 255, np.uint8),
        time_ms=np.array([(row[0] + row[1]) // 2 for row in rows], np.int64),
        valid_ms=np.array([row[:2] for row in rows], np.int64),
        scale=np.ones((len(rows), bands)),
        offset=np.zeros((len(rows), bands)),
        geometry=np.empty((len(rows), 0), np.float32),
        scene_ids=tuple(row[2] for row in rows),
    )


def month_bounds(year: int, month: int) -> tuple[int, int]:
    """A calendar month, UTC epoch milliseconds, half-open."""
    start = datetime(year, month, 1, tzinfo=UTC)
    days = calendar.monthrange(year, month)[1]
    start_ms = int(start.timestamp()) * 1000
    return start_ms, start_ms + days * 86_400_000


def _monthly(
    href: str,
    options: str,
    units: tuple[tuple[str, str], ...],
    accumulated: bool | None,
    lon: float,
    lat: float,
    period: Period,
    sign: Sign | None,
) -> dict[tuple[int, int], dict[str, float]]:
    cell = cell_at(series_of(href, options, sign), lon, lat, href)
    return _monthly_of_cell(href, options, units, accumulated, cell, period, sign)


@lru_cache(maxsize=1024)
def _monthly_of_cell(
    href: str,
    options: str,
    units: tuple[tuple[str, str], ...],
    accumulated: bool | None,
    cell: tuple[tuple[str, int], ...],
    period: Period,
    sign: Sign | None,
) -> dict[tuple[int, int], dict[str, float]]:
    series = series_of(href, options, sign)
    if series.attrs.get(MONTHLY):
        return _stored_months(series.isel({axis: index for axis, index in cell}))
    box = {axis: slice(index, index + 1) for axis, index in cell}
    chunk = {axis: _chunk_around(series, axis, index) for axis, index in cell}
    share = float(np.prod([part.stop - part.start for part in chunk.values()], initial=1.0))
    samples = series.sizes["time"] * len(series.data_vars)
    if share * samples * 4 <= CHUNK_BYTES:
        # A chunk is what a store gives anyway: neighbouring cells find theirs in memory.
        stretch = tuple((axis, part.start, part.stop) for axis, part in chunk.items())
        block = _block(href, options, units, accumulated, stretch, period, sign)
        box = {axis: slice(index - chunk[axis].start, index - chunk[axis].start + 1) for axis, index in cell}
        hours, closing = block.hours.isel(box), block.closing.isel(box, missing_dims="ignore")
        return monthly(hours, dict(units), closing, accumulated=block.accumulated)
    part = series.isel(box)
    if (fetched := _fetched_bytes(series, _months_of(part, period).sizes["time"])) > FETCH_BYTES:
        raise ValueError(
            f"{href} is stored map by map: one place of one period takes {fetched / 1e9:.0f} GB of it. Aggregate it "
            "once to the months of your region (python -m pipelines.coregister.months) and name that store"
        )
    loaded = _load(part, period, dict(units), accumulated)
    return monthly(loaded.hours, dict(units), loaded.closing, accumulated=loaded.accumulated)


@dataclass(frozen=True)
class _Block:
    """Cells over the months of a period, in memory.

    Attributes:
        hours: the samples.
        closing: the precipitation that is stamped with the midnight which ends the last month, where there is any.
        accumulated: precipitation adds up since midnight.
    """

    hours: xr.Dataset
    closing: xr.Dataset
    accumulated: bool


@lru_cache(maxsize=4)
def _block(
    href: str,
    options: str,
    units: tuple[tuple[str, str], ...],
    accumulated: bool | None,
    box: tuple[tuple[str, int, int], ...],
    period: Period,
    sign: Sign | None,
) -> _Block:
    """The cells of one chunk."""
    part = series_of(href, options, sign).isel({axis: slice(start, stop) for axis, start, stop in box})
    return _load(part, period, dict(units), accumulated)


def _load(part: xr.Dataset, period: Period, units: Mapping[str, str], accumulated: bool | None) -> _Block:
    hours = _months_of(part, period).load()
    adds_up = _adds_up(hours, units, accumulated)
    rain = rain_of(part)
    step_s = step_of(hours["time"])
    if rain is None or not (adds_up or samples_a_day(step_s) > 1):
        return _Block(hours, hours[[]], adds_up)
    end = pd.Timestamp(period.end_ms - 1, unit="ms").to_period("M").end_time.ceil("D")
    return _Block(hours, part[[rain]].sel(time=slice(end, end)).load(), adds_up)


def rain_of(series: xr.Dataset) -> str | None:
    """The variable of precipitation that counts."""
    return next((name for name in PRECIPITATION if name in series), None)


def _adds_up(hours: xr.Dataset, units: Mapping[str, str], accumulated: bool | None) -> bool:
    """Whether the precipitation of a chunk is the sum since midnight; samples by the day are not, unless it is set."""
    name = rain_of(hours)
    if name is None or not hours.sizes["time"]:
        return False
    step_s = step_of(hours["time"])
    if step_s is None or step_s > DAILY_S:
        return bool(accumulated)
    factor, _ = to_si(hours[name], RAIN, units, step_s)
    values_TN = hours[name].transpose("time", ...).to_numpy().reshape(hours.sizes["time"], -1)
    some_TN = values_TN[:, :: -(-values_TN.shape[1] // CELLS_ASKED)].astype(np.float64) * factor
    moments = pd.DatetimeIndex(hours["time"].to_numpy())
    seen, gap_m = days_of(some_TN, moments), difference(some_TN, moments)
    return is_accumulated(seen, accumulated, (hours.attrs, hours[name].attrs), gap_m)


def _months_of(series: xr.Dataset, period: Period) -> xr.Dataset:
    """Whole months on both sides: a month that lies half in the period is aggregated from all of its days."""
    start = pd.Timestamp(period.start_ms, unit="ms").to_period("M").start_time
    end = pd.Timestamp(period.end_ms - 1, unit="ms").to_period("M").end_time
    return series.sel(time=slice(start, end))


def _fetched_bytes(series: xr.Dataset, steps: int) -> float:
    """Bytes, before compression, of the chunks that hold one cell over a number of time steps."""
    total = 0.0
    for variable in series.data_vars.values():
        chunk = variable.encoding.get("chunks") or variable.shape
        sizes = dict(zip(variable.dims, chunk, strict=False))
        chunks = -(-steps // sizes.get("time", 1))
        total += chunks * float(np.prod(chunk)) * variable.dtype.itemsize
    return total


def _stored_months(cell: xr.Dataset) -> dict[tuple[int, int], dict[str, float]]:
    """Months that were aggregated before; what was not written yet is NaN."""
    loaded, out = cell.load(), {}
    for step, moment in enumerate(pd.DatetimeIndex(loaded["time"].to_numpy())):
        values = {str(name): float(loaded[name].to_numpy()[step]) for name in loaded.data_vars}
        values = {name: value for name, value in values.items() if not np.isnan(value)}
        if values:
            out[(moment.year, moment.month)] = values
    return out


def _chunk_around(series: xr.Dataset, axis: str, index: int) -> slice:
    """The stretch of an axis that is stored together with one index."""
    first = next(iter(series.data_vars.values()))
    sizes = dict(zip(first.dims, first.encoding.get("chunks") or (), strict=False))
    size = int(sizes.get(axis, 1))
    start = index // size * size
    return slice(start, min(start + size, series.sizes[axis]))


@lru_cache(maxsize=8)
def series_of(href: str, options: str, sign: Sign | None = None) -> xr.Dataset:
    """The variables of a store that are known here, along an axis named ``time``.

    Raises:
        ValueError: no time axis, or no known variable.
    """
    store = open_store(href, options, sign)
    time = next((name for name in TIMES if name in store.dims), None)
    if time is None:
        raise ValueError(f"{href} has no time axis; its dimensions are {tuple(store.sizes)}")
    if store.attrs.get(MONTHLY):
        return store
    wanted = [name for name in store.data_vars if str(name) in STORED]
    if not wanted:
        raise ValueError(f"{href} has no variable of {sorted(STORED)}; it has {sorted(map(str, store.data_vars))}")
    series = store[wanted].rename({time: "time"}) if time != "time" else store[wanted]
    # The ARCO store's axis runs decades ahead of what was ever written.
    stop = store.attrs.get("valid_time_stop")
    if stop is not None:
        end = pd.Timestamp(stop)
        end += pd.Timedelta(days=1) if end == end.normalize() else pd.Timedelta(nanoseconds=1)
        series = series.sel(time=series["time"] < np.datetime64(end))
    return series


def cell_at(store: xr.Dataset, lon: float, lat: float, href: str) -> tuple[tuple[str, int], ...]:
    """The nearest cell's index along each spatial axis that the store has; longitudes may count from 0 to 360.

    Raises:
        ValueError: the point is more than a cell outside the grid.
    """
    cell = []
    for names, value in ((LATITUDE, lat), (LONGITUDE, lon)):
        axis = next((name for name in names if name in store.dims), None)
        if axis is None:
            continue
        marks = store[axis].to_numpy().astype(float)
        target = value % 360 if names is LONGITUDE and marks.max() > 180 else value
        gaps = np.abs(marks - target)
        if names is LONGITUDE:
            gaps = np.minimum(gaps, 360 - gaps)
        spacing = float(np.abs(np.diff(marks)).min()) if marks.size > 1 else np.inf
        if gaps.min() > spacing:
            raise ValueError(f"{href} does not reach {axis} {target:.3f}: it covers {marks.min()} to {marks.max()}")
        cell.append((axis, int(gaps.argmin())))
    return tuple(cell)


def monthly(
    cell: xr.Dataset, units: Mapping[str, str], closing: xr.Dataset, *, accumulated: bool
) -> dict[tuple[int, int], dict[str, float]]:
    """Monthly variables by (year, month) of one cell's series, in metres, kelvin and pascal.

    A day counts with nine tenths of its samples, a month with nine tenths of its days; its sum needs all of them.

    Args:
        cell: hourly or daily.
        units: by variable, what the catalog says.
        closing: precipitation stamped with the midnight that ends the series, where there is any.
        accumulated: precipitation adds up since midnight.
    """
    series: dict[str, pd.Series] = {}
    a_day = samples_a_day(step_of(cell["time"]))
    for quantity, names in SAMPLED.items():
        for name in names:
            for ending in ENDINGS:
                if name + ending in cell:
                    series.setdefault(quantity + ending, _si(cell[name + ending], quantity, units))
    if (rain := rain_of(cell)) is not None:
        found = xr.concat([cell[rain], closing[rain]], "time") if rain in closing else cell[rain]
        series[RAIN] = daily(_si(found, RAIN, units), accumulated, a_day)
    out: dict[tuple[int, int], dict[str, float]] = {}
    for name, values in series.items():
        sampled_often = len(values) > 1.5 * max(1, len(values.resample("D")))
        if name == RAIN:
            statistics = {f"{name}_{how}": (values, how) for how in ("sum", "min", "max")}
        elif name.endswith(("_mean", "_min", "_max")):
            statistics = {name: (values, name.rsplit("_", 1)[1])}
        elif sampled_often:
            statistics = {f"{name}_{how}": (values, how) for how in ("mean", "min", "max")}
        else:
            statistics = {f"{name}_mean": (values, "mean")}
        for variable, (numbers, how) in statistics.items():
            present = numbers.dropna()
            of_day = present.groupby(present.index.normalize()).transform("size")
            present = present[of_day >= (1 if name == RAIN else nearly_all(a_day))]
            for month, part in present.groupby(present.index.to_period("M")):
                days = month.days_in_month if how == "sum" else nearly_all(month.days_in_month)
                if part.index.normalize().nunique() >= days:
                    out.setdefault((month.year, month.month), {})[variable] = float(part.agg(how))
    return out


def _si(array: xr.DataArray, quantity: str, units: Mapping[str, str] | None) -> pd.Series:
    """A series in metres, kelvin or pascal, by its ``units``, or else by what the catalog says."""
    series = pd.Series(
        np.asarray(array.to_numpy(), np.float64).reshape(array.sizes["time"], -1).mean(axis=1),
        index=pd.DatetimeIndex(array["time"].to_numpy()),
    )
    factor, shift = to_si(array, quantity, units, step_of(array["time"]))
    return series * factor + shift
