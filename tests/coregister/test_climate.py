from __future__ import annotations

import warnings
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from shapely import box

from pipelines.coregister.climate import month_bounds, read_climate
from pipelines.coregister.months import aggregate
from pipelines.grid import Period
from pipelines.scenes import Asset, Scene
from pipelines.sources import source
from tests.coregister.files import window
from tests.coregister.served import serve

ERA5 = source("era5")
YEAR = Period.calendar_year(2020)


def scene(href: str, catalog: str = "test", **extra) -> Scene:
    store = Asset(href, "zarr", extra={"open_kwargs": {"consolidated": True}, **extra})
    return Scene("era5", "store", catalog, "era5-land", 0, (0, 1), box(-180, -90, 180, 90), {"store": store})


def hourly(days: int = 60, west: float = 2.7) -> xr.Dataset:
    """Longitude, latitude and hour are legible in every value."""
    time = pd.date_range("2020-01-01", periods=days * 24, freq="h")
    lon, lat = west + 0.1 * np.arange(6), 50.82 - 0.1 * np.arange(5)
    shape = (time.size, lat.size, lon.size)
    hour = (time.hour.to_numpy() + 100 * time.month.to_numpy())[:, None, None] + np.zeros(shape)
    cell = (np.arange(5)[:, None] * 10 + np.arange(6))[None] + np.zeros(shape)
    dims = ("time", "latitude", "longitude")
    return xr.Dataset(
        {
            "t2m": (dims, hour + 1000 * cell, {"units": "K"}),
            "sp": (dims, np.full(shape, 1013.0), {"units": "hPa"}),
            "tp": (dims, np.full(shape, 1.0), {"units": "mm"}),
        },
        coords={"time": time, "latitude": lat, "longitude": lon},
    )


def write(data: xr.Dataset, path) -> str:
    chunks = (240, 2, 2) if len(data.sizes) == 3 else (240,)
    encoding = {name: {"chunks": chunks} for name in data.data_vars}
    data.to_zarr(path, zarr_format=2, consolidated=True, encoding=encoding)
    return str(path)


def by_name(frames) -> dict[str, np.ndarray]:
    return {name: frames.values[:, index, 0, 0] for index, name in enumerate(ERA5.band_names)}


def test_hours_become_months_of_the_nearest_cell(tmp_path):
    frames, failures = read_climate([scene(write(hourly(), tmp_path / "a.zarr"))], window(), YEAR, ERA5)
    assert failures == [] and frames is not None
    # The window stands at 3.003 E, 50.550 N: column 3 (3.0 E), row 3 (50.52 N).
    values = by_name(frames)
    np.testing.assert_allclose(values["temperature_2m_mean"], [33_111.5, 33_211.5])
    np.testing.assert_allclose(values["temperature_2m_min"], [33_100, 33_200])
    np.testing.assert_allclose(values["temperature_2m_max"], [33_123, 33_223])
    # The store ends before the midnight that the last hour of February is stamped with.
    np.testing.assert_allclose(values["total_precipitation_sum"], [31 * 0.024, 29 * 0.024 - 0.001], rtol=1e-6)
    np.testing.assert_allclose(values["total_precipitation_max"], [0.024, 0.024], rtol=1e-6)
    np.testing.assert_allclose(values["surface_pressure_mean"], 101_300)
    assert np.isnan(values["dewpoint_2m_mean"]).all()
    assert frames.valid_ms.tolist() == [list(month_bounds(2020, 1)), list(month_bounds(2020, 2))]


def test_the_twelve_monthly_variables_against_a_plain_aggregation(tmp_path):
    """SPEC 1.2: sum, minimum and maximum of precipitation, mean, minimum and maximum of the other three."""
    rng = np.random.default_rng(0)
    time = pd.date_range("2020-01-01", "2020-12-31 23:00", freq="h")
    lon, lat = 2.7 + 0.1 * np.arange(6), 50.82 - 0.1 * np.arange(5)
    shape = (time.size, lat.size, lon.size)
    dims = ("time", "latitude", "longitude")
    data = xr.Dataset(
        {
            "t2m": (dims, rng.normal(285, 6, shape), {"units": "K"}),
            "d2m": (dims, rng.normal(280, 5, shape), {"units": "K"}),
            "sp": (dims, rng.normal(100_000, 800, shape), {"units": "Pa"}),
            "tp": (dims, rng.exponential(1e-4, shape), {"units": "m"}),
        },
        coords={"time": time, "latitude": lat, "longitude": lon},
    )
    frames, failures = read_climate([scene(write(data, tmp_path / "a.zarr"))], window(), YEAR, ERA5)
    assert failures == [] and frames is not None and frames.values.shape == (12, 12, 1, 1)
    cell = data.isel(latitude=3, longitude=3).to_dataframe()
    month = cell.index.month
    daily = cell["tp"].groupby((cell.index - pd.Timedelta(hours=1)).floor("D")).sum()["2020-01-01":]
    expected = {
        f"total_precipitation_{how}": daily.groupby(daily.index.month).agg(how) for how in ("sum", "min", "max")
    }
    for name, column in (("temperature_2m", "t2m"), ("dewpoint_2m", "d2m"), ("surface_pressure", "sp")):
        expected |= {f"{name}_{how}": cell[column].groupby(month).agg(how) for how in ("mean", "min", "max")}
    values = by_name(frames)
    assert set(values) == set(expected)
    for name, months in expected.items():
        np.testing.assert_allclose(values[name], months.to_numpy(), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("axes", [("time", "time"), ("time0", "time1")])
def test_one_store_a_variable_as_in_era5_pds(tmp_path, axes):
    data = hourly()
    data["d2m"] = data["t2m"] - 5
    told, _ = read_climate([scene(write(data, tmp_path / "a.zarr"))], window(), YEAR, ERA5)
    names = {
        "t2m": "air_temperature_at_2_metres",
        "d2m": "dew_point_temperature_at_2_metres",
        "sp": "surface_air_pressure",
        "tp": "precipitation_amount_1hour_Accumulation",
    }
    kept = {}
    for short, name in names.items():
        axis = axes[short == "tp"]
        store = data[[short]].rename({short: name, "latitude": "lat", "longitude": "lon"})
        store = store.rename({"time": axis}) if axis != "time" else store
        kept[name] = scene(write(store, tmp_path / f"{name}.zarr")).assets["store"]
    one = scene("")
    one.assets.clear()
    one.assets.update(kept)
    frames, failures = read_climate([one], window(), YEAR, ERA5)
    assert failures == [] and not np.isnan(frames.values).any()
    np.testing.assert_array_equal(frames.values, told.values)


def test_longitudes_from_0_to_360(tmp_path):
    east, _ = read_climate([scene(write(hourly(), tmp_path / "a.zarr"))], window(), YEAR, ERA5)
    whole = hourly().pad(longitude=(0, 1), mode="edge")
    lon = np.append(hourly().longitude.to_numpy(), 357.0)
    wrapped, _ = read_climate(
        [scene(write(whole.assign_coords(longitude=lon), tmp_path / "b.zarr"))], window(), YEAR, ERA5
    )
    np.testing.assert_array_equal(east.values, wrapped.values)


def test_half_a_month_does_not_count(tmp_path):
    frames, _ = read_climate([scene(write(hourly(days=45), tmp_path / "a.zarr"))], window(), YEAR, ERA5)
    assert frames is not None and len(frames.time_ms) == 1


def holes(kind: str) -> np.ndarray:
    """Which hours of January 2020 are there."""
    hour, day = np.arange(31 * 24) % 24, np.arange(31 * 24) // 24
    return {
        "six hours a day": hour < 6,
        "three days missing": day < 28,
        "four days missing": day < 27,
        "two hours of a day missing": (day != 3) | (hour > 1),
        "four hours of a day missing": (day != 3) | (hour > 3),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "months", "rains"),
    [
        ("six hours a day", False, False),
        ("three days missing", True, False),
        ("four days missing", False, False),
        ("two hours of a day missing", True, True),
        ("four hours of a day missing", True, False),
    ],
)
def test_what_is_not_whole_is_not_summed_and_hardly_there_is_not_spoken_of(tmp_path, kind, months, rains):
    data = hourly(days=31)
    cut = data.isel(time=np.flatnonzero(holes(kind)))
    frames, failures = read_climate([scene(write(cut, tmp_path / "a.zarr"))], window(), YEAR, ERA5)
    assert failures == []
    found = by_name(frames) if frames is not None else {}
    assert ("temperature_2m_mean" in found and np.isfinite(found["temperature_2m_mean"]).all()) == months
    assert ("total_precipitation_sum" in found and np.isfinite(found["total_precipitation_sum"]).all()) == rains
    # The tool that aggregates whole regions says the same of every cell.
    out = str(tmp_path / "months.zarr")
    aggregate(str(tmp_path / "a.zarr"), out, (2.0, 50.0, 4.0, 51.0), Period.from_iso("2020-01-01", "2020-02-01"))
    same, _ = read_climate([scene(out)], window(), YEAR, ERA5)
    if frames is None:
        assert same is None
    else:
        np.testing.assert_allclose(same.values, frames.values, rtol=1e-5)


def test_daily_means_do_not_pass_for_extremes_but_daily_extremes_do(tmp_path):
    time = pd.date_range("2020-03-01", periods=31, freq="D")
    day = np.arange(31.0)
    data = xr.Dataset(
        {
            "t2m_mean": ("time", day, {"units": "degC"}),
            "t2m_min": ("time", day - 5, {"units": "degC"}),
            "d2m_mean": ("time", day + 270, {"units": "K"}),
            "total_precipitation": ("time", day),
        },
        coords={"time": time},
    )
    store = scene(write(data, tmp_path / "a.zarr"), units={"total_precipitation": "mm d-1"})
    frames, failures = read_climate([store], window(), YEAR, ERA5)
    assert failures == []
    values = by_name(frames)
    np.testing.assert_allclose(values["temperature_2m_mean"], 15 + 273.15)
    np.testing.assert_allclose(values["temperature_2m_min"], -5 + 273.15)
    assert np.isnan(values["temperature_2m_max"]).all() and np.isnan(values["dewpoint_2m_min"]).all()
    np.testing.assert_allclose(values["total_precipitation_sum"], day.sum() / 1000)


def test_over_http_only_the_chunks_that_are_needed(tmp_path):
    local = write(hourly(), tmp_path / "a.zarr")
    near, _ = read_climate([scene(local)], window(), YEAR, ERA5)
    with serve(tmp_path) as server:
        far, failures = read_climate([scene(f"{server.url}/a.zarr")], window(), YEAR, ERA5)
        chunks = {path for path in server.requests if "/t2m/" in path and path.rsplit("/", 1)[1][0].isdigit()}
    assert failures == []
    np.testing.assert_array_equal(near.values, far.values)
    assert {path.rsplit("/", 1)[1] for path in chunks} == {f"{k}.1.1" for k in range(6)}


@pytest.mark.parametrize("lasting", [False, True])
def test_a_chunk_that_is_missing_is_a_failure_and_not_a_gap(tmp_path, lasting: bool):
    local = write(hourly(), tmp_path / "a.zarr")
    near, _ = read_climate([scene(local)], window(), YEAR, ERA5)

    def spoil(path: str, seen: int) -> int | None:
        return 404 if path.endswith("/t2m/2.1.1") and (lasting or seen == 0) else None

    with serve(tmp_path, spoil) as server:
        frames, failures = read_climate([scene(f"{server.url}/a.zarr")], window(), YEAR, ERA5)
    if lasting:
        assert frames is None and failures[0].kind == "missing" and "t2m/2.1.1" in failures[0].reason
    else:
        assert failures == []
        np.testing.assert_array_equal(near.values, frames.values)


@pytest.mark.parametrize("lasting", [False, True])
def test_a_store_whose_index_is_not_found_is_missing_and_asked_for_again(tmp_path, lasting: bool):
    local = write(hourly(), tmp_path / "a.zarr")
    near, _ = read_climate([scene(local)], window(), YEAR, ERA5)

    def spoil(path: str, seen: int) -> int | None:
        return 404 if path.endswith("/.zmetadata") and (lasting or seen < 2) else None

    with serve(tmp_path, spoil) as server, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Failed to open Zarr store with consolidated metadata", RuntimeWarning)
        there = scene(f"{server.url}/a.zarr", open_kwargs={})
        frames, failures = read_climate([there], window(), YEAR, ERA5)
    if lasting:
        assert frames is None and [failure.kind for failure in failures] == ["missing"]
    else:
        assert failures == []
        np.testing.assert_array_equal(near.values, frames.values)


@pytest.mark.parametrize("fault", [429, 503, 404, 403, "truncate"])
def test_every_key_of_a_store_may_fail_once_whatever_the_others_do(tmp_path, fault):
    local = write(hourly(), tmp_path / "a.zarr")
    near, _ = read_climate([scene(local)], window(), YEAR, ERA5)
    with serve(tmp_path, lambda path, seen: fault if seen == 0 else None) as server:
        frames, failures = read_climate([scene(f"{server.url}/a.zarr")], window(), YEAR, ERA5)
        asked = Counter(server.requests)
    assert failures == []
    np.testing.assert_array_equal(near.values, frames.values)
    chunks = {request for request in asked if "/t2m/" in request and request.rsplit("/", 1)[1][0].isdigit()}
    assert len(chunks) == 6 and {asked[request] for request in chunks} == {2}


def test_a_store_outlives_the_tokens_that_open_it_and_is_not_read_again(tmp_path):
    local = write(hourly(), tmp_path / "a.zarr")
    near, _ = read_climate([scene(local)], window(), YEAR, ERA5)
    uses = Counter()

    class Signer:
        """A token opens ten requests."""

        count, invalidated = 0, 0

        def __call__(self, href):
            return href.replace("/a.zarr", f"/token{self.count}/a.zarr")

        def invalidate(self, href):
            assert "token" not in href
            self.invalidated += 1
            self.count += 1
            (tmp_path / f"token{self.count}").symlink_to(tmp_path)

    def spoil(path, seen):
        token = path.split("/")[1]
        uses[token] += 1
        return 403 if uses[token] > 10 else None

    (tmp_path / "token0").symlink_to(tmp_path)
    sign = Signer()
    with serve(tmp_path, spoil) as server:
        there = scene(f"{server.url}/a.zarr")
        frames, failures = read_climate([there], window(), YEAR, ERA5, sign)
        asked = len(server.requests)
        again, _ = read_climate([there], window(), YEAR, ERA5, sign)
        assert len(server.requests) == asked
    assert failures == [] and sign.invalidated >= 2
    np.testing.assert_array_equal(near.values, frames.values)
    np.testing.assert_array_equal(near.values, again.values)


class QueryToken:
    """A token behind every address, as Azure's; the first is refused from some request on."""

    tokens = ("st=2024-01-01T00%3A00%3A00Z&sig=a%2Bb%2Fc%3D", "st=2024-01-01T01%3A00%3A00Z&sig=d%2Be%2Ff%3D")

    def __init__(self) -> None:
        self.asked, self.current = [], 0

    def __call__(self, href: str) -> str:
        assert "sig=" not in href
        self.asked.append(href)
        return f"{href}{'&' if '?' in href else '?'}{self.tokens[self.current]}"

    def invalidate(self, href: str) -> None:
        assert "sig=" not in href
        self.current = 1

    def is_good(self, address: str, good: int) -> bool:
        said = parse_qs(urlsplit(address).query)
        return said["sig"] == [("a+b/c=", "d+e/f=")[good]] and said["st"] == [f"2024-01-01T0{good}:00:00Z"]


@pytest.mark.parametrize("query", ["", "?account=x"])
def test_a_token_in_the_query_comes_behind_the_key(tmp_path, query: str):
    local = write(hourly(), tmp_path / "a.zarr")
    near, _ = read_climate([scene(local)], window(), YEAR, ERA5)
    sign = QueryToken()
    with serve(tmp_path, lambda path, seen: None if sign.is_good(path, sign.current) else 403) as server:
        there = scene(f"{server.url}/a.zarr{query}")
        frames, failures = read_climate([there], window(), YEAR, ERA5, sign)
        requests = [request.removeprefix("GET ") for request in server.requests]
    assert failures == []
    np.testing.assert_array_equal(near.values, frames.values)
    keys = [urlsplit(request).path for request in requests]
    home = urlsplit(server.url).path
    assert "/a.zarr/.zmetadata" in keys and {f"/a.zarr/t2m/{k}.1.1" for k in range(6)} <= set(keys)
    assert all(key.startswith("/a.zarr/") for key in keys)
    assert all(parse_qs(urlsplit(request).query).get("account") == (["x"] if query else None) for request in requests)
    # What is signed is the address of the key.
    assert {urlsplit(href).path.removeprefix(home) for href in sign.asked} == set(keys)


def test_a_refused_token_in_the_query_is_renewed(tmp_path):
    local = write(hourly(), tmp_path / "a.zarr")
    near, _ = read_climate([scene(local)], window(), YEAR, ERA5)
    sign = QueryToken()

    def spoil(path: str, seen: int) -> int | None:
        # The metadata is the first token's; chunks want the second.
        return None if sign.is_good(path, int("/.z" not in path)) else 403

    with serve(tmp_path, spoil) as server:
        frames, failures = read_climate([scene(f"{server.url}/a.zarr")], window(), YEAR, ERA5, sign)
    assert failures == [] and sign.current == 1
    np.testing.assert_array_equal(near.values, frames.values)


def test_a_point_off_the_grid_is_refused(tmp_path):
    href = write(hourly(west=20.0), tmp_path / "a.zarr")
    frames, failures = read_climate([scene(href)], window(), YEAR, ERA5)
    assert frames is None and failures[0].kind == "unusable" and "longitude 3.0" in failures[0].reason


def test_neighbouring_sites_share_what_was_read(tmp_path):
    write(hourly(), tmp_path / "a.zarr")
    with serve(tmp_path) as server:
        far = [scene(f"{server.url}/a.zarr")]
        first, _ = read_climate(far, window(), YEAR, ERA5)
        before = len(server.requests)
        # 8 km to the north lies the next cell, of another value, in the same chunk of 2 x 2 cells (rows 2 and 3).
        second, _ = read_climate(far, window(0, -800), YEAR, ERA5)
        assert len(server.requests) == before
    assert by_name(first)["temperature_2m_min"][0] == 33_100 and by_name(second)["temperature_2m_min"][0] == 23_100
