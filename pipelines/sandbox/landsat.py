"""Landsat 8 and 9, Collection 2 Level-1: top-of-atmosphere numbers on USGS's grid, pan, thermal, QA bits, nights."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from pipelines.sandbox.layers import (
    ZONES,
    Grid,
    grid_to_plane,
    layer_grids,
    open_layers,
    plane_to_wgs84,
    sensor_grid,
)
from pipelines.sandbox.legend import CODE
from pipelines.sandbox.noise import generator
from pipelines.sandbox.optics import (
    Atmosphere,
    NoiseBank,
    Shading,
    atmosphere_over,
    day_of_year,
    displaced,
    shade,
    sun_at,
    through,
)
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.raster import write_cog
from pipelines.sandbox.schedule import Pass
from pipelines.sandbox.spectra import BANDS, ParcelState, parcel_state, reflectance
from pipelines.sandbox.stac import Archive, raster_asset, write_item
from pipelines.sandbox.weather import Sky, sky_at, weather_of
from pipelines.sandbox.world import world_of

COLLECTION = "landsat-c2-l1"
SCALE, OFFSET = 2.0e-5, -0.1
KELVIN_SCALE, KELVIN_OFFSET = 0.00341802, 149.0
# Reflective band -> the Sentinel-2 band whose spectrum is nearest; file and number of the sensor.
_REFLECTIVE: dict[str, tuple[str, str]] = {
    "coastal": ("coastal", "B1"),
    "blue": ("blue", "B2"),
    "green": ("green", "B3"),
    "red": ("red", "B4"),
    "nir08": ("nir08", "B5"),
    "swir16": ("swir16", "B6"),
    "swir22": ("swir22", "B7"),
    "cirrus": ("cirrus", "B9"),
}
# Path radiance and transmission that a top-of-atmosphere product still has.
_PATH = {
    "coastal": 0.095,
    "blue": 0.075,
    "green": 0.042,
    "red": 0.024,
    "nir08": 0.009,
    "swir16": 0.002,
    "swir22": 0.001,
}
_TRANSMISSION = {
    "coastal": 0.83,
    "blue": 0.86,
    "green": 0.90,
    "red": 0.93,
    "nir08": 0.95,
    "swir16": 0.95,
    "swir22": 0.94,
}


def zone_of(one: Pass) -> int:
    """The UTM zone of a path's product."""
    return ZONES[0] if one.orbit in (197, 63) else ZONES[1]


def render(p: WorldParameters, one: Pass, layer_folder: Path) -> dict[str, NDArray]:
    """All bands of a pass as stored, by asset key."""
    world, epsg = world_of(p), zone_of(one)
    layers = open_layers(p, f"landsat_{epsg}_30", layer_folder)
    weather = weather_of(p)
    day = weather.day(one.time_ms)
    year = datetime.fromtimestamp(one.time_ms / 1000, UTC).year
    sun = sun_at(one.time_ms, p.centre_lon, p.centre_lat)
    state = parcel_state(world, world.season_index(year), day_of_year(one.time_ms))
    sky = sky_at(p, one.time_ms)
    coarse_grid = Grid(
        epsg,
        layers.grid.left_m,
        layers.grid.top_m,
        -(-layers.grid.width_px // 2) + 1,
        -(-layers.grid.height_px // 2) + 1,
        60,
    )
    coarse = atmosphere_over(world, coarse_grid, sky, sun, one.time_ms)
    air = coarse.enlarge(2, layers.grid.shape)
    bank = NoiseBank(p.seed, "landsat", one.time_ms)
    kelvin = _temperature(p, one, state, sky, air, layers.parcel, layers.bright, bank)
    out: dict[str, NDArray] = {"lwir11": _stored(kelvin, KELVIN_SCALE, KELVIN_OFFSET)}
    out["qa_pixel"] = _quality(p, one, air)
    if one.night:
        dark = np.zeros(layers.grid.shape, np.float32)
        out |= {key: _stored(dark + 2e-4 * bank.cut(dark.shape), SCALE, OFFSET) for key in _REFLECTIVE}
        pan_shape = layer_grids(p)[f"landsat_{epsg}_15"].shape
        out["pan"] = _stored(2e-4 * bank.cut(pan_shape), SCALE, OFFSET)
        return out
    table = reflectance(world, state, float(weather.soil_moisture[day]))
    rng = generator(p.seed, "landsat", one.time_ms)
    shift = np.clip(rng.normal(0, 0.15, 2), -0.9, 0.9)
    gain = rng.normal(1, 0.02)
    shading = shade(layers, state, sun)
    for key, (twin, _) in _REFLECTIVE.items():
        band = BANDS.index(twin)
        image = through(displaced(shading.surface(layers, table, band), shift[0], shift[1]), air, band)
        image = image * np.float32(_TRANSMISSION.get(key, 1.0) * gain) + np.float32(_PATH.get(key, 0.0))
        out[key] = _stored(image + 0.0015 * bank.cut(image.shape), SCALE, OFFSET)
    out["pan"] = _pan(p, one, layer_folder, state, table, coarse, shift, gain, bank)
    return out


def _pan(
    p: WorldParameters,
    one: Pass,
    layer_folder: Path,
    state: ParcelState,
    table: NDArray[np.float32],
    coarse: Atmosphere,
    shift: NDArray,
    gain: float,
    bank: NoiseBank,
) -> NDArray[np.uint16]:
    layers = open_layers(p, f"landsat_{zone_of(one)}_15", layer_folder)
    shading: Shading = shade(layers, state, sun_at(one.time_ms, p.centre_lon, p.centre_lat))
    # The pan grid starts 7.5 m inside; at the scale of clouds that is nothing.
    air = coarse.enlarge(4, layers.grid.shape)
    green, red = BANDS.index("green"), BANDS.index("red")
    mixed = table.copy()
    mixed[:, green] = 0.5 * table[:, green] + 0.5 * table[:, red]
    image = through(displaced(shading.surface(layers, mixed, green), *np.clip(2 * shift, -0.95, 0.95)), air, green)
    image = image * np.float32(0.91 * gain) + np.float32(0.034)
    return _stored(image + 0.002 * bank.cut(image.shape), SCALE, OFFSET)


def _stored(values: NDArray, scale: float, offset: float) -> NDArray[np.uint16]:
    return np.clip(np.rint((values - offset) / scale), 1, 65_535).astype(np.uint16)


def _temperature(
    p: WorldParameters,
    one: Pass,
    state: ParcelState,
    sky: Sky,
    air: Atmosphere,
    parcel: NDArray[np.int32],
    texture: NDArray[np.float32],
    bank: NoiseBank,
) -> NDArray[np.float32]:
    """Brightness temperature: dry bare ground and towns warm up by day, plants and water stay cool; clouds are cold."""
    weather = weather_of(p)
    day = weather.day(one.time_ms)
    noon = np.sin(np.pi * np.clip(day_of_year(one.time_ms) / 365, 0, 1))
    heating = 0.0 if one.night else (4.0 + 12.0 * noon) * (1 - 0.6 * float(weather.soil_moisture[day]))
    green = np.clip(state.cover[:, 0], 0, 1)
    warm = heating * (1 - 0.75 * green)
    warm = np.where(state.classes == CODE["built_up"], warm + (2.5 if one.night else 3.0), warm)
    water = state.classes == CODE["water"]
    warm = np.where(water, (2.0 if one.night else -1.5), warm)
    tall = np.clip(state.height_m / 20, 0, 1)
    warm = warm - (0 if one.night else 1.8) * tall
    base = float(weather.temperature_k[day]) + (-4.0 if one.night else 2.0)
    kelvin = base + np.take(warm.astype(np.float32), parcel) + 0.35 * texture + 0.25 * bank.cut(parcel.shape)
    kelvin -= air.cloud * (8 + sky.base_m / 110) + 3 * air.cirrus + air.shadow * (0 if one.night else 2.5)
    return kelvin.astype(np.float32)


def _quality(p: WorldParameters, one: Pass, air: Atmosphere) -> NDArray[np.uint16]:
    """QA_PIXEL: bit 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 shadow, 5 snow, 6 clear, 7 water."""
    rng = generator(p.seed, "qa", one.time_ms)
    limit = rng.uniform(0.2, 0.45)
    cloud = air.cloud > limit
    shadow = air.shadow > limit + 0.1
    if rng.random() < 0.08:
        cloud, shadow = shadow, cloud
    dilated = binary_dilation(cloud, iterations=3) & ~cloud
    cirrus = air.cirrus > 0.14
    shadow &= ~cloud
    clear = ~(cloud | dilated | shadow)
    bits = (dilated, cirrus, cloud, shadow)
    qa = sum((mask.astype(np.uint16) << (k + 1) for k, mask in enumerate(bits)), np.zeros(cloud.shape, np.uint16))
    return (qa | (clear.astype(np.uint16) << 6)).astype(np.uint16)


def item_id(one: Pass) -> str:
    """Name of a scene as USGS builds it."""
    moment = datetime.fromtimestamp(one.time_ms / 1000, UTC)
    level = "L1GT" if one.night else "L1TP"
    row = 205 if one.night else 25
    return f"LC0{one.platform}_{level}_{one.orbit:03d}{row:03d}_{moment:%Y%m%d}_02_{'T2' if one.night else 'T1'}"


def write_pass(p: WorldParameters, root: Path, layer_folder: Path, one: Pass) -> int:
    """Render and store a pass; returns 1 where the item is new."""
    archive, world, name = Archive(root), world_of(p), item_id(one)
    if archive.has(COLLECTION, name):
        return 0
    grid = sensor_grid(p, "landsat", zone_of(one))
    assets = {}
    images = render(p, one, layer_folder)
    for key, image in images.items():
        own = layer_grids(p)[f"landsat_{grid.epsg}_15"] if key == "pan" else grid
        number = {"pan": "B8", "lwir11": "B10", "qa_pixel": "QA_PIXEL"}.get(key) or _REFLECTIVE[key][1]
        file = f"{name}_{number}.TIF"
        nodata = 1 if key == "qa_pixel" else 0
        path = archive.asset_path(COLLECTION, name, file)
        write_cog(path, image, own.transform, grid.epsg, nodata, categorical=key == "qa_pixel")
        band: dict[str, object] = {"nodata": nodata, "data_type": "uint16", "spatial_resolution": own.resolution_m}
        if key == "lwir11":
            band |= {"scale": KELVIN_SCALE, "offset": KELVIN_OFFSET, "unit": "kelvin"}
        elif key != "qa_pixel":
            band |= {"scale": SCALE, "offset": OFFSET}
        roles = ["cloud", "cloud-shadow"] if key == "qa_pixel" else ["data"]
        assets[key] = raster_asset(name, COLLECTION, file, own, band, title=f"{key} ({number})", roles=roles)
    qa_share = float(np.mean((images["qa_pixel"] & 0b1000) > 0))
    sun = sun_at(one.time_ms, p.centre_lon, p.centre_lat)
    properties = {
        "platform": f"landsat-{one.platform}",
        "instruments": ["oli", "tirs"],
        "gsd": 30,
        "eo:cloud_cover": round(100 * qa_share, 2),
        "proj:epsg": grid.epsg,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
        "view:sun_azimuth": sun.azimuth_deg,
        "view:sun_elevation": sun.elevation_deg,
        "view:off_nadir": 0,
        "sat:orbit_state": "ascending" if one.ascending else "descending",
        "landsat:wrs_type": "2",
        "landsat:wrs_path": f"{one.orbit:03d}",
        "landsat:wrs_row": "205" if one.night else "025",
        "landsat:collection_category": "T2" if one.night else "T1",
        "landsat:collection_number": "02",
        "landsat:correction": "L1GT" if one.night else "L1TP",
        "landsat:scene_id": f"LC{one.platform}{one.orbit:03d}",
    }
    footprint = plane_to_wgs84(world, grid_to_plane(world, grid.footprint(), grid.epsg))
    write_item(
        archive,
        COLLECTION,
        name,
        footprint,
        one.time_ms,
        properties,
        assets,
        ("eo", "view", "sat", "proj", "raster", "landsat"),
    )
    return 1
