"""Maps that go with the archives: the GLO-30 surface model in degrees and the annual land-cover map."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil, floor
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import zoom
from shapely import box

from pipelines.grid import WGS84, zone_name
from pipelines.sandbox.layers import grid_to_plane, open_layers, plane_to_wgs84, region, sensor_grid
from pipelines.sandbox.legend import MAP_CLASSES, to_map
from pipelines.sandbox.noise import NoiseField, generator
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.raster import write_cog
from pipelines.sandbox.stac import Archive, raster_asset, write_item
from pipelines.sandbox.world import world_of

DEM_COLLECTION = "cop-dem-glo-30"
MAP_COLLECTION = "land-cover"
_PALETTE = {
    0: (0, 0, 0),
    1: (0, 90, 180),
    2: (20, 100, 30),
    3: (150, 200, 90),
    4: (90, 150, 150),
    5: (220, 190, 80),
    6: (170, 150, 90),
    7: (200, 40, 40),
    8: (170, 160, 150),
}


def write_dem(p: WorldParameters, root: Path) -> int:
    """The surface model in one-degree tiles, cut to the region and a margin; returns the number of new items."""
    archive, world = Archive(root), world_of(p)
    west, south, east, north = plane_to_wgs84(world, region(p)).buffer(0.012).bounds
    step = 1 / 3600
    written = 0
    for lon in range(floor(west), ceil(east)):
        for lat in range(floor(south), ceil(north)):
            name = f"Copernicus_DSM_COG_10_N{lat:02d}_00_E{lon:03d}_00_DEM"
            if archive.has(DEM_COLLECTION, name):
                continue
            left, right = max(west, lon), min(east, lon + 1)
            bottom, top = max(south, lat), min(north, lat + 1)
            # Pixel centres lie on whole seconds, as in the product; edges half a second off.
            column0, column1 = floor(left / step), ceil(right / step)
            row0, row1 = floor(bottom / step), ceil(top / step)
            columns, rows = np.arange(column0, column1), np.arange(row1, row0, -1)
            x, y = world.to_plane(*np.meshgrid(columns * step, rows * step), WGS84)
            parcel, _ = world.locate(x, y)
            # Radar from space sees into crowns: 60 % of the canopy is in the surface, with the noise of the product.
            canopy = world.parcels.height_m[parcel, 0] * world.height_factor(x, y)
            noise = 0.5 * NoiseField(p.seed, "dem", 70, 2)(x, y)
            surface = (world.elevation_m(x, y) + 0.6 * canopy + noise).astype(np.float32)
            transform = Affine(step, 0, (column0 - 0.5) * step, 0, -step, (row1 + 0.5) * step)
            write_cog(archive.asset_path(DEM_COLLECTION, name, f"{name}.tif"), surface, transform, WGS84, None)
            bounds = (transform.c, transform.f - len(rows) * step, transform.c + len(columns) * step, transform.f)
            asset = {
                "href": f"../../../assets/{DEM_COLLECTION}/{name}/{name}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "title": f"N{lat:02d} E{lon:03d}",
                "raster:bands": [
                    {"sampling": "point", "data_type": "float32", "spatial_resolution": 30, "unit": "meter"}
                ],
                "roles": ["data"],
            }
            properties = {
                "gsd": 30,
                "platform": "TanDEM-X",
                "proj:epsg": WGS84,
                "proj:shape": list(surface.shape),
                "proj:transform": list(transform)[:6],
            }
            time_ms = int(datetime(2021, 4, 22, tzinfo=UTC).timestamp() * 1000)
            write_item(
                archive, DEM_COLLECTION, name, box(*bounds), time_ms, properties, {"data": asset}, ("proj", "raster")
            )
            written += 1
    return written


def map_of(p: WorldParameters, parcel: NDArray, world_x: NDArray, world_y: NDArray, year: int) -> NDArray[np.uint8]:
    """The public map at points: coarse, wrong for some parcels, with unmapped stretches."""
    world = world_of(p)
    rng = generator(p.seed, "map", year)
    code = to_map(world.parcels.classes[:, world.season_index(year)])
    wrong = rng.random(len(code)) < p.landcover_wrong
    # Confusions are those of real maps: grass with crops, shrub with trees, wetland with grass or water.
    likely = {1: (4, 8), 2: (6, 3), 3: (5, 6), 4: (3, 1), 5: (3, 8), 6: (2, 3), 7: (8, 5), 8: (7, 5)}
    pair = np.array([likely.get(k, (0, 0)) for k in range(9)], np.uint8)
    other = pair[code, rng.integers(0, 2, len(code))]
    code = np.where(wrong, other, code)
    cloudy = NoiseField(p.seed, ("unmapped", year), max(p.width_m / 5, 900), 2)
    level = np.quantile(cloudy(world.parcels.x, world.parcels.y), p.landcover_covered)
    return np.where(cloudy(world_x, world_y) < level, np.take(code, parcel), 0).astype(np.uint8)


def write_map(p: WorldParameters, root: Path, layer_folder: Path, epsg: int, year: int) -> int:
    """The annual map of a zone; returns 1 where the item is new."""
    archive, world = Archive(root), world_of(p)
    name = f"lc_{zone_name(epsg)}_{year}"
    if archive.has(MAP_COLLECTION, name):
        return 0
    grid = sensor_grid(p, "sentinel2", epsg)
    layers = open_layers(p, f"sentinel2_{epsg}_10", layer_folder)
    coarse_x, coarse_y = grid.at(60).plane(world)
    x, y = (zoom(v, 6, order=1, mode="nearest", grid_mode=True) for v in (coarse_x, coarse_y))
    codes = map_of(p, layers.parcel, x, y, year)
    path = archive.asset_path(MAP_COLLECTION, name, f"{name}.tif")
    write_cog(path, codes, grid.transform, epsg, 0, categorical=True, colormap=_PALETTE)
    band = {"nodata": 0, "data_type": "uint8", "spatial_resolution": 10}
    classes = [{"value": value, "name": text} for value, text in MAP_CLASSES.items()]
    asset = raster_asset(
        name,
        MAP_COLLECTION,
        f"{name}.tif",
        grid,
        band,
        title=f"Land cover {year}",
        roles=["data"],
        **{"classification:classes": classes},
    )
    start = int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp() * 1000) - 1000
    properties = {
        "proj:epsg": epsg,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
    }
    footprint = plane_to_wgs84(world, grid_to_plane(world, grid.footprint(), epsg))
    write_item(
        archive,
        MAP_COLLECTION,
        name,
        footprint,
        None,
        properties,
        {"map": asset},
        ("proj", "raster", "classification"),
        span_ms=(start, end),
    )
    return 1
