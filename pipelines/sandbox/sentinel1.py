"""Sentinel-1 terrain-corrected gamma nought as Planetary Computer offers it: float32 linear power with speckle."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.layers import ZONES, Grid, Layers, grid_to_plane, open_layers, plane_to_wgs84, sensor_grid
from pipelines.sandbox.legend import CLASSES, CODE
from pipelines.sandbox.noise import generator
from pipelines.sandbox.optics import day_of_year, displaced
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.raster import trim_mantissa, write_cog
from pipelines.sandbox.schedule import Pass
from pipelines.sandbox.spectra import ParcelState, parcel_state
from pipelines.sandbox.stac import Archive, raster_asset, write_item
from pipelines.sandbox.weather import weather_of
from pipelines.sandbox.world import World, world_of

COLLECTION = "sentinel-1-rtc"
NODATA = -32768.0
_ANGLE_STEP_M = 200

# Backscatter at 38 degrees in decibel: bare ground VV, VH; closed canopy VV, VH. Rounded from usual C-band values.
_DB: dict[str, tuple[float, float, float, float]] = {
    "water": (-20.5, -27.5, -20.5, -27.5),
    "built_up": (-5.6, -13.6, -6.4, -13.9),
    "bare": (-12.2, -20.6, -11.2, -18.0),
    "broadleaf_forest": (-9.6, -15.7, -9.0, -14.6),
    "conifer_forest": (-9.9, -15.5, -9.4, -14.8),
    "grassland": (-12.3, -20.4, -12.0, -18.4),
    "shrub": (-11.3, -17.9, -10.8, -16.6),
    "wetland": (-12.0, -19.6, -9.6, -17.4),
    "orchard": (-10.6, -17.0, -10.1, -15.6),
    "winter_wheat": (-10.6, -19.2, -14.6, -19.8),
    "winter_barley": (-10.6, -19.2, -14.0, -18.6),
    "maize": (-10.7, -19.4, -9.8, -15.6),
    "sunflower": (-10.7, -19.4, -9.4, -15.0),
    "rapeseed": (-10.7, -19.3, -10.6, -14.4),
    "sugar_beet": (-10.7, -19.4, -9.2, -15.2),
    "alfalfa": (-11.6, -19.8, -11.2, -17.2),
}


def zone_of(one: Pass) -> int:
    """The UTM zone of a pass's product: that of the middle of its scene, far wider than the region."""
    return ZONES[0] if one.ascending else ZONES[1]


def polarisations(p: WorldParameters, one: Pass) -> tuple[str, ...]:
    """What a pass carries: nearly always VV and VH, some only VV, some HH and HV."""
    draw = generator(p.seed, "polarisation", one.time_ms).random()
    return ("vv",) if draw < 0.10 else ("hh", "hv") if draw < 0.18 else ("vv", "vh")


def incidence_deg(world: World, one: Pass, grid: Grid) -> NDArray[np.float32]:
    """``(H, W)`` incidence angle on the ellipsoid: it grows away from the ground track, about 1 degree in 11 km."""
    return _angle(one, *grid.plane(world)).astype(np.float32)


def _angle(one: Pass, x: NDArray, y: NDArray) -> NDArray:
    # The sensor looks to the right: eastwards when ascending, westwards when descending.
    sign = 1 if one.ascending else -1
    return (36.5 if one.ascending else 41.0) + sign * (x - 0.18 * sign * y) / 11_000


def parcel_backscatter_db(world: World, state: ParcelState, wet: float, pair: tuple[str, ...]) -> NDArray[np.float32]:
    """``(n, len(pair))`` backscatter of the parcels in decibel at 38 degrees."""
    table = np.array([_DB[name] for name in CLASSES], np.float32)[state.classes]
    green = np.clip(state.cover[:, 0] / 0.85, 0, 1.1)
    vv = table[:, 0] + (table[:, 2] - table[:, 0]) * green
    vh = table[:, 1] + (table[:, 3] - table[:, 1]) * green
    land = state.classes != CODE["water"]
    soil = (1 - green).clip(0, 1) * land * (state.classes != CODE["built_up"])
    moisture = 0.6 * wet + 0.4 * world.parcels.wetness
    vv = vv + soil * 4.2 * (moisture - 0.45)
    vh = vh + soil * 3.0 * (moisture - 0.45)
    tall = np.clip(state.height_m - 2, 0, None)
    # Volume scattering grows with biomass and saturates, in C-band at some 10 m of trees.
    rise = 1 - np.exp(-tall / 7)
    forest = np.isin(state.classes, (CODE["broadleaf_forest"], CODE["conifer_forest"]))
    vv = vv + forest * 1.4 * (rise - 0.75)
    vh = vh + forest * 2.4 * (rise - 0.75)
    vv, vh = (
        vv + world.parcels.radar_db[:, 0],
        vh + 0.6 * world.parcels.radar_db[:, 0] + 0.6 * world.parcels.radar_db[:, 1],
    )
    by_name = {"vv": vv, "vh": vh, "hh": vv + 0.6 * land - 1.1 * green * land, "hv": vh - 0.1}
    return np.stack([by_name[name] for name in pair], axis=1).astype(np.float32)


def speckle(shape: tuple[int, int], looks: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Multiplicative speckle of mean 1 and variance 1 / looks."""
    return rng.standard_gamma(looks, shape, dtype=np.float32) * np.float32(1 / looks)


def render(p: WorldParameters, one: Pass, layer_folder: Path) -> dict[str, NDArray[np.float32]]:
    """Gamma nought of a pass by polarisation, linear power."""
    world, epsg = world_of(p), zone_of(one)
    layers = open_layers(p, f"sentinel1_{epsg}_10", layer_folder)
    year = datetime.fromtimestamp(one.time_ms / 1000, UTC).year
    state = parcel_state(world, world.season_index(year), day_of_year(one.time_ms))
    weather = weather_of(p)
    day = weather.day(one.time_ms)
    pair = polarisations(p, one)
    db = parcel_backscatter_db(world, state, float(weather.soil_moisture[day]), pair)
    rng = generator(p.seed, "sentinel1", one.time_ms)
    db += np.asarray(rng.normal(0, 0.35, db.shape[1]), np.float32)  # calibration and the day's dew
    water = state.classes == CODE["water"]
    db[water] += rng.normal(0, 2.2)  # wind
    shift = np.clip(rng.normal(0, 0.3, 2), -0.95, 0.95)
    terrain = _terrain(world, layers, one)
    town = np.take(state.classes == CODE["built_up"], layers.parcel)
    facing = np.take(np.cos(2 * world.parcels.row_angle + (0.6 if one.ascending else -0.6)), layers.parcel)
    out = {}
    for column, name in enumerate(pair):
        power: NDArray = np.take(10 ** (db[:, column] / 10), layers.parcel) * terrain
        # Walls that face the sensor shine; fields are smoother than towns.
        texture = np.where(town, np.exp(0.55 * layers.bright + 0.35 * facing), np.exp(0.06 * layers.bright))
        power = displaced((power * texture).astype(np.float32), shift[0], shift[1])
        out[name] = trim_mantissa(power * speckle(power.shape, p.s1_enl, rng))
    return out


def _terrain(world: World, layers: Layers, one: Pass) -> NDArray[np.float32]:
    # What terrain correction leaves behind, and the fall with incidence angle: 0.1 dB a degree.
    towards = layers.slope_x * (-1 if one.ascending else 1)
    grid = layers.grid
    (ax, bx, cx), (ay, by, cy) = grid.plane_affine(world)
    column, row = np.arange(grid.width_px), np.arange(grid.height_px)[:, None]
    angle = _angle(one, ax * column + bx * row + cx, ay * column + by * row + cy)
    db = -0.10 * (angle - 38) + np.clip(4.0 * towards, -1.5, 2.0)
    return (10 ** (db / 10)).astype(np.float32)


def item_id(p: WorldParameters, one: Pass) -> str:
    """Name of a scene as Planetary Computer builds it."""
    moment = datetime.fromtimestamp(one.time_ms / 1000, UTC)
    mode = {"vv": "1SSV", "vv-vh": "1SDV", "hh-hv": "1SDH"}["-".join(polarisations(p, one))]
    return f"S1{one.platform}_IW_GRDH_{mode}_{moment:%Y%m%dT%H%M%S}_{one.orbit:03d}_rtc"


def write_pass(p: WorldParameters, root: Path, layer_folder: Path, one: Pass) -> int:
    """Render and store a pass; returns 1 where the item is new."""
    archive, world, name = Archive(root), world_of(p), item_id(p, one)
    if archive.has(COLLECTION, name):
        return 0
    grid = sensor_grid(p, "sentinel1", zone_of(one))
    assets = {}
    for key, image in render(p, one, layer_folder).items():
        write_cog(archive.asset_path(COLLECTION, name, f"{key}.rtc.tiff"), image, grid.transform, grid.epsg, NODATA)
        band = {"nodata": NODATA, "data_type": "float32", "spatial_resolution": 10.0}
        assets[key] = raster_asset(
            name, COLLECTION, f"{key}.rtc.tiff", grid, band, title=f"{key.upper()} gamma nought, linear", roles=["data"]
        )
    rows, columns = -(-grid.height_px * 10 // _ANGLE_STEP_M), -(-grid.width_px * 10 // _ANGLE_STEP_M)
    coarse = Grid(grid.epsg, grid.left_m, grid.top_m, columns, rows, _ANGLE_STEP_M)
    angle = incidence_deg(world, one, coarse)
    write_cog(archive.asset_path(COLLECTION, name, "angle.tiff"), angle, coarse.transform, grid.epsg, NODATA)
    band = {"nodata": NODATA, "data_type": "float32", "spatial_resolution": _ANGLE_STEP_M, "unit": "degree"}
    assets["angle"] = raster_asset(
        name, COLLECTION, "angle.tiff", coarse, band, title="Incidence angle on the ellipsoid", roles=["data"]
    )
    properties = {
        "platform": f"SENTINEL-1{one.platform}",
        "constellation": "Sentinel-1",
        "instruments": ["c-sar"],
        "proj:epsg": grid.epsg,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
        "sar:instrument_mode": "IW",
        "sar:frequency_band": "C",
        "sar:center_frequency": 5.405,
        "sar:polarizations": [key.upper() for key in polarisations(p, one)],
        "sar:product_type": "GRD",
        "sar:observation_direction": "right",
        "sar:looks_equivalent_number": p.s1_enl,
        "sar:pixel_spacing_range": 10,
        "sar:pixel_spacing_azimuth": 10,
        "sat:orbit_state": "ascending" if one.ascending else "descending",
        "sat:relative_orbit": one.orbit,
        "sat:platform_international_designator": "2014-016A",
        "s1:processing_level": "1",
        "s1:orbit_inclination_deg": 98.18,
        "s1:platform_heading_deg": 347.2 if one.ascending else 192.8,
    }
    footprint = plane_to_wgs84(world, grid_to_plane(world, grid.footprint(), grid.epsg))
    write_item(archive, COLLECTION, name, footprint, one.time_ms, properties, assets, ("sar", "sat", "proj", "raster"))
    return 1
