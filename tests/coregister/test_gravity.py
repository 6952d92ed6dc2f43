"""GRACE: bilinear between mascons, month by month, from Zarr and from NetCDF alike."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from shapely import box

from pipelines.coregister import read_sequence
from pipelines.coregister.gravity import corners, months_of, read_gravity
from pipelines.grid import WGS84, Period, Window, transformer
from pipelines.scenes import Asset, Scene
from pipelines.sources import source
from tests.coregister.files import window
from tests.coregister.served import serve

GRACE = source("grace")
YEAR = Period.calendar_year(2020)
LAT, LON = np.arange(-89.75, 90, 0.5), np.arange(0.25, 360, 0.5)
MIDDLES = pd.to_datetime(["2019-12-16", "2020-01-16", "2020-02-15", "2020-04-15"])


def plane(lat, lon, month):
    """A field that bilinear interpolation gives back exactly."""
    return 3 * lat - 2 * lon + 100 * month


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grace")
    values = np.stack([plane(LAT[:, None], LON[None], month) for month in range(4)]).astype(np.float32)
    store = xr.Dataset(
        {"lwe_thickness": (("time", "lat", "lon"), values)}, coords={"time": MIDDLES, "lat": LAT, "lon": LON}
    )
    store.to_zarr(folder / "a.zarr", zarr_format=2, encoding={"lwe_thickness": {"chunks": (4, 60, 60)}})
    with h5py.File(folder / "a.nc", "w") as file:
        file["lwe_thickness"], file["lat"], file["lon"] = values, LAT, LON
        file["lwe_thickness"].attrs["_FillValue"] = np.float32(-99999)
        file["time"] = (MIDDLES - pd.Timestamp("2002-01-01")) / pd.Timedelta(days=1)
        file["time"].attrs["units"] = "days since 2002-01-01T00:00:00Z"
    return folder


def scene(href):
    assets = {"store": Asset(str(href), "store")}
    return Scene("grace", "mascons", "test", "grace", 0, (0, 2**42), box(-180, -90, 180, 90), assets)


def centre(target: Window):
    west, south, east, north = target.bounds_m
    return transformer(target.epsg, WGS84).transform((west + east) / 2, (south + north) / 2)


@pytest.mark.parametrize("name", ["a.zarr", "a.nc"])
def test_months_are_interpolated_between_the_cells_around(files, name):
    for target in (window(), window(col=9000, row=-700), Window(32720, 500_000, 7_000_000, 128, 128)):
        frames, failures = read_gravity([scene(files / name)], target, YEAR, GRACE)
        lon, lat = centre(target)
        assert not failures and frames.values.shape == (3, 1, 1, 1)
        told = [plane(lat, lon % 360, month) for month in (1, 2, 3)]
        np.testing.assert_allclose(frames.values.ravel(), told, rtol=1e-5)
        assert [pd.Timestamp(ms, unit="ms").month for ms in frames.valid_ms[:, 0]] == [1, 2, 4]


def test_only_ranges_of_a_remote_file_are_read_and_a_block_carries_it(files):
    with serve(files) as server:
        sequence, failures = read_sequence({"grace": [scene(f"{server.url}/a.nc")]}, window(), YEAR, [GRACE])
        assert not failures and sequence.rasters["grace"].values.shape == (3, 1, 1, 1)
        assert server.requests


@pytest.mark.parametrize("name", ["a.zarr", "a.nc"])
def test_a_token_in_the_query_opens_stores_and_files(files, name):
    near, _ = read_gravity([scene(files / name)], window(), YEAR, GRACE)
    with serve(files, lambda path, seen: None if path.endswith("?sig=1") else 403) as server:
        href = f"{server.url}/{name}"
        far, failures = read_gravity([scene(href)], window(), YEAR, GRACE, lambda address: f"{address}?sig=1")
        assert all(request.count("?") == 1 for request in server.requests)
    assert not failures
    np.testing.assert_array_equal(near.values, far.values)


def test_a_missing_month_is_missing_and_a_wrong_file_is_told(files, tmp_path):
    with h5py.File(tmp_path / "b.nc", "w") as file:
        file["x"] = np.zeros(3)
    frames, failures = read_gravity([scene(tmp_path / "b.nc")], window(), YEAR, GRACE)
    assert frames is None and failures[0].kind == "unusable" and "lwe_thickness" in failures[0].reason
    frames, _ = read_gravity([scene(files / "a.nc")], window(), Period.from_iso("2020-03-01", "2020-04-01"), GRACE)
    assert frames is None


def test_two_solutions_with_their_middles_in_one_month_are_two_months():
    """As GRACE's of April and May 2015; a third in one month has no month of its own."""
    spared = pd.to_datetime(["2015-03-15", "2015-04-22", "2015-04-27", "2015-06-14", "2011-12-02", "2011-12-31"])
    assert months_of(spared) == [(2015, 3), (2015, 4), (2015, 5), (2015, 6), (2011, 12), (2012, 1)]
    assert months_of(pd.to_datetime(["2015-04-22", "2015-04-27", "2015-05-20"])) == [(2015, 4), (2015, 4), (2015, 5)]


def test_corners_wrap_around_the_globe():
    rows, cols, weights = corners(LAT, LON, 10.0, 359.9)
    assert set(LON[cols]) == {0.25, 359.75} and set(LAT[rows]) == {9.75, 10.25}
    assert weights.sum() == pytest.approx(1) and weights[cols == 719].sum() == pytest.approx(0.7)
    with pytest.raises(ValueError, match="does not reach"):
        corners(LAT, np.arange(0.25, 20, 0.5), 10.0, 100.0)
