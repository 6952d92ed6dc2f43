"""ERA5 as maps by the hour: refused place by place, aggregated once, and then the same months as from a series."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr

from pipelines.catalogs import open_catalog
from pipelines.coregister import climate, read_sequence
from pipelines.coregister.climate import read_climate
from pipelines.coregister.months import aggregate, main
from pipelines.grid import Period
from pipelines.sources import source
from tests.coregister.files import window
from tests.coregister.test_climate import ERA5, YEAR, hourly, scene

BOUNDS = (2.8, 50.5, 3.1, 50.7)
HOURS = np.arange(1000) * np.timedelta64(1, "h")
MONTHS = Period.from_iso("2020-01-01", "2020-04-01")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same hours by place and, as in Google's store, by map: longitudes from 0 to 360, a chunk an hour."""
    folder = tmp_path_factory.mktemp("stores")
    data = hourly(days=75)
    rng = np.random.default_rng(0)
    for name in data.data_vars:
        data[name] = data[name] + rng.normal(0, 1, data[name].shape)
        data[name][400:420] = np.nan
    by_place = str(folder / "place.zarr")
    data.to_zarr(by_place, zarr_format=2, encoding={name: {"chunks": (240, 2, 2)} for name in data.data_vars})
    names = {"t2m": "2m_temperature", "sp": "surface_pressure", "tp": "total_precipitation"}
    maps = data.rename(names).assign_coords(longitude=data["longitude"].to_numpy() % 360)
    by_map = str(folder / "map.zarr-v3")
    with zarr.config.set({"array.write_empty_chunks": True}):
        maps.to_zarr(by_map, zarr_format=3, encoding={name: {"chunks": (1, 5, 6)} for name in names.values()})
    # The axis goes on for a month of which nothing was written yet; the store says until when it is good.
    later = maps.isel(time=slice(0, 720)).assign_coords(time=maps["time"][-1].to_numpy() + HOURS[1:721]) * np.nan
    later.to_zarr(by_map, append_dim="time", zarr_format=3)
    zarr.open_group(by_map, mode="r+").attrs["valid_time_stop"] = "2020-03-15"
    zarr.consolidate_metadata(by_map)
    return by_place, by_map, folder


def test_months_of_a_map_store_are_those_of_the_same_series(stores, tmp_path):
    by_place, by_map, _ = stores
    out = str(tmp_path / "months.zarr")
    assert aggregate(by_map, out, BOUNDS, MONTHS, options={"consolidated": False}) == 2  # March is half there
    for box in (window(), window(col=-200, row=100), window(col=300)):
        told, _ = read_climate([scene(by_place)], box, YEAR, ERA5)
        found, failures = read_climate([scene(out)], box, YEAR, ERA5)
        assert not failures and found.valid_ms.tolist() == told.valid_ms.tolist()
        np.testing.assert_allclose(found.values, told.values, rtol=1e-6)
        assert np.isfinite(found.values).any()


def test_aggregation_goes_on_where_it_was_and_never_mixes_regions(stores, tmp_path, capsys):
    _, by_map, _ = stores
    out = str(tmp_path / "months.zarr")
    words = ["--store", by_map, "--out", out, "--start", "2020-01-01", "--end", "2020-03-01"]
    main([*words, "--bbox", *map(str, BOUNDS)])
    assert "2 months written" in capsys.readouterr().out
    assert aggregate(by_map, out, BOUNDS, Period.from_iso("2020-01-01", "2020-03-01")) == 0
    for bounds, period in ((BOUNDS, MONTHS), ((2.8, 50.5, 2.9, 50.7), Period.from_iso("2020-01-01", "2020-03-01"))):
        with pytest.raises(ValueError, match="another store, region or period"):
            aggregate(by_map, out, bounds, period)
    with pytest.raises(ValueError, match="does not reach"):
        aggregate(by_map, str(tmp_path / "b.zarr"), (100, 0, 101, 1), MONTHS)


def test_a_map_store_is_not_downloaded_for_one_place(stores, monkeypatch):
    _, by_map, _ = stores
    monkeypatch.setattr(climate, "CHUNK_BYTES", 0)
    monkeypatch.setattr(climate, "FETCH_BYTES", 100_000)
    climate._monthly_of_cell.cache_clear()
    found, failures = read_climate([scene(by_map)], window(), YEAR, ERA5)
    assert found is None and failures[0].kind == "unusable"
    assert "map by map" in failures[0].reason and "pipelines.coregister.months" in failures[0].reason


def test_a_store_is_a_catalog_of_itself(stores, tmp_path):
    by_place, _, _ = stores
    catalog = open_catalog("era5", "zarr", by_place, open_kwargs={"consolidated": True}, bbox=[2, 50, 4, 51])
    found = catalog.search(ERA5, ["hourly"], window().footprint(), YEAR)
    assert len(found) == 1 and found.scenes[0].catalog == "era5"
    sequence, failures = read_sequence({"era5": found.scenes}, window(), YEAR, [ERA5])
    told, _ = read_climate([scene(by_place)], window(), YEAR, ERA5)
    assert not failures
    np.testing.assert_array_equal(sequence.rasters["era5"].values, told.values)
    assert not len(catalog.search(ERA5, ["hourly"], window().footprint().buffer(0.1).centroid.buffer(0), None))
    elsewhere = open_catalog("era5", "zarr", by_place, period=["1990-01-01", "2000-01-01"])
    assert not len(elsewhere.search(ERA5, ["hourly"], window().footprint(), YEAR))
    refused = catalog.search(source("sentinel2"), ["x"], window().footprint(), YEAR).refused
    assert list(refused) == ["a store of maps by time holds no frames of sentinel2"]
    for options, url, said in (({"pages": 1}, "x", "unknown 'pages'"), ({}, "", "address of the store")):
        with pytest.raises(ValueError, match=said):
            open_catalog("era5", "zarr", url, **options)


def test_settings_of_a_store_may_be_nested(stores):
    """Storage options are a mapping within the keywords: they must not break what remembers open stores."""
    by_place, _, _ = stores
    one = scene(by_place)
    one.assets["store"].extra["open_kwargs"] = {"consolidated": True, "drop_variables": ["sp"]}
    frames, failures = read_climate([one], window(), YEAR, ERA5)
    assert not failures and frames is not None
    json.dumps(one.assets["store"].extra)
