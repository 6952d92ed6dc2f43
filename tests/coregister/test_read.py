from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.coregister import cut_rasters, read_frames, read_window, to_frames
from pipelines.coregister.engines import ENGINES
from pipelines.sources import source
from tests.coregister.files import DAY, LEFT, TOP, asset_of, noise, scene_of, window, write_raster

S2 = source("sentinel2", ["blue", "nir", "swir16"])
HOUR = 3_600_000


def sentinel2(tmp_path, name: str, *, left=LEFT, top=TOP, size=60, seed=0, holes=0.0, epsg=32631, scl=4, **fields):
    """A scene of two 10 m bands, one 20 m band and a classification."""
    files = {
        band: write_raster(tmp_path / name / f"{band}.tif", noise((size, size), seed + k, holes), left, top, 10, epsg)
        for k, band in enumerate(("blue", "nir"))
    }
    half = (size // 2, size // 2)
    files["swir16"] = write_raster(tmp_path / name / "swir16.tif", noise(half, seed + 7, holes), left, top, 20, epsg)
    classes = np.full(half, scl, np.uint8)
    files["scl"] = write_raster(tmp_path / name / "scl.tif", classes, left, top, 20, epsg)
    return scene_of("sentinel2", name, files, **fields)


def test_dataset_holds_the_files_numbers_and_says_what_they_mean(tmp_path):
    scene = sentinel2(tmp_path, "a", scale=1e-4, offset=-0.1)
    dataset = read_window([scene], window(4, 6, 20, 16), S2)
    assert dict(dataset.sizes) | {} == {"time": 1, "band": 3, "y": 16, "x": 20, "bound": 2, "geometry_name": 0}
    np.testing.assert_array_equal(dataset["values"].sel(band="blue")[0], noise((60, 60), 0)[6:22, 4:24])
    assert dataset["values"].dtype == np.uint16
    assert dataset["scale"].values.tolist() == [[1e-4] * 3] and dataset["offset"].values.tolist() == [[-0.1] * 3]
    assert (dataset["weight"] == 255).all()
    assert float(dataset["x"][0]) == LEFT + 45 and float(dataset["y"][0]) == TOP - 65
    assert int(dataset["time_ms"][0]) == DAY


@pytest.mark.parametrize("box", [window(), window(31, 17, 50, 50), window(-9, 3, 30, 11)])
def test_engines_agree_bit_for_bit(tmp_path, box):
    scenes = [
        sentinel2(tmp_path, "a", holes=0.1, facts={"datatake": "GS2A_1"}),
        sentinel2(tmp_path, "b", seed=20, left=LEFT + 200, time_ms=DAY + HOUR, facts={"datatake": "GS2A_2"}),
    ]
    first, *others = [to_frames(read_window(scenes, box, S2, engine=name)) for name in ENGINES]
    for other in others:
        np.testing.assert_array_equal(first.values, other.values)
        np.testing.assert_array_equal(first.weight, other.weight)
        assert first.scene_ids == other.scene_ids


def test_pieces_of_one_datatake_make_one_frame_and_the_winner_comes_first(tmp_path):
    facts = {"datatake": "GS2A_20200601"}
    large = sentinel2(tmp_path, "large", size=60, facts=facts)
    small = sentinel2(tmp_path, "small", size=40, seed=50, left=LEFT + 400, facts=facts, time_ms=DAY + 5000)
    frames, failures = read_frames([small, large], window(30, 0, 50, 30), S2)
    assert failures == [] and frames is not None
    assert frames.values.shape[0] == 1 and frames.scene_ids == ("large+small",)
    np.testing.assert_array_equal(frames.values[0, 0, :, :30], noise((60, 60), 0)[:30, 30:60])
    np.testing.assert_array_equal(frames.values[0, 0, :, 30:], noise((40, 40), 50)[:30, 20:40])
    assert frames.time_ms.tolist() == [DAY]


def test_pieces_with_another_offset_have_a_layer_of_their_own(tmp_path):
    facts = {"datatake": "GS2A_20200601"}
    large = sentinel2(tmp_path, "large", size=60, facts=facts, offset=-0.1)
    small = sentinel2(tmp_path, "small", size=40, seed=50, left=LEFT + 400, facts=facts, offset=0.0)
    frames, _ = read_frames([small, large], window(30, 0, 50, 30), S2)
    assert frames is not None and frames.scene_ids == ("large", "small")
    np.testing.assert_array_equal(frames.values[0, 0, :, :30], noise((60, 60), 0)[:30, 30:60])
    np.testing.assert_array_equal(frames.values[1, 0, :, 30:], noise((40, 40), 50)[:30, 20:40])
    assert frames.time_ms.tolist() == [DAY, DAY]
    assert frames.offset[:, 0].tolist() == [-0.1, 0.0]
    # What one has, the other lacks: no pixel counts twice.
    assert (frames.values[0, :, :, 30:] == 0).all() and (frames.weight[0, :, 30:] == 0).all()
    assert (frames.values[1, :, :, :30] == 0).all() and (frames.weight[1, :, :30] == 0).all()


def test_rows_of_a_landsat_path_with_unlike_sun_join_and_a_cut_equals_a_read(tmp_path):
    facts = {"datatake": "GS2A_20200601"}
    scenes = [
        sentinel2(tmp_path, "north", size=60, facts=facts, scale=1.9e-5),
        sentinel2(tmp_path, "south", size=60, seed=50, top=TOP - 400, facts=facts, scale=2.0e-5, holes=0.1),
        sentinel2(tmp_path, "spare", size=80, seed=9, top=TOP - 100, facts=facts, scale=1.9e-5),
    ]
    large, small = window(0, 0, 60, 100), window(10, 50, 40, 45)
    whole, _ = read_frames(scenes, large, S2)
    alone, _ = read_frames(scenes, small, S2)
    assert whole is not None and alone is not None
    cut = cut_rasters(whole, large, small, S2)
    assert cut is not None
    np.testing.assert_array_equal(cut.values, alone.values)
    np.testing.assert_array_equal(cut.weight, alone.weight)
    np.testing.assert_array_equal(cut.scale, alone.scale)
    counted = (alone.values[:, 0] > 0).sum(axis=0)
    assert counted.max() == 1


def test_a_scene_that_cannot_be_read_is_recorded_and_replaced(tmp_path):
    facts = {"datatake": "GS2A_20200601"}
    first = sentinel2(tmp_path, "large", size=60, facts=facts)
    spare = sentinel2(tmp_path, "spare", size=40, seed=50, facts=facts)
    lonely = sentinel2(tmp_path, "lonely", time_ms=DAY + HOUR, facts={"datatake": "GS2A_2"})
    for scene in (first, lonely):
        path = tmp_path / scene.scene_id / "nir.tif"
        path.write_bytes(path.read_bytes()[:300])
    seen = []
    dataset = read_window([first, spare, lonely], window(0, 0, 30, 30), S2, on_error=seen.append)
    assert [(failure.scene_id, failure.href.rsplit("/", 1)[1]) for failure in seen] == [
        ("large", "nir.tif"),
        ("lonely", "nir.tif"),
    ]
    assert dataset["scene_ids"].values.tolist() == ["spare"]
    np.testing.assert_array_equal(dataset["values"][0, 1], noise((40, 40), 51)[:30, :30])


def test_an_absent_band_is_nodata_in_that_band_only(tmp_path):
    scene = sentinel2(tmp_path, "a")
    del scene.assets["nir"]
    frames, _ = read_frames([scene], window(0, 0, 20, 20), S2)
    assert frames is not None
    assert (frames.values[0, 1] == 0).all() and (frames.values[0, 0] > 0).all() and (frames.weight == 255).all()


def test_clouds_lose_their_weight_and_keep_their_pixels(tmp_path):
    frames, _ = read_frames([sentinel2(tmp_path, "a", scl=9)], window(0, 0, 20, 20), S2)
    assert frames is not None and (frames.weight == 0).all() and (frames.values > 0).all()


def test_frames_without_a_pixel_are_dropped_and_far_scenes_are_not_opened(tmp_path):
    empty = sentinel2(tmp_path, "empty", holes=2.0)
    far = sentinel2(tmp_path, "far", left=LEFT + 100_000, time_ms=DAY + HOUR)
    for path in (tmp_path / "far").iterdir():
        path.unlink()
    frames, failures = read_frames([empty, far], window(0, 0, 20, 20), S2)
    assert frames is None and failures == []
    assert read_window([empty, far], window(0, 0, 20, 20), S2).sizes["time"] == 0


def test_files_that_the_catalog_does_not_describe_speak_for_themselves(tmp_path):
    told = sentinel2(tmp_path, "a")
    untold = sentinel2(tmp_path, "a", described=False)
    wrong = sentinel2(tmp_path, "a", transform=(10, 0, LEFT + 50, 0, -10, TOP), dtype="int16")
    frames = [read_frames([scene], window(3, 3, 20, 20), S2)[0] for scene in (told, untold, wrong)]
    np.testing.assert_array_equal(frames[0].values, frames[1].values)
    np.testing.assert_array_equal(frames[0].values, frames[2].values)


def test_other_dtypes_are_converted_or_refused(tmp_path):
    dem = source("elevation")
    height = np.arange(900, dtype=np.int16).reshape(30, 30)
    height[4, 5] = -32767
    path = write_raster(tmp_path / "dem.tif", height, LEFT, TOP, 10, nodata=-32767)
    frames, _ = read_frames([scene_of("elevation", "dem", {"elevation": path})], window(0, 0, 20, 20), dem)
    assert frames is not None and frames.values.dtype == np.float32
    assert frames.values[0, 0, 4, 5] == dem.nodata and frames.weight[0, 4, 5] == 0
    assert frames.values[0, 0, 7, 9] == 219
    real = write_raster(tmp_path / "blue.tif", np.full((30, 30), 0.25, np.float32), LEFT, TOP, 10)
    frames, failures = read_frames([scene_of("sentinel2", "x", {"blue": real})], window(0, 0, 20, 20), S2)
    assert frames is None and failures[0].kind == "unusable" and "float32" in failures[0].reason


def test_what_was_measured_as_the_sources_nodata_stays_measured(tmp_path):
    stored = np.arange(900, dtype=np.int16).reshape(30, 30)
    stored[4, 5], stored[6, 7] = -9999, 0
    path = write_raster(tmp_path / "blue.tif", stored, LEFT, TOP, 10, nodata=-9999)
    frames, _ = read_frames([scene_of("sentinel2", "x", {"blue": path})], window(0, 0, 20, 20), S2)
    assert frames is not None and S2.nodata == 0
    found, weight = frames.values[0, 0], frames.weight[0]
    assert found[4, 5] == 0 and weight[4, 5] == 0
    assert found[6, 7] == 1 and weight[6, 7] == 255 and found[0, 0] == 1


@pytest.mark.parametrize("left", [LEFT, LEFT + 3])
def test_radar_without_power_is_not_measured_and_the_next_slice_is_taken(tmp_path, left):
    radar, facts = source("sentinel1", ["vv"]), {"platform": "sentinel-1a", "relative_orbit": 37}
    power = np.full((40, 40), 0.25, np.float32)
    cut = power.copy()
    cut[20:] = 0  # border noise, cut away and not filled with nodata
    scenes = []
    for k, (name, values) in enumerate((("a", cut), ("b", power))):
        path = write_raster(tmp_path / f"{name}.tif", values, left, TOP, 10, nodata=-32768)
        scenes.append(scene_of("sentinel1", name, {"vv": path}, facts=facts, time_ms=DAY + k * 25_000))
    frames, _ = read_frames(scenes, window(5, 5, 30, 30), radar)
    assert frames is not None and frames.scene_ids == ("a+b",)
    assert (frames.values == 0.25).all() and (frames.weight == 255).all()


def test_beyond_its_mask_a_scene_is_trusted_the_same_in_every_window(tmp_path):
    whole = sentinel2(tmp_path, "a")
    west = write_raster(tmp_path / "west.tif", np.full((60, 20), 4, np.uint8), LEFT, TOP, 10)
    scene = replace(whole, assets={**whole.assets, "scl": asset_of(west, "scl")})
    large, small = (read_frames([scene], box, S2)[0] for box in (window(0, 0, 60, 40), window(30, 0, 20, 40)))
    assert large is not None and small is not None
    np.testing.assert_array_equal(large.weight[0, :, 30:50], small.weight[0])
    assert (large.weight[0, :, :20] == 255).all() and (small.weight == 0).all()


@pytest.fixture(scope="module")
def patchwork(tmp_path_factory):
    """Three acquisitions: two overlapping tiles with gaps, a tile of the next zone, and a small one."""
    folder = tmp_path_factory.mktemp("patchwork")
    one, two, three = ({"datatake": f"GS2A_{k}"} for k in range(3))
    scenes = [
        sentinel2(folder, "a", size=80, holes=0.3, facts=one),
        sentinel2(folder, "b", size=70, seed=30, holes=0.3, left=LEFT + 300, top=TOP - 200, facts=one),
        sentinel2(folder, "c", size=90, seed=60, left=75_600, top=5_620_000, epsg=32632, time_ms=DAY + 1, facts=two),
        sentinel2(folder, "d", size=20, seed=90, left=LEFT + 600, top=TOP - 600, time_ms=DAY + 2, facts=three),
    ]
    parent = window(-10, -10, 120, 110)
    frames, _ = read_frames(scenes, parent, S2)
    return scenes, parent, frames


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(-10, 100), st.integers(-10, 90), st.integers(1, 60), st.integers(1, 60))
def test_cutting_a_block_equals_reading_the_window(patchwork, col, row, width, height):
    scenes, parent, frames = patchwork
    child = window(col, row, min(width, 110 - col), min(height, 100 - row))
    cut = cut_rasters(frames, parent, child, S2)
    direct, _ = read_frames(scenes, child, S2, engine="rasterio", threads=1)
    assert (cut is None) == (direct is None)
    if cut is None or direct is None:
        return
    for name in ("values", "weight", "time_ms", "valid_ms", "scale", "offset", "geometry"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(direct, name), err_msg=name)


def test_a_window_outside_of_its_block_is_refused(patchwork):
    _, parent, frames = patchwork
    with pytest.raises(ValueError, match="does not lie inside"):
        cut_rasters(frames, parent, window(100, 0, 40, 40), S2)


def landsat(tmp_path, name, seed, row, time_ms, size=40):
    path = write_raster(tmp_path / f"{name}.tif", noise((size, size), seed), LEFT, TOP - row * 300, 30)
    facts = {"platform": "landsat-8", "wrs_path": 199, "sun_elevation": 40}
    return scene_of("landsat", name, {"red": path}, time_ms=time_ms, facts=facts)


def test_of_overlapping_landsat_rows_the_later_wins_and_the_other_is_its_fallback(tmp_path):
    red = source("landsat", ["red"])
    early, late = landsat(tmp_path, "early", 1, 0, DAY), landsat(tmp_path, "late", 2, 1, DAY + 24_000)
    box = window(0, 0, 40, 80)
    alone, _ = read_frames([late], box, red)
    both, failures = read_frames([early, late], box, red)
    assert not failures and both is not None and both.scene_ids == ("late+early",) and len(both.time_ms) == 1
    covered = alone.values[0, 0] != 0
    assert 0 < covered.sum() < covered.size
    np.testing.assert_array_equal(both.values[0, 0][covered], alone.values[0, 0][covered])
    assert (both.values[0, 0][~covered] > 0).any()
    Path(late.assets["red"].href).write_bytes(b"II*\0 broken")
    instead, failures = read_frames([early, late], box, red)
    only, _ = read_frames([early], box, red)
    assert [failure.scene_id for failure in failures] == ["late"] and instead.scene_ids == ("early",)
    np.testing.assert_array_equal(instead.values, only.values)


def test_a_scene_whose_offset_its_pixels_contradict_is_refused_and_replaced(tmp_path):
    """The first says that -0.1 is still to be added to numbers of 100, which is water of 0.01."""
    facts = {"datatake": "GS2A_1"}
    wrong = sentinel2(tmp_path, "wrong", size=60, facts=facts, scale=1e-4, offset=-0.1)
    for band in ("blue", "nir"):
        write_raster(tmp_path / "wrong" / f"{band}.tif", np.full((60, 60), 100, np.uint16), LEFT, TOP, 10)
    right = sentinel2(tmp_path, "right", size=50, facts=facts, scale=1e-4, offset=0.0)
    frames, failures = read_frames([wrong, right], window(0, 0, 40, 40), S2)
    assert frames.scene_ids == ("right",) and frames.offset[0, 0] == 0
    assert failures[0].scene_id == "wrong" and "in the numbers already" in failures[0].reason
