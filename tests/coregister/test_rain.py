"""Precipitation that adds up since midnight, and precipitation of the hour: the same days and months from both."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pipelines.coregister import climate
from pipelines.coregister.climate import read_climate
from pipelines.coregister.months import aggregate
from pipelines.coregister.rain import Days, days_of, is_accumulated
from pipelines.grid import Period
from tests.coregister.files import window
from tests.coregister.test_climate import ERA5, YEAR, by_name, scene, write

BOUNDS = (2.8, 50.5, 3.1, 50.7)
SPRING = Period.from_iso("2020-02-01", "2020-05-01")
NAMES = [f"total_precipitation_{how}" for how in ("sum", "min", "max")]


def ended_hours(seed: int = 0, wet_days: float = 0.4) -> pd.DataFrame:
    """Rain in metres of the hour that ends at each moment, of 5 x 6 cells: showers of some hours on some days."""
    rng = np.random.default_rng(seed)
    ends = pd.date_range("2020-01-01 01:00", "2020-06-01 00:00", freq="h")
    days = len(ends) // 24
    begins, lasts = rng.integers(0, 24, (days, 1, 30)), rng.integers(1, 12, (days, 1, 30))
    hour = np.arange(24)[None, :, None]
    rains = (hour >= begins) & (hour < begins + lasts) & (rng.random((days, 1, 1)) < wet_days)
    return pd.DataFrame((rains * rng.gamma(0.7, 8e-4, (days, 24, 30))).reshape(len(ends), 30), index=ends)


def true_days(hours: pd.DataFrame) -> pd.DataFrame:
    """Every hour belongs to the day in which it ends, midnight to the one before."""
    return hours.groupby((hours.index - pd.Timedelta(hours=1)).floor("D")).sum()


def since_midnight(hours: pd.DataFrame) -> pd.DataFrame:
    """As in ERA5-Land: at 00 UTC stands the whole day before."""
    return hours.groupby((hours.index - pd.Timedelta(hours=1)).floor("D")).cumsum()


def dataset(hours: pd.DataFrame, **attrs: str) -> xr.Dataset:
    lon, lat = 2.7 + 0.1 * np.arange(6), 50.82 - 0.1 * np.arange(5)
    dims = ("time", "latitude", "longitude")
    values = hours.to_numpy().reshape(-1, 5, 6)
    coords = {"time": hours.index, "latitude": lat, "longitude": lon}
    return xr.Dataset({"tp": (dims, values, {"units": "m"})}, coords, attrs)


def expected(daily: pd.Series) -> np.ndarray:
    """Sum, least and greatest day of each whole month, ``(months, 3)``."""
    months = daily.groupby(daily.index.to_period("M")).agg(["sum", "min", "max", "size"])
    return months[months["size"] >= 28][["sum", "min", "max"]].to_numpy()


def found_in(frames) -> np.ndarray:
    return np.stack([by_name(frames)[name] for name in NAMES], axis=1)


CELL = 3 * 6 + 3  # row 3, column 3: where the window lies


@pytest.mark.parametrize("by_block", [True, False])
def test_sums_since_midnight_become_the_true_days(tmp_path, monkeypatch, by_block: bool):
    hours = ended_hours()
    if not by_block:
        monkeypatch.setattr(climate, "CHUNK_BYTES", 0)
    href = write(dataset(since_midnight(hours)), tmp_path / "a.zarr")
    frames, failures = read_climate([scene(href)], window(), YEAR, ERA5)
    assert failures == []
    np.testing.assert_allclose(found_in(frames), expected(true_days(hours)[CELL]), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("by_block", [True, False])
def test_the_last_day_of_the_period_ends_with_the_midnight_after_it(tmp_path, monkeypatch, by_block: bool):
    """Rain of the last hour of the period's last day, and of the hour before its first, is in the right month."""
    hours = ended_hours(1)
    for moment, rain_m in (("2020-02-01 00:00", 0.02), ("2020-03-01 00:00", 0.03), ("2020-05-01 00:00", 0.05)):
        hours.loc[moment] += rain_m
    if not by_block:
        monkeypatch.setattr(climate, "CHUNK_BYTES", 0)
    href = write(dataset(since_midnight(hours)), tmp_path / "a.zarr")
    frames, _ = read_climate([scene(href)], window(), SPRING, ERA5)
    told = expected(true_days(hours)[CELL]["2020-02-01":"2020-04-30"])
    assert len(told) == 3 and told[2, 2] >= 0.05
    np.testing.assert_allclose(found_in(frames), told, rtol=1e-5, atol=1e-9)


def test_a_store_that_ends_before_the_last_midnight_lacks_one_hour_only(tmp_path):
    hours = ended_hours()
    data = dataset(since_midnight(hours)).sel(time=slice(None, "2020-03-31 23:00"))
    frames, failures = read_climate([scene(write(data, tmp_path / "a.zarr"))], window(), YEAR, ERA5)
    assert failures == []
    cut = hours.copy()
    cut.loc["2020-04-01 00:00":] = 0
    np.testing.assert_allclose(found_in(frames), expected(true_days(cut)[CELL][:"2020-03-31"]), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("by_block", [True, False])
@pytest.mark.parametrize("title", ["", "ERA5-Land hourly, deaccumulated"])
def test_rain_of_the_hour_is_summed_whatever_the_store_is_called(tmp_path, monkeypatch, title: str, by_block: bool):
    hours = ended_hours()
    for moment, rain_m in (("2020-02-01 00:00", 0.02), ("2020-05-01 00:00", 0.05)):
        hours.loc[moment] += rain_m
    if not by_block:
        monkeypatch.setattr(climate, "CHUNK_BYTES", 0)
    href = write(dataset(hours, title=title), tmp_path / "a.zarr")
    for period in (YEAR, SPRING):
        frames, failures = read_climate([scene(href)], window(), period, ERA5)
        assert failures == []
        days = true_days(hours)[CELL]
        told = expected(days if period == YEAR else days["2020-02-01":"2020-04-30"])
        np.testing.assert_allclose(found_in(frames), told, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("adds_up", [True, False])
def test_months_of_a_region_are_the_same(tmp_path, adds_up: bool):
    hours = ended_hours(2)
    hours.loc["2020-05-01 00:00"] += 0.05
    href = write(dataset(since_midnight(hours) if adds_up else hours), tmp_path / "a.zarr")
    out = str(tmp_path / "months.zarr")
    assert aggregate(href, out, BOUNDS, SPRING) == 3
    for box in (window(), window(col=300)):
        told, failures = read_climate([scene(href)], box, SPRING, ERA5)
        found, more = read_climate([scene(out)], box, SPRING, ERA5)
        assert failures == more == []
        np.testing.assert_allclose(found.values, told.values, rtol=1e-6)


def test_packed_maps_are_rounded_and_may_fall_a_little(tmp_path):
    hours = ended_hours()
    rounded = since_midnight(hours)
    rounded += np.random.default_rng(0).uniform(-4e-6, 4e-6, rounded.shape)
    frames, _ = read_climate([scene(write(dataset(rounded), tmp_path / "a.zarr"))], window(), YEAR, ERA5)
    np.testing.assert_allclose(found_in(frames), expected(true_days(hours)[CELL]), rtol=1e-2, atol=31 * 4e-6)


def desert(ends_late: bool) -> pd.DataFrame:
    """One shower in five months; at the end of its day nothing tells rain of the hour from a sum."""
    hours = ended_hours() * 0.0
    hours.loc["2020-02-10 22:00" if ends_late else "2020-02-10 12:00"] = 0.002
    hours.loc["2020-02-11 00:00" if ends_late else "2020-02-10 14:00"] = 0.01
    return hours


def test_what_the_data_do_not_tell_is_asked_and_not_guessed(tmp_path):
    hours = since_midnight(desert(ends_late=True))
    href = write(dataset(hours), tmp_path / "a.zarr")
    frames, failures = read_climate([scene(href)], window(), YEAR, ERA5)
    assert frames is None and failures[0].kind == "unusable"
    assert "1 wet days" in failures[0].reason and "catalogs.NAME.options.accumulated" in failures[0].reason
    with pytest.raises(ValueError, match="cannot be told"):
        aggregate(href, str(tmp_path / "b.zarr"), BOUNDS, SPRING)
    for setting, february_m in ((True, 0.012), (False, 0.002 + 0.002 + 0.012)):
        frames, failures = read_climate([scene(href, accumulated=setting)], window(), YEAR, ERA5)
        assert failures == [] and by_name(frames)[NAMES[0]][1] == pytest.approx(february_m)
        out = str(tmp_path / f"{setting}.zarr")
        assert aggregate(href, out, BOUNDS, SPRING, accumulated=setting) == 3
        told, _ = read_climate([scene(out)], window(), SPRING, ERA5)
        assert by_name(told)[NAMES[0]][0] == pytest.approx(february_m)
    land = write(dataset(hours, title="ERA5-Land hourly data"), tmp_path / "c.zarr")
    frames, failures = read_climate([scene(land)], window(), YEAR, ERA5)
    assert failures == [] and by_name(frames)[NAMES[0]][1] == pytest.approx(0.012)


@pytest.mark.parametrize("title", ["", "ERA5-Land"])
def test_one_shower_that_ends_within_its_day_tells_rain_of_the_hour(tmp_path, title: str):
    href = write(dataset(desert(ends_late=False), title=title), tmp_path / "a.zarr")
    frames, failures = read_climate([scene(href)], window(), YEAR, ERA5)
    assert failures == [] and by_name(frames)[NAMES[0]][1] == pytest.approx(0.012)


def test_where_it_never_rains_there_is_nothing_to_tell(tmp_path):
    href = write(dataset(desert(ends_late=True) * 0), tmp_path / "a.zarr")
    frames, failures = read_climate([scene(href)], window(), YEAR, ERA5)
    assert failures == [] and (found_in(frames) == 0).all()


def test_a_setting_that_the_data_contradict_is_refused(tmp_path):
    href = write(dataset(ended_hours()), tmp_path / "a.zarr")
    frames, failures = read_climate([scene(href, accumulated=True)], window(), YEAR, ERA5)
    assert frames is None and failures[0].kind == "unusable" and "set it to false" in failures[0].reason


@pytest.mark.parametrize("seed", range(20))
def test_any_one_cell_and_month_of_rain_tells(seed: int):
    hours = ended_hours(seed, wet_days=0.7)[[seed]]["2020-03-01 01:00":"2020-04-01 00:00"]
    for adds_up, given in ((False, hours), (True, since_midnight(hours))):
        seen = days_of(given.to_numpy(), pd.DatetimeIndex(given.index))
        assert seen.wet >= 5
        assert is_accumulated(seen, None, (), 1.0) is adds_up


def test_days_that_contradict_each_other_are_not_decided():
    with pytest.raises(ValueError, match="cannot be told"):
        is_accumulated(Days(rising=20, falling=5), None, ({"title": "ERA5-Land"},), 1.0)
