"""Texts, lidar and climate of S3: the file system that reads them is told what the signer says of the bucket."""

from __future__ import annotations

import json
from importlib import import_module

import fsspec
import geopandas as gpd
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem
from shapely import Point, box

from pipelines.catalogs.sign import Buckets
from pipelines.coregister.fetch import Failure
from pipelines.coregister.lidar import read_points
from pipelines.coregister.texts import texts_within
from pipelines.coregister.zarr_store import open_store
from tests.coregister.files import window
from tests.coregister.test_lidar import GEDI, YEAR, granule, scene

OPEN, PAID, OTHERS = {"anon": True}, {"requester_pays": True}, {"endpoint_url": "https://s3.test"}
CASES = pytest.mark.parametrize(
    ("bucket", "endpoint", "told"),
    [("open-data", None, OPEN), ("usgs-landsat", None, PAID), ("eodata", "s3.test", OTHERS)],
)


@pytest.fixture
def opened(monkeypatch):
    """Keywords of every file system of S3 that is opened; what it holds lies in memory."""
    found = []

    class Bucket(MemoryFileSystem):
        protocol = "s3"
        cachable = False
        store, pseudo_dirs = {}, [""]

        def __init__(self, **options):
            found.append({name: value for name, value in options.items() if name != "asynchronous"})
            super().__init__()

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix("s3:/"))

    monkeypatch.setitem(import_module("fsspec.registry")._registry, "s3", Bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    yield found
    open_store.cache_clear()


def put(path, address):
    """Copies a file or folder into the bucket."""
    fsspec.filesystem("s3").put(str(path), address, recursive=True)


@CASES
def test_lidar(tmp_path, opened, bucket, endpoint, told):
    address = f"s3://{bucket}/g.h5"
    put(granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": [(3, 4)]}}), address)
    opened.clear()
    samples, failures = read_points([scene(address)], window(), YEAR, GEDI, Buckets(endpoint))
    assert failures == [] and samples.row.tolist() == [3]
    assert opened and all(options == told for options in opened)


@CASES
def test_texts(tmp_path, opened, bucket, endpoint, told):
    address = f"s3://{bucket}/texts.parquet"
    table = {"text": ["a mill"], "start_ms": [0], "end_ms": [1], "uncertainty_m": [5.0]}
    gpd.GeoDataFrame(table, geometry=[Point(3, 50)], crs=4326).to_parquet(tmp_path / "texts.parquet")
    put(tmp_path / "texts.parquet", address)
    opened.clear()
    found = texts_within(address, [box(2, 49, 4, 51)], Buckets(endpoint))
    assert not isinstance(found, Failure), found
    assert found["text"].tolist() == ["a mill"]
    assert opened and all(options == told for options in opened)


@CASES
def test_climate_whose_own_options_come_first(tmp_path, opened, bucket, endpoint, told):
    address = f"s3://{bucket}/store.zarr"
    xr.Dataset({"t2m": ("time", [1.0, 2.0])}).to_zarr(tmp_path / "store.zarr", zarr_format=2, consolidated=True)
    put(tmp_path / "store.zarr", address)
    opened.clear()
    own = {"storage_options": {"anon": False}}
    for options, expected in (({}, told), (own, {**told, "anon": False})):
        found = open_store(address, json.dumps(options), Buckets(endpoint))
        assert found.t2m.to_numpy().tolist() == [1, 2]
        assert opened and all(options == expected for options in opened)
        opened.clear()


def test_a_bucket_that_wants_an_account_is_refused_without_one(tmp_path, opened, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setattr("pipelines.catalogs.sign.has_keys", lambda: False)
    monkeypatch.setattr("pipelines.catalogs.sign.has_role", lambda: False)
    _, failures = read_points([scene("s3://usgs-landsat/g.h5")], window(), YEAR, GEDI, Buckets())
    assert [failure.kind for failure in failures] == ["refused"] and "needs an account" in failures[0].reason
    assert opened == []
