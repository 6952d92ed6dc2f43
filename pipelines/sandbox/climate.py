"""ERA5-Land: hourly fields on the 0.1 degree grid as a Zarr store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from shapely import box

from pipelines.grid import WGS84
from pipelines.sandbox.layers import plane_to_wgs84, region
from pipelines.sandbox.noise import generator
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.stac import Archive, write_item
from pipelines.sandbox.weather import DAY_MS, weather_of
from pipelines.sandbox.world import world_of

COLLECTION = "era5-land"
_UNITS = {
    "t2m": ("K", "2 metre temperature"),
    "d2m": ("K", "2 metre dewpoint temperature"),
    "sp": ("Pa", "Surface pressure"),
    "tp": ("m", "Total precipitation of the hour that ends at `time`"),
}


def hourly(p: WorldParameters) -> xr.Dataset:
    """Two metre temperature and dew point, surface pressure, precipitation: hour by hour, named as in ERA5-Land."""
    world, weather = world_of(p), weather_of(p)
    west, south, east, north = plane_to_wgs84(world, region(p)).bounds
    lon = np.round(np.arange(np.floor(west * 10) - 1, np.ceil(east * 10) + 2) / 10, 1)
    lat = np.round(np.arange(np.ceil(north * 10) + 1, np.floor(south * 10) - 2, -1) / 10, 1)
    grid_x, grid_y = world.to_plane(*np.meshgrid(lon, lat), WGS84)
    # The model's own smooth orography: the mean height around each node.
    around = np.array([[dx, dy] for dx in (-2500, 0, 2500) for dy in (-2500, 0, 2500)])
    height = np.mean([world.elevation_m(grid_x + dx, grid_y + dy) for dx, dy in around], axis=0)
    hours = len(weather.cloudiness) * 24
    hour = np.arange(hours)
    day = hour // 24
    rng = generator(p.seed, "era5")
    # Daily means joined by lines at noon, so that midnight has no jump.
    at_noon = np.arange(len(weather.cloudiness)) * 24 + 12

    def smooth(series: np.ndarray) -> np.ndarray:
        return np.interp(hour, at_noon, series)

    swing = (2.0 + 5.5 * (1 - weather.cloudiness[day])) * np.sin(2 * np.pi * ((hour % 24) - 9) / 24)
    air = smooth(weather.temperature_k) + swing
    # Northwards spring comes later, which in this squeezed world is 2 kelvin over the region.
    offset = -0.0065 * height - 2.0 * np.clip(grid_y / p.height_m, -0.5, 0.5)
    t2m = air[:, None, None] + offset + rng.normal(0, 0.25, (hours, *height.shape))
    d2m = t2m - np.maximum(smooth(weather.dewpoint_gap_k) + 0.45 * swing, 0.2)[:, None, None]
    sp = smooth(weather.pressure_pa)[:, None, None] * np.exp(-height / 8_430.0)
    share = rng.dirichlet(np.full(24, 0.25), len(weather.rain_m)).ravel()
    wetter = np.clip(1 + 0.0012 * (height - height.mean()), 0.5, 1.8)
    tp = (weather.rain_m[day] * share)[:, None, None] * wetter
    time = pd.to_datetime(weather.start_ms + hour * 3_600_000, unit="ms")
    fields = {"t2m": t2m, "d2m": d2m, "sp": sp, "tp": tp}
    dims = ("time", "latitude", "longitude")
    data = {
        name: (dims, values.astype(np.float32), {"units": _UNITS[name][0], "long_name": _UNITS[name][1]})
        for name, values in fields.items()
    }
    return xr.Dataset(data, {"time": time, "latitude": lat, "longitude": lon}, {"title": "synthetic ERA5-Land hourly"})


def write(p: WorldParameters, root: Path) -> int:
    """Store the climate; returns 1 where the item is new."""
    archive, name = Archive(root), "era5-land-hourly"
    if archive.has(COLLECTION, name):
        return 0
    data = hourly(p)
    target = root / "assets" / COLLECTION / f"{name}.zarr"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    shape = (min(31 * 24, data.sizes["time"]), data.sizes["latitude"], data.sizes["longitude"])
    encoding = {key: {"chunks": shape} for key in data.data_vars}
    data.to_zarr(temporary, zarr_format=2, consolidated=True, encoding=encoding)
    temporary.rename(target)
    lon, lat = data["longitude"].values, data["latitude"].values
    footprint = box(lon.min() - 0.05, lat.min() - 0.05, lon.max() + 0.05, lat.max() + 0.05)
    weather = weather_of(p)
    end = weather.start_ms + len(weather.cloudiness) * DAY_MS - 3_600_000
    dimensions = {
        "time": {
            "type": "temporal",
            "extent": [str(data.time.values[0])[:19] + "Z", str(data.time.values[-1])[:19] + "Z"],
        },
        "latitude": {
            "type": "spatial",
            "axis": "y",
            "extent": [float(lat.min()), float(lat.max())],
            "reference_system": 4326,
        },
        "longitude": {
            "type": "spatial",
            "axis": "x",
            "extent": [float(lon.min()), float(lon.max())],
            "reference_system": 4326,
        },
    }
    variables = {
        key: {"type": "data", "dimensions": ["time", "latitude", "longitude"], "unit": unit, "description": text}
        for key, (unit, text) in _UNITS.items()
    }
    assets = {
        "zarr": {
            "href": f"../../../assets/{COLLECTION}/{name}.zarr",
            "type": "application/vnd+zarr",
            "title": "ERA5-Land hourly Zarr group",
            "roles": ["data", "zarr"],
            "xarray:open_kwargs": {"consolidated": True},
        }
    }
    properties = {"cube:dimensions": dimensions, "cube:variables": variables}
    span = (weather.start_ms, end)
    write_item(archive, COLLECTION, name, footprint, None, properties, assets, ("cube", "xarray"), span_ms=span)
    return 1
