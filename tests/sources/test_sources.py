from __future__ import annotations

import pickle
from dataclasses import replace
from math import cos, radians, sin

import numpy as np
import pytest
from shapely import Point

from pipelines.grid import parse_time_ms
from pipelines.scenes import Asset, Scene
from pipelines.sources import SOURCES, Kind, source
from pipelines.sources.sentinel2 import with_cloud_percent


def scene(name: str, time: str = "2020-06-01T10:59:31Z", **facts) -> Scene:
    time_ms = parse_time_ms(time)
    return Scene(name, "id", "c", "collection", time_ms, (time_ms, time_ms + 1), Point(3, 50), {}, facts)


def test_sources_are_found_by_name_and_travel_to_workers():
    for name, value in SOURCES.items():
        assert source(name) is value and value.name == name
        copy = pickle.loads(pickle.dumps(value))
        assert repr(copy) == repr(value) and copy.trusted is value.trusted
    assert source("sentinel2").band_names == ("blue", "green", "red", "nir", "swir16")
    assert source("sentinel2", ["cirrus", "blue"]).band_names == ("cirrus", "blue")
    with pytest.raises(ValueError, match=r"'sentinel3'.*sentinel2"):
        source("sentinel3")
    with pytest.raises(ValueError, match="no band 'B04'"):
        source("sentinel2", ["B04"])


def test_only_the_three_imagers_are_inputs_and_losses_are_those_of_table_s2():
    assert {name for name, value in SOURCES.items() if value.is_input} == {"sentinel2", "sentinel1", "landsat"}
    losses = {name: (v.metric, v.loss_weight, v.shift_px, v.regrid_px) for name, v in SOURCES.items()}
    assert losses["sentinel2"] == losses["sentinel1"] == ("l1", 1.0, 2, 0)
    assert losses["landsat"] == losses["palsar2"] == losses["elevation"] == ("l1", 1.0, 0, 3)
    assert losses["gedi"] == ("l1", 1.0, 0, 2) and losses["era5"] == ("l1", 1.0, 0, 0)
    assert losses["grace"] == ("l1", 0.5, 0, 128) and losses["landcover"] == ("cross_entropy", 0.25, 0, 3)
    assert len(source("gedi").bands) == 101 and len(source("era5").bands) == 12
    assert source("era5").kind is Kind.SERIES


def test_tiles_of_one_datatake_share_a_key_whatever_their_baseline():
    key = source("sentinel2").acquisition_key
    one = scene("sentinel2", datatake="GS2A_20200601T105031_025819_N02.14")
    two = scene("sentinel2", "2020-06-01T10:59:46Z", datatake="GS2A_20200601T105031_025819_N05.00")
    other = scene("sentinel2", datatake="GS2B_20200601T105031_025819_N02.14")
    assert key(one) == key(two) != key(other)
    orbit = scene("sentinel2", platform="sentinel-2a", relative_orbit=94)
    assert key(orbit) == key(scene("sentinel2", "2020-06-01T11:00:05Z", platform="sentinel-2a", relative_orbit=94))
    assert key(orbit) != key(scene("sentinel2", platform="sentinel-2a", relative_orbit=51))


def test_rows_of_one_path_share_a_key():
    key = source("landsat").acquisition_key
    one = scene("landsat", platform="landsat-8", wrs_path="199", wrs_row="024")
    assert key(one) == key(scene("landsat", "2020-06-01T10:59:55Z", platform="landsat-8", wrs_path=199))
    assert key(one) != key(scene("landsat", platform="landsat-9", wrs_path=199))


@pytest.mark.parametrize(
    ("name", "facts", "cycle_days"),
    [
        ("sentinel2", {"platform": "sentinel-2a", "relative_orbit": 94}, 10),
        ("sentinel2", {"platform": "sentinel-2a"}, 10),
        ("sentinel1", {"platform": "sentinel-1a", "relative_orbit": 59, "orbit_state": "ascending"}, 12),
        ("landsat", {"platform": "landsat-8", "wrs_path": 90}, 16),
        ("palsar2", {"relative_orbit": 7}, 14),
    ],
)
def test_a_pass_is_one_acquisition_over_midnight_and_the_next_is_another(name, facts, cycle_days):
    """Over 150 E (Sydney is at 151) Landsat and Sentinel-2 cross midnight UTC; the evening's radar does over 90 W."""
    moments = [np.datetime64(f"2020-06-01T{time}", "ms") for time in ("23:59:10", "23:59:34", "23:59:58")]
    moments += [moments[0] + np.timedelta64(72, "s"), moments[0] + np.timedelta64(99, "m")]
    moments += [moment + np.timedelta64(cycle_days, "D") for moment in moments[1:3]]
    scenes = [replace(scene(name, f"{moment}Z", **facts), scene_id=str(moment)) for moment in moments]
    found = source(name).acquisitions(reversed(scenes))
    assert [[scenes.index(piece) for piece in pieces] for pieces in found] == [[0, 1, 2, 3], [4], [5, 6]]


def test_tiles_of_a_map_are_one_frame_whenever_they_were_made():
    tiles = [scene("elevation", "2011-01-01T00:00:00Z"), scene("elevation", "2014-12-31T00:00:00Z")]
    assert source("elevation").acquisitions(tiles) == [tiles]


def test_radar_passes_are_told_apart():
    key = source("sentinel1").acquisition_key
    up = scene("sentinel1", platform="sentinel-1a", relative_orbit=59, orbit_state="ascending")
    assert key(up) == key(scene("sentinel1", "2020-06-01T11:00:00Z", **up.facts))
    assert key(up) != key(scene("sentinel1", **{**up.facts, "orbit_state": "descending"}))


def test_night_scenes_are_refused():
    keep = source("landsat").keep
    assert keep(scene("landsat", sun_elevation=35.0)) and not keep(scene("landsat", sun_elevation=-20.0))
    assert not keep(scene("landsat", **{"view:sun_elevation": -1}))
    assert not keep(scene("landsat", orbit_state="ascending")) and keep(scene("landsat"))
    with pytest.raises(ValueError, match="sun_elevation = 'low'"):
        keep(scene("landsat", sun_elevation="low"))


def test_radar_geometry_is_heading_and_inclination():
    geometry = source("sentinel1").geometry
    up, down = geometry(scene("s", orbit_state="ascending")), geometry(scene("s", orbit_state="descending"))
    np.testing.assert_allclose(up, (sin(radians(-13)), cos(radians(-13)), radians(98.18)))
    np.testing.assert_allclose(down, (sin(radians(193)), cos(radians(193)), radians(98.18)))
    assert geometry(scene("s"))[:2] == (0.0, 0.0)
    assert len(up) == len(source("sentinel1").geometry_names)


def test_masks_trust_what_the_guides_say():
    scl = np.arange(12, dtype=np.uint8)
    assert np.flatnonzero(source("sentinel2").trusted({"scl": scl})).tolist() == [2, 4, 5, 6, 7]
    bits = np.array([0, 1 << 6, 1, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 21824, 22280], np.uint16)
    # 21824: clear land; 22280: high-confidence cloud (USGS Collection 2 guide, table 5-3).
    expected = [False, True, False, False, False, False, False, True, True, False]
    assert source("landsat").trusted({"qa_pixel": bits}).tolist() == expected
    assert source("sentinel2").trusted({}) is None


def test_decibels_outside_of_the_valid_range_are_not_measured():
    s1 = source("sentinel1", ["vv"])
    power = np.array([1e-4, 1e-3 * 1.001, 1.0, 9.99, 10.1, -32768.0, 0.0], np.float32).reshape(1, 1, 1, 7)
    decibel = s1.to_model_space(power, np.ones((1, 1)), np.zeros((1, 1)), -32768.0).ravel()
    assert np.isnan(decibel).tolist() == [True, False, False, False, True, True, True]
    np.testing.assert_allclose(decibel[2], 0, atol=1e-6)


def test_of_overlapping_landsat_rows_the_nearest_zone_comes_first_then_the_latest():
    """SPEC 1.2: closest UTM central longitude, then most recent."""
    rank = source("landsat").rank

    def row(time, epsg):
        return replace(scene("landsat", time), assets={"red": Asset("/a.tif", "red", epsg=epsg)})

    early, late = row("2020-06-01T10:59:31Z", 32631), row("2020-06-01T10:59:55Z", 32631)
    other, far = row("2020-06-01T11:00:19Z", 32632), row("2020-06-01T11:00:43Z", 32601)
    assert sorted([far, other, early, late], key=lambda s: rank(s, 32631)) == [late, early, other, far]
    assert rank(far, 32660)[0] == 1  # zones 60 and 1 are neighbours


def test_of_two_processings_of_one_tile_the_later_comes_first():
    rank = source("sentinel2").rank
    old = scene("sentinel2", processing_baseline="02.14", generated="2020-06-01T20:00:00Z")
    again = scene("sentinel2", processing_baseline="05.00", generated="2023-01-01T20:00:00Z")
    once_more = scene("sentinel2", processing_baseline="05.00", generated="2023-02-01T20:00:00Z")
    own = scene("sentinel2", processing_baseline="99.99")
    assert sorted([own, old, again, once_more], key=lambda s: rank(s, 32631)) == [once_more, again, old, own]


def test_clouds_are_dropped_by_classification_and_by_probability():
    trusted = source("sentinel2").trusted
    scl, cloud = np.array([[4, 4, 9]], np.uint8), np.array([[49, 50, 0]], np.uint8)
    assert trusted({"scl": scl, "cloud": cloud}).tolist() == [[True, False, False]]
    assert trusted({"cloud": cloud}).tolist() == [[True, False, True]]
    assert trusted({"scl": scl}).tolist() == [[True, True, False]] and trusted({}) is None


def test_weight_falls_with_the_probability_of_cloud_as_configured():
    cloud, scl = np.array([[0, 20, 40, 60, 80, 100]], np.uint8), np.array([[4, 4, 9, 4, 4, 4]], np.uint8)
    ramp = with_cloud_percent(source("sentinel2"), (20, 80)).trusted
    np.testing.assert_allclose(ramp({"cloud": cloud}), [[1, 1, 2 / 3, 1 / 3, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(ramp({"cloud": cloud, "scl": scl}), [[1, 1, 0, 1 / 3, 0, 0]], rtol=1e-6)
    assert ramp({"scl": scl}).tolist() == [[True, True, False, True, True, True]]
    assert pickle.loads(pickle.dumps(ramp))({"cloud": cloud})[0, 3] == ramp({"cloud": cloud})[0, 3]


def test_an_offset_that_is_in_the_numbers_already_is_contradicted_by_dark_pixels():
    """Water of reflectance 0.01 beside land of 0.15, stored with the offset (DN + 1000) and without it."""
    reflectance = np.where(np.arange(10_000) < 300, 0.01, 0.15).reshape(100, 100)
    without = np.round(reflectance * 1e4).astype(np.uint16)[None]
    scale, minus, zero = np.array([1e-4]), np.array([-0.1]), np.array([0.0])
    contradiction = source("sentinel2").contradiction
    assert contradiction(without + np.uint16(1000), scale, minus) is None
    assert contradiction(without, scale, zero) is None
    assert "in the numbers already" in contradiction(without, scale, minus)
    assert contradiction(np.zeros((1, 100, 100), np.uint16), scale, minus) is None  # nothing measured


def test_maps_of_classes_stand_beside_one_another_with_their_own_legends():
    nlcd, cdl, worldcover = source("nlcd"), source("cdl"), source("worldcover")
    assert len(nlcd.classes) == 16 and {11, 82, 95} <= set(nlcd.classes)  # SPEC 1.2
    assert dict(zip(cdl.classes, cdl.class_names, strict=True))[24] == "winter wheat" and 81 not in cdl.classes
    assert worldcover.classes == source("landcover").classes
    for one in (nlcd, cdl, worldcover):
        assert (one.kind, one.metric, one.loss_weight, one.regrid_px) == (Kind.CLASSES, "cross_entropy", 0.25, 3)
        assert not one.is_input and one.band_names == ("land_cover",)


def test_palsar_knows_its_side_and_trusts_what_its_mask_calls_valid():
    palsar = source("palsar2")
    right = scene("palsar2", orbit_state="ascending", observation_direction="right", relative_orbit=7)
    assert palsar.geometry(right) == (sin(radians(-10)), cos(radians(-10)), 1.0)
    assert palsar.acquisition_key(right) == palsar.acquisition_key(replace(right, scene_id="next frame of the path"))
    assert palsar.trusted({"msk": np.array([0, 1, 5, 9], np.uint8)}).tolist() == [False, True, False, True]
    mosaic = palsar.trusted({"mosaic_mask": np.array([0, 50, 100, 150, 255], np.uint8)})
    assert mosaic.tolist() == [False, True, False, False, True]
    # gamma0 = 10 log10(DN^2) - 83 dB: model space is half of it, shifted, which standardising undoes.
    dn = np.array([1000, 4000], np.uint16).reshape(1, 1, 1, 2)
    x = palsar.with_bands(["hh"]).to_model_space(dn, np.ones((1, 1)), np.zeros((1, 1)), 0).ravel()
    gamma0 = 20 * np.log10([1000, 4000]) - 83
    np.testing.assert_allclose(2 * np.diff(x), np.diff(gamma0), rtol=1e-6)
