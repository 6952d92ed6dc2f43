from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.geometry import Polygon

from pipelines.coregister.engines import FileGrid
from pipelines.coregister.warp import extent, warp
from pipelines.grid import Window, transformer
from tests.coregister.files import EPSG, LEFT, TOP, noise, window

BIG = Window(EPSG, LEFT + 1230, TOP - 770, 300, 280)


def grid_over(box: Window, epsg: int, step: float, phase: float = 0.0, margin: int = 4) -> FileGrid:
    """A file grid of some CRS that covers a window with a margin."""
    west, south, east, north = box.bounds_m
    x, y = Transformer.from_crs(box.epsg, epsg, always_xy=True).transform(
        np.array([west, east, west, east, (west + east) / 2]), np.array([south, south, north, north, north])
    )
    left = np.floor((x.min() - phase) / step - margin) * step + phase
    top = np.ceil((y.max() - phase) / step + margin) * step + phase
    width = int(np.ceil((x.max() - left) / step)) + margin
    height = int(np.ceil((top - y.min()) / step)) + margin
    return FileGrid(epsg, float(left), float(top), step, -step, height, width)


def through(values: np.ndarray, grid: FileGrid, box: Window, nodata: float = 0, nearest: bool = False) -> np.ndarray:
    """What a reader does: the crop that the window needs, then the warp of that crop."""
    found = extent(grid, box)
    assert found is not None
    col, row, width, height = found
    return warp(values[row : row + height, col : col + width], (col, row), grid, box, nodata, nearest=nearest)


def test_aligned_grid_is_a_crop_without_any_change():
    grid = FileGrid(EPSG, LEFT, TOP, 10, -10, 200, 200)
    values = noise((200, 200), 1, holes=0.2)
    np.testing.assert_array_equal(through(values, grid, window(7, 11, 30, 20)), values[11:31, 7:37])


def test_outside_of_the_file_is_nodata():
    grid = FileGrid(EPSG, LEFT, TOP, 10, -10, 20, 20)
    values = noise((20, 20), 1)
    out = through(values, grid, window(-5, -3, 30, 30))
    np.testing.assert_array_equal(out[3:23, 5:25], values)
    assert out.sum() == values.sum()
    assert extent(grid, window(40, 40)) is None


@pytest.mark.parametrize(
    ("step", "phase"), [(10, 0), (15, 7.5), (15, 0), (20, 0), (30, 15), (30, 0), (60, 0), (10, 5), (5, 0), (2, 1)]
)
@pytest.mark.parametrize("epsg", [EPSG, EPSG + 1])
def test_a_point_target_lands_where_it_stands(step: float, phase: float, epsg: int):
    """Centroid error under 0.1 px (of 10 m) for every ground sample distance, in the same zone and the next."""
    grid = grid_over(BIG, epsg, step, phase, margin=8)
    values = np.zeros((grid.height, grid.width), np.float32)
    row, col = grid.height // 2, grid.width // 2 + 1
    size = max(1, round(10 / step))  # a target of at least one target pixel
    values[row : row + size, col : col + size] = 1000
    out = through(values, grid, BIG, nodata=-1)
    centre = (grid.left + (col + size / 2) * step, grid.top - (row + size / 2) * step)
    x, y = Transformer.from_crs(epsg, EPSG, always_xy=True).transform(*centre)
    rows, cols = np.indices(out.shape)
    found_x = BIG.left_m + (float((out * cols).sum() / out.sum()) + 0.5) * 10
    found_y = BIG.top_m - (float((out * rows).sum() / out.sum()) + 0.5) * 10
    assert abs(found_x - x) < 1.0 and abs(found_y - y) < 1.0


CASES = {
    "same zone 30 m, half a pixel off": grid_over(BIG, EPSG, 30, 15),
    "same zone 20 m": grid_over(BIG, EPSG, 20),
    "same zone 4 m, averaged": grid_over(BIG, EPSG, 4),
    "next zone 20 m": grid_over(BIG, EPSG + 1, 20),
    "next zone 6 m, averaged": grid_over(BIG, EPSG + 1, 6),
    "degrees": grid_over(BIG, 4326, 1 / 3600),
}
PIXELS = {name: noise((grid.height, grid.width), 3, holes=0.15) for name, grid in CASES.items()}
WHOLE = {
    (name, nearest): through(PIXELS[name], CASES[name], BIG, nearest=nearest)
    for name in CASES
    for nearest in (False, True)
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("nearest", [False, True])
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_pixels_do_not_depend_on_how_the_work_was_cut(name: str, nearest: bool, data: st.DataObject):
    """Zero differing pixels for any window inside another, at offsets that are no multiple of the node spacing."""
    col, row = data.draw(st.integers(0, 299)), data.draw(st.integers(0, 279))
    width, height = data.draw(st.integers(1, 300 - col)), data.draw(st.integers(1, 280 - row))
    part = Window(EPSG, BIG.left_m + col * 10, BIG.top_m - row * 10, width, height)
    out = through(PIXELS[name], CASES[name], part, nearest=nearest)
    np.testing.assert_array_equal(out, WHOLE[name, nearest][row : row + height, col : col + width])


SMOOTH = 18  # of 11 to a column and 7 to a row
NOISE = 10_000


@pytest.mark.parametrize(
    ("name", "contrast", "beyond_half"),
    [
        ("next zone 20 m", SMOOTH, 1e-3),
        ("next zone 20 m", NOISE, 0.02),
        ("degrees", SMOOTH, 1e-3),
        ("degrees", NOISE, 0.2),  # 1.7e-5 of a pixel, and neighbours that differ by all that 16 bits hold
        ("same zone 30 m, half a pixel off", NOISE, 1e-6),
    ],
)
def test_within_half_a_number_of_the_exact_projection(name: str, contrast: int, beyond_half: float):
    """Against bilinear interpolation in numpy at coordinates that pyproj projects pixel by pixel.

    Half a number is rounding; what lies beyond is the error of the position times the contrast of neighbours.
    """
    grid = CASES[name]
    smooth = np.add.outer(np.arange(grid.height) * 7.0, np.arange(grid.width) * 11.0) + 100
    values = smooth.astype(np.uint16) if contrast == SMOOTH else noise((grid.height, grid.width), 11)
    x, y = np.meshgrid(*BIG.centres())
    sx, sy = Transformer.from_crs(EPSG, grid.epsg, always_xy=True).transform(x, y)
    u, v = (sx - grid.left) / grid.step_x - 0.5, (sy - grid.top) / grid.step_y - 0.5
    j, i = np.floor(u).astype(int), np.floor(v).astype(int)
    fx, fy = u - j, v - i
    at = values.astype(float)
    exact = (at[i, j] * (1 - fx) + at[i, j + 1] * fx) * (1 - fy) + (
        at[i + 1, j] * (1 - fx) + at[i + 1, j + 1] * fx
    ) * fy
    assert np.abs(through(values, grid, BIG) - exact).max() <= 0.5 + beyond_half


def overlap(step: float, phase: float, count: int, targets: int) -> np.ndarray:
    """``(targets, count)`` metres that a file pixel along one axis shares with a target pixel of 10 m."""
    left, first = np.arange(targets)[:, None] * 10.0, np.arange(count) * step - phase
    return np.clip(np.minimum(left + 10, first + step) - np.maximum(left, first), 0, None)


@pytest.mark.parametrize(("step", "phase"), [(2, 0), (3, 1), (4, 2), (6, 5), (7, 3.5)])
def test_fine_grids_are_averaged_by_shared_area_around_their_holes(step: float, phase: float):
    grid = FileGrid(EPSG, LEFT - phase, TOP + phase, step, -step, 160, 150)
    values = noise((160, 150), 5, holes=0.4)
    out = through(values, grid, window(0, 0, 28, 30))
    rows, cols = overlap(step, phase, 160, 30), overlap(step, phase, 150, 28)
    area = rows @ (values > 0) @ cols.T
    mean = (rows @ values.astype(float) @ cols.T) / np.maximum(area, 1e-9)
    seen = area > 50 + 1e-6
    assert 0 < seen.sum() < seen.size
    assert np.abs(out - mean)[seen].max() <= 0.5 + 1e-6
    assert (out[area < 50 - 1e-6] == 0).all()


@pytest.mark.parametrize("left", [-180.0, 180.0, 179.0])
def test_a_file_beside_180_degrees_gives_its_own_side_and_nothing_else(left: float):
    """A degree whose numbers are its columns, a thousandth of a degree each, under a window half on either side."""
    grid = FileGrid(4326, left, -16.0, 0.001, -0.001, 2000, 1000)
    x, y = transformer(4326, 32760).transform(180.0, -17.0)
    over = Window(32760, int(x) // 10 * 10 - 640, int(y) // 10 * 10 + 640, 128, 128)
    out = through(np.broadcast_to(np.arange(1000, dtype=np.float32), (2000, 1000)), grid, over, nodata=-1.0)
    lon, _ = transformer(32760, 4326).transform(*np.meshgrid(*over.centres()))
    column = (np.asarray(lon) % 360 - left % 360) / 0.001 - 0.5
    inside, outside = (column > 0) & (column < 999), (column < -1) | (column > 1000)
    assert inside.any() and outside.any()
    np.testing.assert_allclose(out[inside], column[inside], atol=0.01)
    assert (out[outside] == -1).all()


@pytest.mark.parametrize("step", [3.0, 5.0, 7.0])
def test_fine_grids_of_another_zone_are_averaged_by_shared_area_around_their_holes(step: float):
    """Against polygons projected corner by corner and intersected by GEOS."""
    box_ = Window(EPSG, LEFT + 1230, TOP - 770, 24, 20)
    grid = grid_over(box_, EPSG + 1, step)
    values = noise((grid.height, grid.width), 5, holes=0.3)
    out = through(values, grid, box_)
    corners = np.meshgrid(box_.left_m + np.arange(25) * 10.0, box_.top_m - np.arange(21) * 10.0)
    x, y = transformer(EPSG, EPSG + 1).transform(*corners)
    x, y = (np.asarray(x) - grid.left) / grid.step_x, (np.asarray(y) - grid.top) / grid.step_y
    seen = 0
    for i, j in np.ndindex(out.shape):
        pixel = Polygon([(x[a, b], y[a, b]) for a, b in ((i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j))])
        west, north, east, south = (int(np.floor(edge)) for edge in pixel.bounds)
        cols, rows = np.meshgrid(np.arange(west, east + 1), np.arange(north, south + 1))
        area = shapely.area(shapely.intersection(pixel, shapely.box(cols, rows, cols + 1, rows + 1)))
        stored = values[rows, cols]
        area[stored == 0] = 0
        if area.sum() > 0.501 * pixel.area:
            assert abs(out[i, j] - (area * stored).sum() / area.sum()) <= 0.55
            seen += 1
        elif area.sum() < 0.499 * pixel.area:
            assert out[i, j] == 0
    assert 100 < seen < out.size


def test_nodata_is_never_averaged_into_signal():
    grid = CASES["next zone 20 m"]
    values = np.where(PIXELS["next zone 20 m"] == 0, 0, 5000).astype(np.uint16)
    assert set(np.unique(through(values, grid, BIG))) == {0, 5000}


@pytest.mark.parametrize("nodata", [0, 500, 65535])
def test_what_is_measured_never_rounds_onto_nodata(nodata: int):
    near = [value for value in (nodata - 1, nodata + 1, nodata + 2) if 0 <= value <= 65535]
    crop = np.random.default_rng(0).choice(near, (40, 40)).astype(np.uint16)
    grid = FileGrid(EPSG, LEFT, TOP, 20, -20, 40, 40)
    out = warp(crop, (0, 0), grid, window(4, 4, 60, 60), nodata)
    assert (out != nodata).all() and np.abs(out.astype(float) - nodata).max() <= 2


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
@pytest.mark.parametrize("step", [10.0, 5.0, 3.0])
@pytest.mark.parametrize("nodata", [0, 500])
def test_a_mean_that_is_just_nodata_stays_measured(dtype: str, step: float, nodata: int):
    """A chequerboard of one below and one above, half a pixel off or averaged."""
    crop = (nodata + 1 - 2 * (np.indices((200, 200)).sum(axis=0) % 2)).astype(dtype)
    grid = FileGrid(EPSG, LEFT + step / 2, TOP, step, -step, 200, 200)
    out = warp(crop, (0, 0), grid, window(4, 4, 30, 30), nodata)
    assert (out != nodata).all() and np.abs(out.astype(float) - nodata).max() <= 1
    assert (warp(np.full_like(crop, nodata), (0, 0), grid, window(4, 4, 30, 30), nodata) == nodata).all()


def test_twenty_metre_pixels_cover_exactly_their_own_ground():
    """A single 20 m pixel surrounded by nodata becomes the four 10 m pixels under it."""
    grid = FileGrid(EPSG, LEFT, TOP, 20, -20, 10, 10)
    values = np.zeros((10, 10), np.uint16)
    values[4, 6] = 77
    out = through(values, grid, window(0, 0, 20, 20))
    assert out.sum() == 4 * 77 and (out[8:10, 12:14] == 77).all()


def test_fine_grids_are_averaged_by_area():
    grid = FileGrid(EPSG, LEFT, TOP, 5, -5, 40, 40)
    values = noise((40, 40), 5)
    mean = values.reshape(20, 2, 20, 2).mean((1, 3))
    np.testing.assert_array_equal(through(values, grid, window(0, 0, 20, 20)), np.floor(mean + 0.5))


def test_classes_are_never_mixed():
    grid = CASES["degrees"]
    values = np.where(PIXELS["degrees"] > 5000, 10, 200).astype(np.uint8)
    assert set(np.unique(through(values, grid, BIG, nearest=True))) <= {10, 200}
