"""The scenes of a pixel do not depend on what is read with it, however simply catalogs draw their footprints."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box
from shapely.affinity import translate

from pipelines.coregister import read_frames
from pipelines.coregister.engines import FileGrid
from pipelines.coregister.reach import CELL_M, around, lies_under, reach
from pipelines.grid import WGS84, Window, reproject
from pipelines.sources import source
from tests.coregister.files import EPSG, LEFT, TOP, noise, scene_of, window, write_raster

S2 = source("sentinel2", ["blue"])
CELL_PX = CELL_M // 10
SIZE = 4 * CELL_PX


def outline(west_px, north_px, east_px, south_px):
    """Of a rectangle of pixels, in degrees."""
    return reproject(
        box(LEFT + west_px * 10, TOP - south_px * 10, LEFT + east_px * 10, TOP - north_px * 10), EPSG, WGS84
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Pieces of one datatake and one of another day: files cover all, footprints say less."""
    folder, found = tmp_path_factory.mktemp("reach"), []
    for name, day, drawn in (
        ("a", 0, (0, 0, 300, SIZE)),
        ("b", 0, (100, 90, SIZE, SIZE)),
        ("c", 5, (0, 0, SIZE, 140)),
        ("d", 5, (200, 250, 230, 270)),
    ):
        path = write_raster(folder / f"{name}.tif", noise((SIZE, SIZE), ord(name), 0.2), LEFT, TOP, 10)
        facts = {"s2:datatake_id": f"take{day}", "platform": "sentinel-2a"}
        scene = scene_of("sentinel2", name, {"blue": path}, time_ms=1_590_000_000_000 + day * 86_400_000, facts=facts)
        found.append(replace(scene, footprint=outline(*drawn)))
    return found


def by_scene_and_time(scenes, where):
    frames, failures = read_frames(scenes, where, S2)
    assert failures == []
    return {} if frames is None else dict(zip(frames.time_ms.tolist(), frames.values[:, 0], strict=True))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, SIZE - 40), st.integers(0, SIZE - 40), st.integers(1, 40), st.integers(1, 40))
def test_a_window_alone_is_what_it_is_in_a_larger_one(scenes, row, col, height, width):
    whole = by_scene_and_time(scenes, window(0, 0, SIZE, SIZE))
    alone = by_scene_and_time(scenes, window(col, row, width, height))
    for time_ms, pixels in whole.items():
        part = pixels[row : row + height, col : col + width]
        np.testing.assert_array_equal(alone.get(time_ms, np.zeros_like(part)), part)
    assert set(alone) <= set(whole)


def test_a_file_is_used_in_the_cells_that_its_footprint_touches_and_in_no_other(scenes):
    d = [scene for scene in scenes if scene.scene_id == "d"]
    (pixels,) = by_scene_and_time(d, window(0, 0, SIZE, SIZE)).values()
    rows, cols = np.nonzero(pixels)
    origin_row, origin_col = TOP // 10, LEFT // 10  # of cells, counted in pixels from the zone's origin
    touched_rows = {(origin_row - row - 1) // CELL_PX for row in range(250, 270)}
    touched_cols = {(origin_col + col) // CELL_PX for col in range(200, 230)}
    assert {(origin_row - row - 1) // CELL_PX for row in rows.tolist()} == touched_rows
    assert {(origin_col + col) // CELL_PX for col in cols.tolist()} == touched_cols


@given(st.integers(-3000, 3000), st.integers(-3000, 3000), st.integers(1, 3000), st.integers(1, 3000))
@settings(max_examples=60, deadline=None)
def test_what_reaches_into_a_window_meets_the_area_around_it(col, row, width, height):
    where = Window(EPSG, LEFT + col * 10, TOP + row * 10, width, height)
    area = around(where)
    for corner in np.array(where.polygon().exterior.coords)[:4]:
        for shift in ((-CELL_M, 0), (CELL_M, 0), (0, CELL_M), (0, -CELL_M)):
            near = reproject(translate(box(*(corner - 5), *(corner + 5)), *shift), EPSG, WGS84)
            assert area.intersects(near) or not reach(near, where).any()


def test_a_grid_in_another_zone_or_nowhere_on_earth_does_not_lie_under_the_footprint():
    grid = FileGrid(EPSG, LEFT, TOP, 10, -10, 300, 300)
    place = outline(0, 0, 300, 300)
    assert lies_under(grid, place) and lies_under(grid, outline(100, 100, 400, 300))
    assert not lies_under(replace(grid, epsg=EPSG + 1), place)
    assert not lies_under(replace(grid, epsg=WGS84), place)
    assert not lies_under(replace(grid, epsg=3857, left=1e12), place)
