r"""A store of hourly or daily maps, aggregated once to the months of a region.

    python -m pipelines.coregister.months --out era5_months.zarr --bbox 4 50 6 52 --start 2021-01-01 --end 2022-01-01 \
        --store gs://gcp-public-data-arco-era5/ar/full_37-1h-0p25deg-chunk-1.zarr-v3 \
        --storage-options '{"token": "anon"}'

The public ERA5 store has one chunk an hour and map: the year of any one place is all of its 36 GB a variable. Here
every chunk is read once for the whole region, a day at a time in bounded memory, and the twelve monthly variables of
each cell are kept in a small store that is read by place. Started again, it does the months that are not there yet.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray

from pipelines.coregister.climate import (
    DAILY_S,
    LATITUDE,
    LONGITUDE,
    MONTHLY,
    RAIN,
    rain_of,
    series_of,
)
from pipelines.coregister.complete import MIN_SHARE, nearly_all, samples_a_day
from pipelines.coregister.rain import Days, is_accumulated
from pipelines.coregister.units import step_of, to_si
from pipelines.grid import Period
from pipelines.sources.era5 import PRECIPITATION, SAMPLED, SOURCE

logger = logging.getLogger(__name__)
CHUNK_CELLS = 32


def aggregate(
    store: str,
    out: str,
    bounds: tuple[float, float, float, float],
    period: Period,
    *,
    options: dict[str, Any] | None = None,
    units: Mapping[str, str] | None = None,
    accumulated: bool | None = None,
) -> int:
    """Write the months of a region that are not written yet.

    Args:
        store: address of the hourly or daily store.
        out: address of the monthly store, made where it does not exist.
        bounds: west, south, east, north in degrees; a cell on each side is kept too.
        period: months of which any day lies in it.
        options: for opening ``store`` with xarray, ``storage_options`` among them.
        units: of variables whose store names none, or one that is not known here.
        accumulated: whether hourly precipitation adds up since midnight (ERA5-Land); None: the data say, by the month.

    Returns:
        How many months were written.

    Raises:
        ValueError: the store holds nothing of the region, or ``out`` is of another region or store.
    """
    series = series_of(store, json.dumps(options or {}, sort_keys=True))
    region = _region(series, bounds, store)
    months = pd.period_range(*(pd.Timestamp(ms, unit="ms") for ms in (period.start_ms, period.end_ms - 1)), freq="M")
    _prepare(out, store, region, months)
    written = 0
    for index, month in enumerate(months):
        if _is_written(out, index):
            continue
        values = _month(region, month, units, accumulated)
        if values is None:
            logger.warning("%s holds less than %d %% of %s", store, 100 * MIN_SHARE, month)
            continue
        dims = ("time", "latitude", "longitude")
        found = xr.Dataset({name: (dims, array[None].astype(np.float32)) for name, array in values.items()})
        with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk that is missing is an error to the reader
            found.to_zarr(out, region={"time": slice(index, index + 1)}, mode="r+")
        written += 1
    return written


def _region(series: xr.Dataset, bounds: tuple[float, float, float, float], store: str) -> xr.Dataset:
    west, south, east, north = bounds
    names = [next((n for n in known if n in series.dims), None) for known in (LATITUDE, LONGITUDE)]
    if None in names:
        raise ValueError(f"{store} has no latitude and longitude; its dimensions are {tuple(series.sizes)}")
    series = series.rename(dict(zip(names, ("latitude", "longitude"), strict=True)))
    lat, lon = (series[name].to_numpy().astype(float) for name in ("latitude", "longitude"))
    step = [float(np.abs(np.diff(marks)).min()) if marks.size > 1 else 360.0 for marks in (lat, lon)]
    rows = np.flatnonzero((lat >= south - step[0]) & (lat <= north + step[0]))
    # Longitudes may count from 0 to 360: distance is taken around the circle.
    middle, half = (west + east) / 2, (east - west) / 2 + step[1]
    cols = np.flatnonzero(np.abs((lon - middle + 180) % 360 - 180) <= half)
    if not rows.size or not cols.size:
        raise ValueError(f"{store} does not reach {bounds}")
    return series.isel(latitude=rows, longitude=cols)


def _prepare(out: str, store: str, region: xr.Dataset, months: pd.PeriodIndex) -> None:
    """An empty monthly store; one that is there must be of the same store, cells and months."""
    shape = len(months), region.sizes["latitude"], region.sizes["longitude"]
    moments = months.to_timestamp().to_numpy().astype("datetime64[ns]")
    coords = {"time": moments, "latitude": region["latitude"].to_numpy(), "longitude": region["longitude"].to_numpy()}
    try:
        there = xr.open_zarr(out, chunks=None)
    except FileNotFoundError:
        there = None
    if there is not None:
        same = there.attrs.get(MONTHLY) == store and all(
            there[name].shape == values.shape and (there[name].to_numpy() == values).all()
            for name, values in coords.items()
        )
        if not same:
            raise ValueError(f"{out} is of another store, region or period than asked for; choose another address")
        return
    dims = ("time", "latitude", "longitude")
    names = SOURCE.band_names
    empty = xr.Dataset({name: (dims, np.full(shape, np.nan, np.float32)) for name in names}, coords, {MONTHLY: store})
    chunks = (1, min(CHUNK_CELLS, shape[1]), min(CHUNK_CELLS, shape[2]))
    encoding = {name: {"chunks": chunks, "_FillValue": np.nan} for name in names}
    with zarr.config.set({"array.write_empty_chunks": True}):
        empty.to_zarr(out, mode="w-", encoding=encoding, consolidated=True, zarr_format=2)


def _is_written(out: str, index: int) -> bool:
    month = xr.open_zarr(out, chunks=None).isel(time=index)
    return any(bool(np.isfinite(month[name].to_numpy()).any()) for name in month.data_vars)


def _month(
    region: xr.Dataset, month: pd.Period, units: Mapping[str, str] | None, accumulated: bool | None
) -> dict[str, NDArray[np.float64]] | None:
    """The variables of every cell, a day of maps in memory at a time; None where the month is not there."""
    part = region.sel(time=slice(month.start_time, month.end_time))
    sums: dict[str, _Sums] = {}
    steps, step_s = len(part["time"]), step_of(part["time"])
    a_day = samples_a_day(step_s)
    often = steps > 1.5 * max(1, len(np.unique(part["time"].to_numpy().astype("datetime64[D]"))))
    rain_name = rain_of(part)
    rain: _Rain | None = None

    def measured(array: xr.DataArray, quantity: str) -> NDArray[np.float64]:
        factor, shift = to_si(array, quantity, units, step_s)
        return array.transpose("time", "latitude", "longitude").to_numpy().astype(np.float64) * factor + shift

    for day in _days(part):
        for name, array in day.data_vars.items():
            quantity, ending = _meaning(str(name))
            values = measured(array, quantity)
            if quantity != RAIN:
                sums.setdefault(f"{quantity}|{ending}", _Sums(values.shape[1:], nearly_all(a_day))).add(values)
            elif name == rain_name:
                rain = rain or _Rain(values.shape[1:], a_day)
                rain.add(values, starts_at_midnight=_starts_at_midnight(day))
    if rain is not None:
        end = month.end_time.ceil("D")
        closing = region[[rain_name]].sel(time=slice(end, end)).load()
        rain.close(measured(closing[rain_name], RAIN))
        attributes = (region.attrs, region[rain_name].attrs)
        sums[f"{RAIN}|"] = rain.result(accumulated, attributes, hourly=step_s is not None and step_s <= DAILY_S)
    out: dict[str, NDArray[np.float64]] = {}
    for key, total in sums.items():
        quantity, ending = key.split("|")
        found = {"sum": total.sum, "mean": total.mean(), "min": total.least, "max": total.greatest}
        kinds = ("sum", "min", "max") if quantity == RAIN else ("mean", "min", "max") if often else ("mean",)
        for kind in (ending,) if ending else kinds:
            enough = total.days >= (month.days_in_month if kind == "sum" else nearly_all(month.days_in_month))
            out[f"{quantity}_{kind}"] = np.where(enough, found[kind], np.nan)
    return out if any(np.isfinite(values).any() for values in out.values()) else None


def _meaning(name: str) -> tuple[str, str]:
    """Quantity and, for a daily mean, least or greatest value, which."""
    if name in PRECIPITATION:
        return RAIN, ""
    for quantity, names in SAMPLED.items():
        for known in names:
            if name == known:
                return quantity, ""
            if name.startswith(f"{known}_") and name.removeprefix(f"{known}_") in ("mean", "min", "max"):
                return quantity, name.rsplit("_", 1)[1]
    raise AssertionError(f"{name} is no known variable")


def _days(part: xr.Dataset) -> Iterator[xr.Dataset]:
    days = part["time"].to_numpy().astype("datetime64[D]")
    for day in np.unique(days):
        yield part.isel(time=np.flatnonzero(days == day)).load()


def _starts_at_midnight(day: xr.Dataset) -> bool:
    first = pd.Timestamp(day["time"].to_numpy()[0])
    return bool(first == first.normalize())


class _Sums:
    """Running figures of one variable's cells; NaN is not measured, and a day needs some number of samples."""

    def __init__(self, shape: tuple[int, ...], samples: int = 1) -> None:
        self.samples = samples
        self.sum, self.count, self.days = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        self.least, self.greatest = np.full(shape, np.inf), np.full(shape, -np.inf)

    def add(self, day: NDArray[np.float64]) -> None:
        """A day's samples ``(T, y, x)``."""
        known = ~np.isnan(day)
        known &= known.sum(axis=0) >= self.samples
        self.sum += np.where(known, day, 0.0).sum(axis=0)
        self.count += known.sum(axis=0)
        self.days += known.any(axis=0)
        self.least = np.minimum(self.least, np.where(known, day, np.inf).min(axis=0))
        self.greatest = np.maximum(self.greatest, np.where(known, day, -np.inf).max(axis=0))

    def mean(self) -> NDArray[np.float64]:
        return np.divide(self.sum, self.count, out=np.full(self.sum.shape, np.nan), where=self.count > 0)


class _Rain:
    """Running figures of precipitation in both readings: of the sample, and added up since midnight.

    Args:
        shape: of a map.
        a_day: samples of a whole day; one is of the day that it is stamped with, of several each ends at its stamp.
    """

    def __init__(self, shape: tuple[int, ...], a_day: int) -> None:
        self.a_day = a_day
        self.of_samples, self.of_days, self.seen = _Sums(shape), _Sums(shape), Days()
        self.since: list[NDArray[np.float64]] | None = None  # the maps of the day that goes on, after its midnight

    def add(self, day: NDArray[np.float64], *, starts_at_midnight: bool) -> None:
        """A day's samples ``(T, y, x)``; the first may be that of the midnight that ends the day before."""
        if self.a_day == 1:
            self.of_samples.add(day)
        self.close(day[: int(starts_at_midnight)])
        self.since = list(day[int(starts_at_midnight) :])

    def close(self, midnight: NDArray[np.float64]) -> None:
        """The day ends, with the samples ``(0 or 1, y, x)`` of its midnight; a day before the first is not counted."""
        if self.since is not None and (maps := [*self.since, *midnight]):
            day = np.stack(maps)
            self.seen.add(day.reshape(len(day), -1))
            known = ~np.isnan(day)
            whole = known.sum(axis=0) >= nearly_all(self.a_day)
            self.of_days.add(np.where(whole, np.fmax.reduce(day, axis=0), np.nan)[None])
            if self.a_day > 1:
                self.of_samples.add(np.where(whole, np.where(known, day, 0.0).sum(axis=0), np.nan)[None])
        self.since = None

    def result(self, setting: bool | None, attributes: Iterable[Mapping[str, Any]], *, hourly: bool) -> _Sums:
        """The figures of the reading that holds; samples by the day are sums of their days, unless it is set."""
        gap_m = float(np.max(self.of_samples.sum - self.of_days.sum, initial=0.0))
        adds_up = is_accumulated(self.seen, setting, attributes, gap_m) if hourly else bool(setting)
        return self.of_days if adds_up else self.of_samples


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True)
    parser.add_argument("--storage-options", default="{}", help="JSON, for what opens the store's address")
    parser.add_argument("--units", default="{}", help="JSON, by variable, where the store names none that is known")
    parser.add_argument(
        "--accumulated",
        choices=("true", "false"),
        help="whether precipitation adds up since midnight, if data do not say",
    )
    parser.add_argument("--bbox", type=float, nargs=4, required=True, metavar=("WEST", "SOUTH", "EAST", "NORTH"))
    parser.add_argument("--start", required=True)
    parser.add_argument("--end", required=True)
    parser.add_argument("--out", required=True)
    given = parser.parse_args(arguments)
    storage = json.loads(given.storage_options)
    options = {"storage_options": storage} if storage else {}
    period = Period.from_iso(given.start, given.end)
    written = aggregate(
        given.store,
        given.out,
        tuple(given.bbox),
        period,
        options=options,
        units=json.loads(given.units),
        accumulated=None if given.accumulated is None else given.accumulated == "true",
    )
    print(f"{written} months written to {given.out}")


if __name__ == "__main__":
    main()
