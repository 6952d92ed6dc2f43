"""The hidden truth as files: points for labels and maps. Only evaluation may read them; no renderer does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from shapely import points

from pipelines.grid import WGS84, zone_name
from pipelines.sandbox.layers import ZONES, open_layers, plane_to_wgs84, region, sensor_grid
from pipelines.sandbox.legend import CLASSES, FIRST_CROP, LAND_COVER, to_land_cover
from pipelines.sandbox.noise import generator
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.raster import write_cog
from pipelines.sandbox.stac import write_text
from pipelines.sandbox.world import World, world_of

INSIDE_M = 15.0


def label_positions(world: World) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """One point a parcel: parcel, plane x, plane y, distance to the edge.

    Of some points thrown around each parcel's seed, one that is at least 15 m inside is drawn at random; where a parcel
    has none, the innermost. Rivers get points where they run through a parcel.
    """
    p = world.parameters
    rng = generator(p.seed, "labels")
    n = len(world.parcels) // 2
    inside = (np.abs(world.parcels.x[:n]) < p.width_m / 2 + 100) & (np.abs(world.parcels.y[:n]) < p.height_m / 2 + 100)
    seeds = np.flatnonzero(inside)
    tries = 40
    reach = p.parcel_spacing_m * 0.7
    x = world.parcels.x[seeds, None] + rng.uniform(-reach, reach, (len(seeds), tries))
    y = world.parcels.y[seeds, None] + rng.uniform(-reach, reach, (len(seeds), tries))
    parcel, edge = world.locate(x, y)
    usable = (np.abs(x) < p.width_m / 2) & (np.abs(y) < p.height_m / 2)
    table = pd.DataFrame(
        {"parcel": parcel.ravel(), "x": x.ravel(), "y": y.ravel(), "edge": edge.ravel(), "ok": usable.ravel()}
    )
    table = table[table.ok]
    # Anything well inside is as good as anything else; below that the innermost wins.
    table["rank"] = np.where(table.edge >= INSIDE_M, 1_000 + rng.random(len(table)), table.edge)
    best = table.sort_values(["parcel", "rank"]).groupby("parcel").tail(1)
    best = best[best.edge > 4.0].sort_values("parcel")
    return best.parcel.to_numpy(), best.x.to_numpy(), best.y.to_numpy(), best.edge.to_numpy()


def labels(world: World) -> gpd.GeoDataFrame:
    """The label table: one row per parcel and year."""
    p = world.parameters
    parcel, x, y, edge = label_positions(world)
    lon, lat = world.from_plane(x, y, WGS84)
    factor = world.height_factor(x, y)
    land = to_land_cover(world.parcels.classes)
    frames = []
    for column, year in enumerate(p.years):
        finest = world.parcels.classes[parcel, column]
        is_crop = finest >= FIRST_CROP
        other = 1 if column == 0 and len(p.years) > 1 else column - 1
        changed = land[parcel, column] != land[parcel, other] if len(p.years) > 1 else np.zeros(len(parcel), bool)
        frames.append(
            pd.DataFrame(
                {
                    "point_id": [f"{number:06d}_{year}" for number in parcel],
                    "parcel_id": parcel.astype(np.int64),
                    "year": year,
                    "land_cover": np.array(LAND_COVER)[land[parcel, column]],
                    "crop": np.where(is_crop, np.array(CLASSES)[finest], None),
                    "class16": np.array(CLASSES)[finest],
                    "height_m": (world.parcels.height_m[parcel, column] * factor).astype(np.float32),
                    "elevation_m": world.elevation_m(x, y),
                    "changed": changed,
                    "is_crop": is_crop,
                    "edge_m": edge.astype(np.float32),
                    "geometry": points(lon, lat),
                }
            )
        )
    return gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), geometry="geometry", crs="EPSG:4326")


def write(p: WorldParameters, root: Path, layer_folder: Path) -> None:
    """Write everything under ``truth/`` and the region."""
    world = world_of(p)
    folder = root / "truth"
    folder.mkdir(parents=True, exist_ok=True)
    table = labels(world)
    temporary = folder / f".labels.{os.getpid()}.parquet"
    table.to_parquet(temporary)
    for epsg in ZONES:
        layers = open_layers(p, f"sentinel2_{epsg}_10", layer_folder)
        grid = sensor_grid(p, "sentinel2", epsg)
        factor = world.height_factor(*grid.plane(world))
        for column, year in enumerate(p.years):
            stem = f"{zone_name(epsg)}_{year}"
            finest = np.take(world.parcels.classes[:, column], layers.parcel)
            land = to_land_cover(finest) + 1
            height = np.take(world.parcels.height_m[:, column], layers.parcel) * factor
            write_cog(folder / f"{stem}_land_cover.tif", land, grid.transform, epsg, 0, categorical=True)
            write_cog(folder / f"{stem}_class16.tif", finest + np.uint8(1), grid.transform, epsg, 0, categorical=True)
            write_cog(folder / f"{stem}_height.tif", height.astype(np.float32), grid.transform, epsg, -1)
    legend = {
        "land_cover": {str(k + 1): name for k, name in enumerate(LAND_COVER)},
        "class16": {str(k + 1): name for k, name in enumerate(CLASSES)},
        "nodata": 0,
    }
    write_text(folder / "legend.json", json.dumps(legend, indent=1))
    temporary.replace(folder / "labels.parquet")
    area = plane_to_wgs84(world, region(p))
    feature = {"type": "Feature", "properties": {"name": f"sandbox {p.size}"}, "geometry": area.__geo_interface__}
    write_text(root / "region.geojson", json.dumps({"type": "FeatureCollection", "features": [feature]}))
