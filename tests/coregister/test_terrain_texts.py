from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer
from shapely import Point, box, to_wkb

from pipelines.coregister import read_frames, read_sequence, texts
from pipelines.coregister.terrain import derivatives
from pipelines.coregister.texts import read_texts, texts_within
from pipelines.grid import Period, Window
from pipelines.scenes import Asset, Scene
from pipelines.sources import source
from tests.coregister.files import EPSG, LEFT, TOP, scene_of, window, write_raster
from tests.coregister.served import serve

DEM = source("elevation")
TEXT = source("text")
YEAR = Period.calendar_year(2020)


@pytest.mark.parametrize(
    ("east", "north", "aspect"), [(-1.0, 0.0, 90), (1.0, 0.0, 270), (0.0, -1.0, 0), (0.0, 1.0, 180), (-1, -1, 45)]
)
def test_slope_and_its_direction_on_a_plane(east: float, north: float, aspect: float):
    """Height rises by ``east`` and ``north`` metres a metre: the slope faces the other way, clockwise from north."""
    rows, cols = np.indices((8, 9)) * 10.0
    layers = derivatives(500 + east * cols - north * rows, 10)
    slope = np.arctan(np.hypot(east, north))
    np.testing.assert_allclose(layers["slope_sin"], np.sin(slope))
    np.testing.assert_allclose(layers["slope_cos"], np.cos(slope))
    np.testing.assert_allclose(layers["aspect_sin"], np.sin(np.deg2rad(aspect)), atol=1e-12)
    np.testing.assert_allclose(layers["aspect_cos"], np.cos(np.deg2rad(aspect)), atol=1e-12)


def test_flat_ground_faces_nowhere():
    layers = derivatives(np.full((4, 4), 12.0), 10)
    assert (layers["slope_sin"] == 0).all() and (layers["slope_cos"] == 1).all()
    assert (layers["aspect_sin"] == 0).all() and (layers["aspect_cos"] == 0).all()


def test_slope_of_a_file_does_not_depend_on_the_window(tmp_path):
    rng = np.random.default_rng(0)
    height = rng.normal(100, 30, (60, 60)).astype(np.float32)
    path = write_raster(tmp_path / "dem.tif", height, 2.99, 50.56, 1 / 3600, 4326, nodata=None)
    scene = scene_of("elevation", "dem", {"elevation": path})
    big, _ = read_frames([scene], window(0, 0, 48, 40), DEM)
    small, _ = read_frames([scene], window(9, 13, 20, 20), DEM)
    np.testing.assert_array_equal(big.values[..., 13:33, 9:29], small.values)
    sin, cos = small.values[0, 1], small.values[0, 2]
    np.testing.assert_allclose(sin**2 + cos**2, 1, atol=1e-6)


def test_slope_and_aspect_are_those_of_the_projected_ground_and_not_of_degrees(tmp_path):
    """A plane in UTM, stored in arc seconds: at 50 degrees north a pixel is 31 m high and 20 m wide."""
    east, north, step = -0.3, 0.2, 1 / 3600
    lon, lat = 2.985 + (np.arange(120) + 0.5) * step, 50.56 - (np.arange(120) + 0.5) * step
    x, y = Transformer.from_crs(4326, EPSG, always_xy=True).transform(*np.meshgrid(lon, lat))
    height = (2000 + east * (x - LEFT) + north * (y - TOP)).astype(np.float32)
    path = write_raster(tmp_path / "dem.tif", height, 2.985, 50.56, step, 4326, nodata=None)
    frames, _ = read_frames([scene_of("elevation", "dem", {"elevation": path})], window(), DEM)
    assert frames is not None
    values = dict(zip(DEM.band_names, frames.values[0], strict=True))
    slope, aspect = np.arctan(np.hypot(east, north)), np.arctan2(-east, -north)  # downhill, clockwise from north
    for name, exact in (
        ("slope_sin", np.sin(slope)),
        ("slope_cos", np.cos(slope)),
        ("aspect_sin", np.sin(aspect)),
        ("aspect_cos", np.cos(aspect)),
    ):
        np.testing.assert_allclose(values[name], exact, atol=2e-3, err_msg=name)


def test_two_tiles_make_one_surface(tmp_path):
    height = np.add.outer(np.arange(40.0), np.arange(60.0)).astype(np.float32)
    west = write_raster(tmp_path / "w.tif", height[:, :30], LEFT, TOP, 10, nodata=-9999)
    east = write_raster(tmp_path / "e.tif", height[:, 30:], LEFT + 300, TOP, 10, nodata=-9999)
    scenes = [scene_of("elevation", name, {"elevation": path}) for name, path in (("w", west), ("e", east))]
    frames, _ = read_frames(scenes, window(10, 5, 40, 20), DEM)
    np.testing.assert_array_equal(frames.values[0, 0], height[5:25, 10:50])
    np.testing.assert_allclose(frames.values[0, 1], np.sin(np.arctan(np.hypot(0.1, 0.1))), rtol=1e-5)


def test_a_plane_has_one_slope_across_the_seams_of_its_tiles(tmp_path):
    """Four files that meet in the middle of a window, in arc seconds; any window gives the same pixels."""
    east, north, step = -0.3, 0.2, 1 / 3600
    lon, lat = 2.985 + (np.arange(120) + 0.5) * step, 50.56 - (np.arange(120) + 0.5) * step
    x, y = Transformer.from_crs(4326, EPSG, always_xy=True).transform(*np.meshgrid(lon, lat))
    height = (2000 + east * (x - LEFT) + north * (y - TOP)).astype(np.float32)
    corner = window()
    col, row = ((np.array([3.0, 50.55]) - (2.985, 50.56)) / (step, -step)).round().astype(int)
    back = Transformer.from_crs(4326, EPSG, always_xy=True).transform(2.985 + col * step, 50.56 - row * step)
    middle = window(int(back[0] - corner.left_m) // 10 - 16, int(corner.top_m - back[1]) // 10 - 16, 32, 32)
    scenes = []
    for name in ("nw", "ne", "sw", "se"):
        rows = slice(0, row) if name[0] == "n" else slice(row, None)
        cols = slice(0, col) if name[1] == "w" else slice(col, None)
        left, top = 2.985 + cols.start * step, 50.56 - rows.start * step
        path = write_raster(tmp_path / f"{name}.tif", height[rows, cols], left, top, step, 4326, nodata=-9999)
        scenes.append(scene_of("elevation", name, {"elevation": path}))
    frames, _ = read_frames(scenes, middle, DEM)
    assert frames is not None and sorted(frames.scene_ids[0].split("+")) == ["ne", "nw", "se", "sw"]
    x, y = middle.centres()
    exact = 2000 + east * (x[None] - LEFT) + north * (y[:, None] - TOP)
    np.testing.assert_allclose(frames.values[0, 0], exact, atol=0.02)
    np.testing.assert_allclose(frames.values[0, 1], np.sin(np.arctan(np.hypot(east, north))), atol=2e-3)
    for size in (1, 5, 11):
        for first in range(0, 32 - size, size):
            part, _ = read_frames(scenes, Window(EPSG, middle.left_m + 10 * first, middle.top_m - 160, size, 3), DEM)
            np.testing.assert_array_equal(part.values[0], frames.values[0, :, 16:19, first : first + size])


def test_a_plane_has_one_slope_where_tiles_change_their_spacing(tmp_path):
    """GLO-30 is spaced by one arc second of longitude up to 50 degrees, and by 1.5 beyond."""
    east, north, step = -0.3, 0.2, 1 / 3600
    to_utm = Transformer.from_crs(4326, EPSG, always_xy=True)
    corner = window()
    back = to_utm.transform(3.0, 50.0)
    scenes = []
    for name, wide, top in (("n", 1.5, 50.0 + 60 * step), ("s", 1.0, 50.0)):
        lon, lat = 2.985 + (np.arange(120) + 0.5) * step * wide, top - (np.arange(60) + 0.5) * step
        x, y = to_utm.transform(*np.meshgrid(lon, lat))
        height = (2000 + east * (x - back[0]) + north * (y - back[1])).astype(np.float32)
        path = write_raster(tmp_path / f"{name}.tif", height, 2.985, top, step, 4326, nodata=-9999)
        with rasterio.open(path, "r+") as file:
            file.transform = Affine(step * wide, 0, 2.985, 0, -step, top)
        scenes.append(scene_of("elevation", name, {"elevation": path}))
    left, top = corner.left_m + (int(back[0] - corner.left_m) // 10 - 16) * 10, round(back[1] / 10) * 10 + 160
    area = Window(EPSG, left, top, 32, 32)
    frames, _ = read_frames(scenes, area, DEM)
    assert frames is not None and sorted(frames.scene_ids[0].split("+")) == ["n", "s"]
    x, y = area.centres()
    exact = 2000 + east * (x[None] - back[0]) + north * (y[:, None] - back[1])
    np.testing.assert_allclose(frames.values[0, 0], exact, atol=0.02)
    np.testing.assert_allclose(frames.values[0, 1], np.sin(np.arctan(np.hypot(east, north))), atol=2e-3)
    for size in (1, 5, 11):
        for first in range(0, 32 - size, size):
            part, _ = read_frames(scenes, Window(EPSG, left + 10 * first, top - 130, size, 7), DEM)
            np.testing.assert_array_equal(part.values[0], frames.values[0, :, 13:20, first : first + size])


def test_a_plane_has_one_slope_across_the_antimeridian(tmp_path):
    """Zone 1 begins at 180 degrees; its westernmost tile's neighbour ends there and counts its longitudes from 179."""
    slope, step, epsg = 0.1, 1 / 3600, 32601
    to_utm = Transformer.from_crs(4326, epsg, always_xy=True)
    corner_x, corner_y = to_utm.transform(-180.0, 40.0)
    left, top = round(corner_x / 10) * 10 - 160, round(corner_y / 10) * 10 + 160
    scenes = []
    for name, west in (("e", -180.0), ("w", 180.0 - 120 * step)):
        lon, lat = west + (np.arange(120) + 0.5) * step, 40.0 + (60 - np.arange(120) - 0.5) * step
        x, _ = to_utm.transform(*np.meshgrid(lon - 360 if west > 0 else lon, lat))
        path = write_raster(
            tmp_path / f"{name}.tif", (2000 + slope * (x - corner_x)).astype(np.float32), west, 40.0 + 60 * step, step,
            4326, nodata=-9999,
        )  # fmt: skip
        scenes.append(scene_of("elevation", name, {"elevation": path}))
    area = Window(epsg, left, top, 32, 32)
    frames, _ = read_frames(scenes, area, DEM)
    assert frames is not None and frames.scene_ids[0] in ("e+w", "w+e")
    exact = np.broadcast_to(2000 + slope * (area.centres()[0][None] - corner_x), (32, 32))
    np.testing.assert_allclose(frames.values[0, 0], exact, atol=0.02)
    np.testing.assert_allclose(frames.values[0, 1], np.sin(np.arctan(slope)), atol=1e-3)


def test_a_tile_that_cannot_be_read_is_told_and_leaves_its_hole(tmp_path):
    height = np.add.outer(np.arange(40.0), np.arange(60.0)).astype(np.float32)
    west = write_raster(tmp_path / "w.tif", height[:, :30], LEFT, TOP, 10, nodata=-9999)
    east = write_raster(tmp_path / "e.tif", height[:, 30:], LEFT + 300, TOP, 10, nodata=-9999)
    scenes = [scene_of("elevation", name, {"elevation": path}) for name, path in (("w", west), ("e", east))]
    east.unlink()
    frames, (failure,) = read_frames(scenes, window(10, 5, 40, 20), DEM)
    assert (failure.scene_id, failure.kind) == ("e", "missing")
    assert frames.scene_ids == ("w",) and (frames.weight[0, :, :20] == 255).all() and not frames.weight[0, :, 20:].any()


def texts_scene(path) -> Scene:
    return Scene("text", "t", "test", "texts", 0, (0, 2**60), box(2, 49, 4, 52), {"data": Asset(str(path), "data")})


WRITERS = {
    "parquet": lambda table, path: table.to_parquet(path),
    "projected.parquet": lambda table, path: table.to_crs(EPSG).to_parquet(path),
    "points.parquet": lambda table, path: table.to_parquet(path, geometry_encoding="geoarrow"),
    "boxes.parquet": lambda table, path: table.set_geometry(table.buffer(1e-6)).to_parquet(path),
    "geojson": lambda table, path: table.to_file(path, driver="GeoJSON"),
    "gpkg": lambda table, path: table.to_crs(EPSG).to_file(path, driver="GPKG"),
}


@pytest.mark.filterwarnings("ignore:Geometry is in a geographic CRS")
@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("batch", [1, 65_536])
def test_texts_inside_the_window_and_the_period(tmp_path, monkeypatch, ending: str, batch: int):
    monkeypatch.setattr("pipelines.coregister.texts.BATCH_ROWS", batch)
    back = Transformer.from_crs(EPSG, 4326, always_xy=True)
    pixels = [(3, 4), (39, 47), (40, 0), (5, 5)]
    start = [YEAR.start_ms, YEAR.start_ms - 10, YEAR.start_ms, YEAR.end_ms]
    table = gpd.GeoDataFrame(
        {
            "text": [f"text {k}" for k in range(4)],
            "start_ms": start,
            "end_ms": [ms + 20 for ms in start],
            "uncertainty_m": [30.0, 100.0, 5.0, 5.0],
        },
        geometry=[Point(back.transform(LEFT + c * 10 + 5, TOP - r * 10 - 5)) for r, c in pixels],
        crs=4326,
    )
    path = tmp_path / f"texts.{ending}"
    WRITERS[ending](table, path)
    samples, failures = read_texts([texts_scene(path)], window(), YEAR, TEXT)
    assert failures == [] and samples is not None
    assert samples.text == ("text 0", "text 1")
    assert samples.row.tolist() == [3, 39] and samples.col.tolist() == [4, 47]
    assert samples.uncertainty_m.tolist() == [30, 100] and samples.vector.shape == (2, 0)
    sequence, _ = read_sequence({"text": [texts_scene(path)]}, window(2, 2, 10, 10), YEAR, [TEXT])
    assert sequence.texts is not None and sequence.texts.text == ("text 0",) and sequence.texts.row.tolist() == [1]


def text_rows(near, **changes):
    """Three texts, the second of them without a place, a text or a time."""
    rows = {"text": ["a", "b", "c"], "start_ms": [0, 0, 0], "end_ms": [YEAR.end_ms] * 3, "uncertainty_m": [5.0] * 3}
    return gpd.GeoDataFrame({**rows, **changes}, geometry=near, crs=4326)


@pytest.mark.parametrize("ending", ["parquet", "points.parquet", "geojson"])
@pytest.mark.parametrize("lacking", ["place", "text", "time"])
def test_a_row_without_place_text_or_time_is_none(tmp_path, ending, lacking):
    here = window().footprint().centroid
    near = [here, None if lacking == "place" else here, here]
    changes = {"text": {"text": ["a", None, "c"]}, "time": {"start_ms": [0, None, 0]}, "place": {}}[lacking]
    path = tmp_path / f"t.{ending}"
    WRITERS[ending](text_rows(near, **changes), path)
    samples, failures = read_texts([texts_scene(path)], window(), YEAR, TEXT)
    assert failures == [] and samples.text == ("a", "c")
    everywhere = texts_within(str(path), [box(-180, -90, 180, 90)], None)
    assert sorted(everywhere["text"]) == ["a", "c"]


def test_a_null_place_in_a_nullable_column_is_none(tmp_path):
    here = window().footprint().centroid
    places = pa.array([{"x": here.x, "y": here.y}, None], pa.struct([("x", pa.float64()), ("y", pa.float64())]))
    column = {"encoding": "point", "geometry_types": ["Point"]}
    geo = json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})
    rows = {"text": ["a", "b"], "start_ms": [0, 0], "end_ms": [YEAR.end_ms] * 2, "uncertainty_m": [5.0] * 2}
    table = pa.table({**rows, "geometry": places}).replace_schema_metadata({"geo": geo})
    pq.write_table(table, tmp_path / "t.parquet")
    samples, failures = read_texts([texts_scene(tmp_path / "t.parquet")], window(), YEAR, TEXT)
    assert failures == [] and samples.text == ("a",)


def test_times_that_are_no_whole_milliseconds_are_refused(tmp_path):
    here = [window().footprint().centroid] * 3
    for index, times in enumerate((pd.to_datetime(["2020-01-01"] * 3), ["0", "0", "0"], [0.5, 1.5, 2.5])):
        text_rows(here, start_ms=times).to_parquet(tmp_path / f"{index}.parquet")
        samples, (failure,) = read_texts([texts_scene(tmp_path / f"{index}.parquet")], window(), YEAR, TEXT)
        assert samples is None and failure.kind == "unusable" and "start_ms holds" in failure.reason


def test_texts_near_a_wide_area_are_found_in_a_projection_that_bends_it(tmp_path):
    places = [Point(lon, lat) for lon in range(5, 16) for lat in (50.0, 51.0)]
    rows = {"text": "x", "start_ms": 0, "end_ms": 1, "uncertainty_m": 5.0}
    table = gpd.GeoDataFrame([rows] * len(places), geometry=places, crs=4326)
    table.to_crs(3035).to_file(tmp_path / "t.gpkg")
    table.set_crs(None, allow_override=True).to_file(tmp_path / "bare.gpkg")
    assert gpd.read_file(tmp_path / "bare.gpkg").crs is None
    for name in ("t.gpkg", "bare.gpkg"):
        assert len(texts_within(str(tmp_path / name), [box(4.99, 49.99, 15.01, 51.01)], None)) == len(places)


def test_articles_that_lie_elsewhere_take_little_memory(tmp_path):
    """20,000 texts of 20 kB each, which are as many bytes when decoded, and few where they repeat."""
    count = 20_000
    table = pa.table(
        {
            "text": pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), ["w" * 20_000]).cast(
                pa.large_string()
            ),
            "start_ms": pa.array([0] * count, pa.int64()),
            "end_ms": pa.array([1] * count, pa.int64()),
            "uncertainty_m": pa.array([5.0] * count),
            "geometry": pa.array([to_wkb(Point(0, 0))] * count, pa.binary()),
        }
    )
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "t.parquet")
    del table
    script = (
        "import resource, sys; from shapely import box; from pipelines.coregister.texts import texts_within\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); found = texts_within(sys.argv[1], [box(50, 50, 51, 51)], None)\n"
        "print(len(found), (peak() - before) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "t.parquet")], capture_output=True, text=True, check=True
    )
    found, megabytes = map(int, done.stdout.split())
    assert found == 0 and megabytes < 200, done.stdout


def test_copies_of_killed_processes_are_removed_and_those_of_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    orphan, kept = tmp_path / "aef-texts-orphan", tmp_path / "aef-texts-kept"
    for path in (orphan, kept):
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    with kept.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        texts._remove_orphans()
        assert kept.exists() and not orphan.exists()


def test_a_table_without_its_columns_is_refused(tmp_path):
    gpd.GeoDataFrame({"text": ["x"]}, geometry=[Point(3, 50)], crs=4326).to_parquet(tmp_path / "t.parquet")
    samples, failures = read_texts([texts_scene(tmp_path / "t.parquet")], window(), YEAR, TEXT)
    assert samples is None and "start_ms, end_ms, uncertainty_m" in failures[0].reason


def test_geometries_that_are_no_points_in_a_native_encoding_are_refused(tmp_path):
    table = gpd.GeoDataFrame(
        {"text": ["x"], "start_ms": [0], "end_ms": [1], "uncertainty_m": [1.0]}, geometry=[box(3, 50, 4, 51)], crs=4326
    )
    table.to_parquet(tmp_path / "t.parquet", geometry_encoding="geoarrow")
    _, failures = read_texts([texts_scene(tmp_path / "t.parquet")], window(), YEAR, TEXT)
    assert failures[0].kind == "unusable" and "as 'polygon'; write points" in failures[0].reason
    table.drop(columns="geometry").to_parquet(tmp_path / "p.parquet")
    _, failures = read_texts([texts_scene(tmp_path / "p.parquet")], window(), YEAR, TEXT)
    assert failures[0].kind == "unusable" and "no GeoParquet file" in failures[0].reason


def test_a_file_from_elsewhere_is_fetched_once_for_all_windows_whatever_its_signature(tmp_path):
    places = [window(col, 0, 10, 10) for col in (0, 10, 20)]
    gpd.GeoDataFrame(
        {"text": ["a", "b", "c"], "start_ms": 0, "end_ms": YEAR.end_ms, "uncertainty_m": 5.0},
        geometry=[place.footprint().centroid for place in places],
        crs=4326,
    ).to_parquet(tmp_path / "t.parquet")
    signatures = iter(range(100))
    with serve(tmp_path) as server:
        scene = texts_scene(f"{server.url}/t.parquet")
        for place, text in zip(places, "abc", strict=True):
            samples, _ = read_texts([scene], place, YEAR, TEXT, lambda href: f"{href}?signature={next(signatures)}")
            assert samples is not None and samples.text == (text,)
        assert len(server.requests) == 1


def test_a_copy_that_cannot_be_read_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1, and then rubbish")
    with serve(tmp_path) as server:
        samples, (failure,) = read_texts([texts_scene(f"{server.url}/t.parquet")], window(), YEAR, TEXT)
        assert samples is None and failure.kind == "corrupt" and len(server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "asked", "kind"),
    [
        (429, 5, "throttled"),
        (503, 5, "throttled"),
        (403, 3, "expired"),
        (404, 3, "missing"),
        ("truncate", 5, "transient"),
    ],
)
def test_a_file_of_texts_is_asked_for_as_often_as_its_failure_deserves(tmp_path, monkeypatch, fault, asked, kind):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    near = gpd.GeoDataFrame(
        {"text": ["x"], "start_ms": [YEAR.start_ms], "end_ms": [YEAR.end_ms], "uncertainty_m": [5.0]},
        geometry=[window().footprint().centroid],
        crs=4326,
    )
    near.to_parquet(tmp_path / "t.parquet")
    with serve(tmp_path, lambda path, seen: fault if seen < asked - 1 else None) as server:
        samples, failures = read_texts([texts_scene(f"{server.url}/t.parquet")], window(), YEAR, TEXT)
    assert failures == [] and samples is not None and samples.text == ("x",)
    with serve(tmp_path, lambda path, seen: fault) as server:
        samples, failures = read_texts([texts_scene(f"{server.url}/t.parquet")], window(), YEAR, TEXT)
        assert len(server.requests) == asked
    assert samples is None and [failure.kind for failure in failures] == [kind]
