"""The real fixtures, read by the same code, against a plain rasterio read of the same files."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from pipelines.coregister import read_block, read_frames, read_sequence
from pipelines.coregister.engines import ENGINES
from pipelines.grid import Period, Window, transformer
from pipelines.sources import source
from tests.coregister import real

pytestmark = pytest.mark.real

PATCH, PLACE = "0000280849BAC91C", Window(32631, 574680, 5622440, 64, 64)
SEASON = Period.from_iso("2018-09-01", "2019-09-01")


@pytest.mark.parametrize("name", ENGINES)
def test_ten_metre_bands_are_the_files_pixels(name: str):
    scenes = real.scenes("sentinel-2-l2a", PATCH)
    frames, failures = read_frames(scenes, PLACE, source("sentinel2", ["blue", "nir"]), engine=name)
    assert failures == [] and frames is not None
    by_id = {scene.scene_id: scene for scene in scenes}
    assert len(frames.scene_ids) > 60
    for values, scene_id in zip(frames.values, frames.scene_ids, strict=True):
        for band, layer in zip(("blue", "nir"), values, strict=True):
            with rasterio.open(by_id[scene_id.split("+")[0]].assets[band].href) as file:
                np.testing.assert_array_equal(layer, file.read(1))


@pytest.mark.parametrize(
    ("collection", "patch"),
    [
        ("sentinel-2-l2a", "GFMAP-A"),
        ("sentinel-1-rtc", PATCH),
        ("landsat-c2-l2", PATCH),
        ("landsat-c2-l2", "30SUG"),
        ("sentinel-2-l2a", "36MXB"),
    ],
)
def test_engines_agree_and_windows_do_not_matter(collection: str, patch: str):
    scenes = real.scenes(collection, patch)[:12]
    kind = source(real.SOURCE_OF[collection])
    asset = next(asset for scene in scenes for asset in scene.assets.values())
    assert asset.transform is not None and asset.epsg is not None and asset.shape is not None
    place = Window(asset.epsg, int(asset.transform[2]) // 10 * 10, int(asset.transform[5]) // 10 * 10, 90, 80)
    first, failures = read_frames(scenes, place, kind, engine="stackstac")
    assert failures == [] and first is not None
    part = Window(place.epsg, place.left_m + 30, place.top_m - 40, 2, 1)
    block = read_block({kind.name: scenes}, place, Period.from_iso("2010-01-01", "2030-01-01"), [kind])
    np.testing.assert_array_equal(block.rasters[kind.name].values, first.values)
    for window in (place, part):
        direct, _ = read_frames(scenes, window, kind, engine="rasterio")
        cut = block.sequence(window).rasters.get(kind.name)
        assert (cut is None) == (direct is None)
        if cut is not None and direct is not None:
            np.testing.assert_array_equal(cut.values, direct.values)
            np.testing.assert_array_equal(cut.weight, direct.weight)


def test_one_sequence_of_every_source():
    collections = [name for name in real.SOURCE_OF if name != "GEDI02_A_002"]
    scenes = {real.SOURCE_OF[name]: real.scenes(name, PATCH) for name in collections}
    sequence, failures = read_sequence(scenes, PLACE, SEASON, [source(name) for name in scenes])
    assert failures == []
    counts = {name: len(frames.time_ms) for name, frames in sequence.rasters.items()}
    within = {
        name: sum(SEASON.contains(scene.time_ms) for scene in scenes[name])
        for name in ("sentinel2", "sentinel1", "landsat")
    }
    assert counts == {**within, "elevation": 1, "era5": 12}
    celsius = sequence.rasters["era5"].values[:, 3, 0, 0] - 273.15  # temperature_2m_mean
    assert 15 < celsius.max() < 25 and -5 < celsius.min() < 8
    height = sequence.rasters["elevation"].values[0, 0]
    assert 20 < height.min() <= height.max() < 80


def test_lidar_shots_of_the_granule():
    x, y = transformer(4326, 32723).transform(-44.125, -13.735)
    place = Window(32723, int(x) // 10 * 10 - 2500, int(y) // 10 * 10 + 2500, 500, 500)
    sequence, failures = read_sequence(
        {"gedi": real.scenes("GEDI02_A_002")}, place, Period.calendar_year(2019), [source("gedi")]
    )
    assert failures == []
    heights = sequence.points["gedi"].values
    assert 200 < len(heights) <= 301
    assert (np.diff(heights, axis=1) >= -1e-3).all()  # relative heights never fall with the percentile
    assert 0 < heights[:, 98].mean() < 30
