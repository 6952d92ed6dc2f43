"""Sentinel-2 Level-2A in the manner of Earth Search: 13 bands, SCL, two orbits, tiles that overlap."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from shapely.geometry import Polygon

from pipelines.grid import parse_time_ms
from pipelines.sandbox.layers import Grid, grid_to_plane, open_layers, plane_to_wgs84, sensor_grid
from pipelines.sandbox.noise import generator
from pipelines.sandbox.optics import (
    Atmosphere,
    NoiseBank,
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
from pipelines.sandbox.spectra import BANDS, parcel_state, reflectance
from pipelines.sandbox.stac import Archive, raster_asset, write_item
from pipelines.sandbox.weather import sky_at, weather_of
from pipelines.sandbox.world import World, world_of

COLLECTION = "sentinel-2-l2a"
RESOLUTION_M: dict[str, int] = {
    **dict.fromkeys(("blue", "green", "red", "nir"), 10),
    **dict.fromkeys(("rededge1", "rededge2", "rededge3", "nir08", "swir16", "swir22"), 20),
    **dict.fromkeys(("coastal", "nir09", "cirrus"), 60),
}
_FILE = dict(zip(BANDS, "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B10 B11 B12".split(), strict=True))
_MICRONS = dict(
    zip(
        BANDS,
        (0.443, 0.49, 0.56, 0.665, 0.704, 0.74, 0.783, 0.842, 0.865, 0.945, 1.3735, 1.61, 2.19),
        strict=True,
    )
)
# Southern and northern tile of each zone, named as MGRS would near 6 E, 5500 km N.
_SQUARES = {32631: ("GQ", "GR"), 32632: ("KV", "KA")}
_NOISE_SD = 0.0022  # of reflectance, per pixel and date


@dataclass(frozen=True)
class MgrsTile:
    """One tile: rows of the zone's 60 m grid."""

    epsg: int
    square: str
    first_row60: int
    last_row60: int

    def cut(self, image: NDArray, resolution_m: int) -> NDArray:
        per = 60 // resolution_m
        return image[self.first_row60 * per : self.last_row60 * per]

    def grid(self, whole: Grid, resolution_m: int) -> Grid:
        rows = (self.last_row60 - self.first_row60) * (60 // resolution_m)
        same = whole.at(resolution_m)
        return Grid(self.epsg, same.left_m, same.top_m - self.first_row60 * 60, same.width_px, rows, resolution_m)


@lru_cache(maxsize=8)
def tiles_of(p: WorldParameters, epsg: int) -> tuple[MgrsTile, MgrsTile]:
    """The two tiles of a zone, overlapping by ``tile_overlap_m``."""
    rows = sensor_grid(p, "sentinel2", epsg).at(60).height_px
    half = round(p.tile_overlap_m / 60 / 2)
    south, north = _SQUARES[epsg]
    return (
        MgrsTile(epsg, south, rows // 2 - half, rows),
        MgrsTile(epsg, north, 0, rows // 2 + half),
    )


def swath(p: WorldParameters, one: Pass) -> Polygon:
    """Ground seen in a pass, in the plane: one orbit misses a wedge in the east, the other one in the west."""
    rng = generator(p.seed, "swath", one.time_ms)
    wander = rng.normal(0, 0.02) * p.width_m
    far, tall = 4 * p.width_m, 2 * p.height_m
    lean = 0.18  # the ground track runs from north-north-east to south-south-west
    if one.orbit == 108:
        edge = 0.36 * p.width_m + wander
        return Polygon([(-far, -tall), (edge - lean * tall, -tall), (edge + lean * tall, tall), (-far, tall)])
    edge = -0.40 * p.width_m + wander
    return Polygon([(edge - lean * tall, -tall), (far, -tall), (far, tall), (edge + lean * tall, tall)])


def item_id(one: Pass, tile: MgrsTile) -> str:
    """Name of a scene as Earth Search builds it."""
    date = datetime.fromtimestamp(one.time_ms / 1000, UTC)
    return f"S2{one.platform}_{tile.epsg % 100}U{tile.square}_{date:%Y%m%d}_0_L2A"


def baseline_of(p: WorldParameters, time_ms: int) -> str:
    """Processing baseline in force at a time; from 04.00 on numbers carry an offset of 1000."""
    return "04.00" if time_ms >= parse_time_ms(p.baseline_0400) else "03.01"


def render(p: WorldParameters, one: Pass, epsg: int, layer_folder: Path) -> dict[str, NDArray]:
    """All bands and SCL of a pass over a zone, as stored, by band name."""
    world = world_of(p)
    day = weather_of(p).day(one.time_ms)
    year = datetime.fromtimestamp(one.time_ms / 1000, UTC).year
    sun = sun_at(one.time_ms, p.centre_lon, p.centre_lat)
    state = parcel_state(world, world.season_index(year), day_of_year(one.time_ms))
    table = reflectance(world, state, float(weather_of(p).soil_moisture[day]))
    rng = generator(p.seed, "sentinel2", one.time_ms)
    gain = rng.normal(1, p.s2_gain_sd) * rng.normal(1, 0.25 * p.s2_gain_sd, len(BANDS))
    shift_m = rng.normal(0, p.s2_shift_px * 10, 2)
    sky = sky_at(p, one.time_ms)
    coarse = atmosphere_over(world, sensor_grid(p, "sentinel2", epsg).at(60), sky, sun, one.time_ms)
    offset = 1000.0 if baseline_of(p, one.time_ms) >= "04.00" else 0.0
    out: dict[str, NDArray] = {}
    physical: dict[str, NDArray] = {}
    bank = NoiseBank(p.seed, one.time_ms, epsg)
    for resolution in (60, 20, 10):
        layers = open_layers(p, f"sentinel2_{epsg}_{resolution}", layer_folder)
        shading = shade(layers, state, sun)
        air = coarse.enlarge(60 / resolution, layers.grid.shape)
        outside = ~_seen(world, p, one, layers.grid)
        for band, name in enumerate(BANDS):
            if RESOLUTION_M[name] != resolution:
                continue
            image = displaced(shading.surface(layers, table, band), *np.clip(shift_m / resolution, -0.95, 0.95))
            image = through(image, air, band) * np.float32(gain[band])
            image += _NOISE_SD * bank.cut(image.shape)
            stored = np.rint(image * 10_000 + offset)
            stored = np.clip(stored, 1, 65_535).astype(np.uint16)
            stored[outside] = 0
            out[name] = stored
            if resolution == 20 or name in ("red", "nir"):
                physical[name] = image
        if resolution == 20:
            out["scl"] = np.where(outside, 0, 1).astype(np.uint8)
            air20 = air
    scene_class = _scene_classification(p, one, epsg, air20, physical)
    out["scl"] = np.where(out["scl"] == 0, 0, scene_class).astype(np.uint8)
    return out


def _seen(world: World, p: WorldParameters, one: Pass, grid: Grid) -> NDArray[np.bool_]:
    """``(H, W)``, True inside the swath; the swath's one inner edge is a straight line in the plane."""
    ring = np.array(swath(p, one).exterior.coords)
    (x0, y0), (x1, y1) = (ring[1], ring[2]) if one.orbit == 108 else (ring[0], ring[3])
    (ax, bx, cx), (ay, by, cy) = grid.plane_affine(world)
    column, row = np.arange(grid.width_px), np.arange(grid.height_px)[:, None]
    x, y = ax * column + bx * row + cx, ay * column + by * row + cy
    edge = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return x < edge if one.orbit == 108 else x > edge


def _scene_classification(
    p: WorldParameters, one: Pass, epsg: int, air: Atmosphere, image: dict[str, NDArray]
) -> NDArray[np.uint8]:
    """SCL as imperfect as the real one: cloud edges missed, bright roofs taken for cloud, some masks wholly wrong."""
    rng = generator(p.seed, "scl", one.time_ms)
    nir, red = image["nir08"], image["red"][::2, ::2] if "red" in image else image["rededge1"] * 0.6
    ndvi = (nir - red) / np.maximum(nir + red, 1e-3)
    scl: NDArray[np.uint8] = np.full(nir.shape, 5, np.uint8)
    scl[ndvi > 0.42] = 4
    scl[(ndvi > 0.25) & (ndvi <= 0.42)] = 7 if rng.random() < 0.15 else 5
    scl[(nir < 0.07) & (ndvi < 0.2)] = 6
    scl[air.shadow > 0.45] = 3
    scl[air.cirrus > 0.14] = 10
    limit = rng.uniform(0.22, 0.5)
    scl[air.cloud > limit] = 8
    core = air.cloud > limit + 0.3
    scl[binary_dilation(core) & (air.cloud > limit)] = 9
    scl[(image["rededge1"] > 0.33) & (image["swir22"] > 0.25) & (air.cloud < limit)] = 8
    if rng.random() < p.s2_bad_masks:
        # A whole mask is wrong over more than half of the area: clear land called cloud, or cloud called land.
        wrong = np.zeros(scl.shape, bool)
        cut = int(scl.shape[0] * rng.uniform(0.3, 1.0))
        wrong[:cut] = True
        covered = np.isin(scl, (3, 8, 9, 10))
        scl = np.where(wrong, np.where(covered, np.where(ndvi > 0.3, 4, 5), 9), scl).astype(np.uint8)
    return scl


def write_pass(p: WorldParameters, root: Path, layer_folder: Path, one: Pass, epsg: int) -> int:
    """Render and store the tiles of a pass in a zone; returns how many items are new."""
    archive, world = Archive(root), world_of(p)
    whole = sensor_grid(p, "sentinel2", epsg)
    seen = swath(p, one)
    missing = []
    for tile in tiles_of(p, epsg):
        part = grid_to_plane(world, tile.grid(whole, 60).footprint(), epsg).intersection(seen)
        if part.area > 4 * 60**2 and not archive.has(COLLECTION, item_id(one, tile)):
            missing.append((tile, part))
    if not missing:
        return 0
    images = render(p, one, epsg, layer_folder)
    written = 0
    for tile, part in missing:
        scl = tile.cut(images["scl"], 20)
        if not (scl != 0).any():
            continue
        _write_tile(
            archive, world, p, one, tile, whole, {k: tile.cut(v, _resolution(k)) for k, v in images.items()}, part
        )
        written += 1
    return written


def _resolution(name: str) -> int:
    return 20 if name == "scl" else RESOLUTION_M[name]


def _write_tile(
    archive: Archive,
    world: World,
    p: WorldParameters,
    one: Pass,
    tile: MgrsTile,
    whole: Grid,
    images: dict[str, NDArray],
    part: Polygon,
) -> None:
    name, baseline = item_id(one, tile), baseline_of(p, one.time_ms)
    offset = -0.1 if baseline >= "04.00" else 0
    assets = {}
    for band in (*BANDS, "scl"):
        resolution = _resolution(band)
        grid = tile.grid(whole, resolution)
        file = "SCL.tif" if band == "scl" else f"{_FILE[band]}.tif"
        write_cog(
            archive.asset_path(COLLECTION, name, file),
            images[band],
            grid.transform,
            tile.epsg,
            0,
            categorical=band == "scl",
        )
        entry: dict[str, object] = {"nodata": 0, "data_type": "uint8" if band == "scl" else "uint16"}
        entry["spatial_resolution"] = resolution
        extra: dict[str, object] = {"gsd": resolution}
        if band != "scl":
            entry |= {"bits_per_sample": 15, "scale": 0.0001, "offset": offset}
            extra["eo:bands"] = [{"name": band, "common_name": band.rstrip("123"), "center_wavelength": _MICRONS[band]}]
        title = "Scene classification map (SCL)" if band == "scl" else f"{band} - {resolution}m"
        roles = ["data", "reflectance"] if band != "scl" else ["data"]
        assets[band] = raster_asset(name, COLLECTION, file, grid, entry, title=title, roles=roles, **extra)
    valid = images["scl"] != 0
    share = {code: 100 * float((images["scl"] == code).sum()) / max(int(valid.sum()), 1) for code in range(12)}
    sun = sun_at(one.time_ms, p.centre_lon, p.centre_lat)
    moment = datetime.fromtimestamp(one.time_ms / 1000, UTC)
    properties = {
        "platform": f"sentinel-2{one.platform.lower()}",
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "eo:cloud_cover": round(share[8] + share[9] + share[10], 6),
        "proj:epsg": tile.epsg,
        "mgrs:utm_zone": tile.epsg % 100,
        "mgrs:latitude_band": "U",
        "mgrs:grid_square": tile.square,
        "grid:code": f"MGRS-{tile.epsg % 100}U{tile.square}",
        "sat:relative_orbit": one.orbit,
        "sat:orbit_state": "descending",
        "view:sun_azimuth": sun.azimuth_deg,
        "view:sun_elevation": sun.elevation_deg,
        "s2:product_type": "S2MSI2A",
        "s2:processing_baseline": baseline,
        "s2:datatake_id": f"GS2{one.platform}_{moment:%Y%m%dT%H%M%S}_0{10_000 + day_index(p, one)}_N{baseline}",
        "s2:nodata_pixel_percentage": round(100 * float((~valid).mean()), 6),
        "s2:cloud_shadow_percentage": round(share[3], 6),
        "s2:vegetation_percentage": round(share[4], 6),
        "s2:water_percentage": round(share[6], 6),
        "s2:high_proba_clouds_percentage": round(share[9], 6),
        "s2:sequence": "0",
        "earthsearch:boa_offset_applied": False,
        "gsd": 10,
    }
    footprint = plane_to_wgs84(world, part)
    extensions = ("eo", "view", "grid", "mgrs", "sat", "proj", "raster", "s2")
    write_item(archive, COLLECTION, name, footprint, one.time_ms, properties, assets, extensions)


def day_index(p: WorldParameters, one: Pass) -> int:
    """A number that tells the datatakes apart."""
    return weather_of(p).day(one.time_ms) * 10 + one.orbit % 10
