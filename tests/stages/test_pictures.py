"""Pictures: areas that lie apart get views of their own, and a pixel shows what is measured where it is."""

import numpy as np
import pytest
import rasterio

from pipelines.grid import WGS84, Tile, Window, transformer, zone_wedge
from pipelines.stages.pictures import View, patchwork, raster_view, views_of

SIZE = 128


def tiles(lon, lat, count):
    """``count`` tiles side by side from a point eastwards."""
    epsg = 32631 if lon < 6 else 32632
    x, y = transformer(WGS84, epsg).transform(lon, lat)
    row, col = int(y // (SIZE * 10)), int(x // (SIZE * 10))
    return [Tile.at(epsg, row, col + step, SIZE) for step in range(count)]


def test_areas_that_lie_apart_are_seen_apart_and_the_largest_first():
    near, far = tiles(4.0, 50.0, 2), tiles(5.0, 50.0, 3)
    views = views_of(near + far)
    assert [set(view.tiles) for view in views] == [set(far), set(near)]
    assert views[1].name == "50.00N 4.01E"


def test_a_view_holds_its_tiles_and_stays_modest():
    (view,) = views_of(tiles(4.0, 50.0, 9))
    assert max(view.window.shape) <= 441 and view.window.resolution_m > 10
    west, south, east, north = view.window.bounds_m
    for tile in view.tiles:
        left, bottom, right, top = tile.window.bounds_m
        assert west <= left and right <= east and south <= bottom and top <= north


def test_tiles_of_two_zones_make_one_view_and_each_zone_shows_its_own():
    both = [*tiles(5.985, 50.0, 2), *tiles(6.001, 50.0, 2)]
    (view,) = views_of(both)
    assert {tile.window.epsg for tile in view.tiles} == {32631, 32632}
    (x31, _, own31), (x32, _, own32) = view.positions(32631), view.positions(32632)
    assert own31.any() and own32.any() and not (own31 & own32).any() and (own31 | own32).all()
    assert x31.mean() > 600_000 and x32.mean() < 400_000


@pytest.mark.parametrize("resolution_m", [10, 20, 30])
def test_no_pixel_is_empty_along_the_boundary_of_two_zones(tmp_path, resolution_m):
    """Each zone's raster ends where the centres of its pixels leave the zone, as tiles do."""
    both = []
    for epsg in (32631, 32632):
        x, y = transformer(WGS84, epsg).transform(6.0, 50.0)
        row, col = int(y // (SIZE * 10)), int(x // (SIZE * 10))
        both += [Tile.at(epsg, row + i, col + j, SIZE) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    paths = []
    for index, tile in enumerate(both):
        epsg = tile.window.epsg
        lon, _ = transformer(epsg, WGS84).transform(*np.meshgrid(*tile.window.centres()))
        west, east = zone_wedge(epsg)
        profile = {"driver": "GTiff", "width": SIZE, "height": SIZE, "count": 1, "dtype": "float32"}
        paths.append(tmp_path / f"{index}.tif")
        with rasterio.open(paths[-1], "w", **profile, crs=f"EPSG:{epsg}", transform=tile.window.transform) as file:
            file.write(np.where((lon >= west) & (lon < east), np.float32(epsg), 0), 1)
    x, y = transformer(WGS84, 32631).transform(6.0, 50.0)
    side = 600 // resolution_m
    window = Window(32631, int(x // 60) * 60 - 300, int(y // 60) * 60 + 300, side, side, resolution_m)
    view = View("boundary", window, tuple(both))
    shown = raster_view(paths, view)
    lon, _ = view.lonlat()
    assert (shown == np.where(lon < 6, 32631, 32632)).all()


def test_a_pixel_of_a_raster_is_shown_where_it_lies(tmp_path):
    (tile,) = tiles(4.0, 50.0, 1)
    (view,) = views_of([tile])
    values = np.arange(SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    path = tmp_path / "values.tif"
    profile = {"driver": "GTiff", "width": SIZE, "height": SIZE, "count": 1, "dtype": "float32"}
    with rasterio.open(path, "w", **profile, crs="EPSG:32631", transform=tile.window.transform) as file:
        file.write(values, 1)
    shown = raster_view([path], view)
    pasted = patchwork(view, [(tile.window, values[None])], 1)[..., 0]
    x, y = np.meshgrid(*view.window.centres())
    inside = (x > tile.window.bounds_m[0]) & (x < tile.window.bounds_m[2])
    inside &= (y > tile.window.bounds_m[1]) & (y < tile.window.bounds_m[3])
    rows, cols = ((tile.window.top_m - y) // 10).astype(int), ((x - tile.window.left_m) // 10).astype(int)
    assert inside.sum() == SIZE * SIZE
    for image in (shown, pasted):
        assert image[inside] == pytest.approx(values[rows[inside], cols[inside]])
    assert (shown[~inside] == 0).all() and np.isnan(pasted[~inside]).all()
