"""Where pixels land: one bright pixel in a file of each ground sample distance, all the way through ``read_window``."""

from __future__ import annotations

import numpy as np
import pytest
from pyproj import Transformer

from pipelines.coregister import read_window
from pipelines.coregister.engines import ENGINES
from pipelines.grid import Window
from pipelines.sources import source
from tests.coregister.files import EPSG, LEFT, TOP, scene_of, write_raster

# Source, band, ground sample distance, distance of a pixel edge from a multiple of it. Landsat's edges lie at 15 m
# modulo 30 m (origin of a real scene: 263085, 6006915); a pan pixel shares its centre with a 30 m pixel, hence 7.5 m.
GRIDS = {
    "Sentinel-2 at 10 m": ("sentinel2", "blue", 10, 0),
    "Sentinel-2 at 20 m": ("sentinel2", "swir16", 20, 0),
    "Sentinel-2 at 60 m": ("sentinel2", "coastal", 60, 0),
    "Landsat at 30 m": ("landsat", "red", 30, 15),
    "Landsat at 15 m": ("landsat", "pan", 15, 7.5),
}
GROUND, TARGET = 100, 20_000
SIDE_M = 2400


def centroid(layer, x, y):
    """Centre of mass of what rises above the ground, in metres."""
    rise = layer.astype(float) - GROUND
    return (rise * x).sum() / rise.sum(), (rise * y[:, None]).sum() / rise.sum()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("epsg", [EPSG, EPSG + 1], ids=["same zone", "next zone"])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_point_target_lands_within_a_tenth_of_a_pixel(tmp_path, grid: str, epsg: int, engine: str):
    name, band, step, phase = GRIDS[grid]
    there = Transformer.from_crs(EPSG, epsg, always_xy=True)
    back = Transformer.from_crs(epsg, EPSG, always_xy=True)
    x, y = there.transform(LEFT, TOP)
    left, top = (x // step) * step + phase, (y // step) * step + phase
    for col, row in ((int(900 // step), int(1100 // step)), (int(1310 // step), int(640 // step))):
        values = np.full((SIDE_M // step, SIDE_M // step), GROUND, np.uint16)
        values[row, col] = TARGET
        path = write_raster(tmp_path / f"{col}.tif", values, left, top, step, epsg)
        scene = scene_of(name, f"{col}", {band: path}, facts={"platform": "x", "sun_elevation": 40})
        true_x, true_y = back.transform(left + (col + 0.5) * step, top - (row + 0.5) * step)
        box = Window(EPSG, round(true_x / 10) * 10 - 330, round(true_y / 10) * 10 + 310, 64, 66)
        dataset = read_window([scene], box, source(name, [band]), engine=engine)
        layer = dataset["values"][0, 0].to_numpy()
        assert layer.min() == GROUND and layer.max() > GROUND
        found_x, found_y = centroid(layer, dataset["x"].to_numpy(), dataset["y"].to_numpy())
        assert abs(found_x - true_x) < 1.0 and abs(found_y - true_y) < 1.0, (found_x - true_x, found_y - true_y)


def test_bands_of_all_grids_meet_in_one_place(tmp_path):
    """One bright hill of ground, off every grid, as each band of both missions samples it."""
    x, y, sigma_m = LEFT + 1213.0, TOP - 877.0, 70.0
    seen = {}
    for name, band, step, phase in GRIDS.values():
        left, top = LEFT // step * step + phase, TOP // step * step + phase
        along = (np.arange(SIDE_M // step) + 0.5) * step
        hill = np.exp(-(((top - along)[:, None] - y) ** 2 + (left + along - x) ** 2) / (2 * sigma_m**2))
        values = np.round(GROUND + TARGET * hill).astype(np.uint16)
        path = write_raster(tmp_path / f"{band}.tif", values, left, top, step)
        scene = scene_of(name, band, {band: path}, facts={"platform": "x", "sun_elevation": 40})
        dataset = read_window([scene], Window(EPSG, LEFT + 700, TOP - 370, 102, 104), source(name, [band]))
        seen[band] = centroid(dataset["values"][0, 0].to_numpy(), dataset["x"].to_numpy(), dataset["y"].to_numpy())
    assert len(seen) == 5
    for found_x, found_y in seen.values():
        assert abs(found_x - x) < 1.0 and abs(found_y - y) < 1.0, seen
