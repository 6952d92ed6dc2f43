"""GEDI L2A granules: HDF5 with a group for each beam, waveform heights along tracks."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from shapely import MultiPoint

from pipelines.grid import WGS84, format_time
from pipelines.sandbox.legend import CODE
from pipelines.sandbox.noise import generator
from pipelines.sandbox.optics import day_of_year
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.spectra import parcel_state
from pipelines.sandbox.stac import Archive, write_item
from pipelines.sandbox.weather import DAY_MS, sky_at, weather_of
from pipelines.sandbox.world import World, world_of

COLLECTION = "GEDI02_A_002"
BEAMS = ("BEAM0000", "BEAM0001", "BEAM0010", "BEAM0011", "BEAM0101", "BEAM0110", "BEAM1000", "BEAM1011")
_STEP_M, _ACROSS_M = 60.0, 600.0
_EPOCH_MS = int(datetime(2018, 1, 1, tzinfo=UTC).timestamp() * 1000)
_SPEED_M_S = 7_000.0


def granule_times(p: WorldParameters) -> list[int]:
    """Start of each granule over the region, spread over the years at any hour."""
    rng = generator(p.seed, "gedi")
    weather = weather_of(p)
    days = len(weather.cloudiness)
    edges = np.linspace(5, days - 5, p.gedi_granules + 1)
    days_in = rng.uniform(edges[:-1], edges[1:]).astype(int)
    return [weather.start_ms + int(day) * DAY_MS + int(rng.integers(0, DAY_MS)) for day in days_in]


def write_granule(p: WorldParameters, root: Path, index: int) -> int:
    """Simulate and store a granule; returns 1 where the item is new."""
    archive, world = Archive(root), world_of(p)
    time_ms = granule_times(p)[index]
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    orbit = 11_000 + index * 211
    name = f"GEDI02_A_{moment:%Y%j%H%M%S}_O{orbit:05d}_{index % 4 + 1:02d}_T{orbit % 9999:05d}_02_003_01_V002"
    if archive.has(COLLECTION, name):
        return 0
    path = archive.asset_path(COLLECTION, name, f"{name}.h5")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    points, last = [], time_ms
    with h5py.File(temporary, "w") as file:
        file.attrs["short_name"] = "GEDI_L2A"
        for number, beam in enumerate(BEAMS):
            shots = _beam(world, time_ms, index, number, orbit)
            if not len(shots["lat_lowestmode"]):
                continue
            group = file.create_group(beam)
            group.attrs["description"] = "Coverage beam" if number < 4 else "Full power beam"
            for key, values in shots.items():
                group.create_dataset(key, data=values, compression="gzip", compression_opts=1)
            points.append(np.column_stack([shots["lon_lowestmode"], shots["lat_lowestmode"]]))
            last = max(last, _EPOCH_MS + int(shots["delta_time"].max() * 1000))
    temporary.rename(path)
    footprint = MultiPoint(np.concatenate(points)).convex_hull
    asset = {
        "href": f"../../../assets/{COLLECTION}/{name}/{name}.h5",
        "type": "application/x-hdf5",
        "title": f"{name}.h5",
        "roles": ["data"],
        "file:size": path.stat().st_size,
    }
    properties = {
        "start_datetime": format_time(time_ms),
        "end_datetime": format_time(last),
        "platform": "ISS",
        "instruments": ["gedi"],
    }
    write_item(archive, COLLECTION, name, footprint, time_ms, properties, {"data": asset}, (), "1.1.0")
    return 1


def _beam(world: World, time_ms: int, index: int, number: int, orbit: int) -> dict[str, NDArray]:
    p = world.parameters
    rng = generator(p.seed, "gedi", index, number)
    track = generator(p.seed, "gedi-track", index)
    heading = np.deg2rad(track.choice([62.0, 118.0]) + track.normal(0, 4))
    middle = track.uniform(-0.38, 0.38, 2) * (p.width_m, p.height_m)
    reach = np.hypot(p.width_m, p.height_m)
    along = np.arange(-reach, reach, _STEP_M) + rng.uniform(0, _STEP_M)
    across = (number - 3.5) * _ACROSS_M * min(1.0, p.width_m / 6_000)
    x = middle[0] + along * np.sin(heading) + across * np.cos(heading) + rng.normal(0, 1, along.shape)
    y = middle[1] + along * np.cos(heading) - across * np.sin(heading) + rng.normal(0, 1, along.shape)
    inside = (np.abs(x) < p.width_m / 2) & (np.abs(y) < p.height_m / 2)
    x, y, along = x[inside], y[inside], along[inside]
    n = len(x)
    seconds = (time_ms - _EPOCH_MS) / 1000 + (along - (along.min() if n else 0)) / _SPEED_M_S
    rh = _relative_heights(world, x, y, time_ms, rng)
    cloud = sky_at(p, time_ms).sample("opacity", x, y)
    power = 0.02 if number >= 4 else -0.01
    sensitivity = np.clip(0.955 + power - 0.25 * cloud + rng.normal(0, 0.015, n), 0, 0.995)
    quality = (sensitivity > 0.9) & (cloud < 0.45) & (rng.random(n) > 0.06)
    # A shot in cloud returns the cloud's or nothing's heights: noise that the flag is there to refuse.
    rh = np.where(quality[:, None], rh, rng.normal(0, 12, (n, 1)) + rh * rng.uniform(0, 2, (n, 1)))
    degrade = np.where(generator(p.seed, "degrade", index).random() < 0.15, 30, 0) * np.ones(n)
    geolocation_x, geolocation_y = x + track.normal(0, 6), y + track.normal(0, 6)
    lon, lat = world.from_plane(geolocation_x, geolocation_y, WGS84)
    ground = world.elevation_m(x, y) + rng.normal(0, 0.4, n)
    return {
        "lat_lowestmode": lat.astype(np.float64),
        "lon_lowestmode": lon.astype(np.float64),
        "elev_lowestmode": ground.astype(np.float32),
        "rh": rh.astype(np.float32),
        "quality_flag": quality.astype(np.uint8),
        "degrade_flag": degrade.astype(np.uint8),
        "sensitivity": sensitivity.astype(np.float32),
        "delta_time": seconds.astype(np.float64),
        "shot_number": (np.uint64(orbit) * 10**13 + np.uint64(number) * 10**11 + np.arange(n, dtype=np.uint64)),
    }


def _relative_heights(
    world: World, x: NDArray, y: NDArray, time_ms: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """``(n, 101)`` heights above the lowest mode at which 0, 1 ... 100 % of the energy has come back, metres."""
    year = datetime.fromtimestamp(time_ms / 1000, UTC).year
    state = parcel_state(world, world.season_index(year), day_of_year(time_ms))
    parcel, _ = world.locate(x, y)
    # The 25 m footprint takes in a little of what lies around its middle.
    height = np.max(
        [world.height_factor(x + dx, y + dy) for dx, dy in ((0, 0), (8, 0), (-8, 0), (0, 8), (0, -8))], axis=0
    )
    height = np.maximum(state.height_m[parcel] * height + rng.normal(0, 0.8, len(x)), 0)
    crown = np.where(state.classes[parcel] == CODE["broadleaf_forest"], 0.45 + 0.4 * state.cover[parcel, 0], 0.75)
    crown = np.where(state.height_m[parcel] < 2.5, 0.25, crown)
    cover = np.clip(crown + rng.normal(0, 0.08, len(x)), 0.05, 0.95)[:, None]
    share = np.linspace(0, 1, 101)[None]
    step = 40.0
    slope = (
        np.hypot(
            world.elevation_m(x + step, y) - world.elevation_m(x, y),
            world.elevation_m(x, y + step) - world.elevation_m(x, y),
        )[:, None]
        / step
    )
    pulse = 2.2 + 12.0 * slope  # the emitted pulse and the slope widen the ground return
    ground = pulse * (np.clip(share / np.maximum(1 - cover, 0.05), 0, 1) * 2 - 1)
    canopy = height[:, None] * np.clip((share - (1 - cover)) / cover, 0, 1) ** 0.45
    rh = np.where(share < 1 - cover, ground, np.maximum(canopy, pulse * 0.9) + pulse * 0.35 * share)
    return np.maximum.accumulate(rh, axis=1).astype(np.float32)
