from __future__ import annotations

import numpy as np

from pipelines.coregister import read_frames
from pipelines.coregister.masks import present, weight
from pipelines.sources import source
from pipelines.sources.sentinel2 import with_cloud_percent
from tests.coregister.files import LEFT, TOP, noise, scene_of, window, write_raster

ONE, ZERO = np.ones(2), np.zeros(2)


def test_the_stored_range_is_the_range_in_model_space():
    """A pixel has weight exactly where model space holds a number, for every band with a valid range."""
    rng = np.random.default_rng(0)
    s1 = source("sentinel1", ["vv"])
    power = (10 ** rng.uniform(-5, 3, (1, 40, 40))).astype(np.float32)
    power[0, :5] = -32768
    found = weight(s1, power, np.ones(1), np.zeros(1), {}) == 255
    measured = np.isfinite(s1.to_model_space(power, np.ones(1), np.zeros(1), s1.nodata)[0])
    np.testing.assert_array_equal(found, measured)
    thermal = source("landsat", ["lwir11"])
    stored = rng.integers(0, 65535, (1, 40, 40)).astype(np.uint16)
    scale, offset = np.array([0.00341802]), np.array([149.0])
    found = weight(thermal, stored, scale, offset, {}) == 255
    np.testing.assert_array_equal(found, np.isfinite(thermal.to_model_space(stored, scale, offset, 0)[0]))


def test_an_angle_of_view_alone_is_no_measurement():
    s1 = source("sentinel1", ["vv", "angle"])
    values = np.full((2, 3, 3), -32768, np.float32)
    values[1] = 38
    assert not present(values, -32768, s1).any()
    assert (weight(s1, values, ONE, ZERO, {}) == 0).all()
    values[0, 1, 1] = 0.1
    assert present(values, -32768, s1).sum() == 1


def test_one_polarisation_is_enough_and_nan_is_never_data():
    s1 = source("sentinel1", ["vv", "vh"])
    values = np.full((2, 1, 3), np.nan, np.float32)
    values[0, 0, 0] = values[1, 0, 1] = 0.1
    assert weight(s1, values, ONE, ZERO, {}).tolist() == [[255, 255, 0]]


def test_every_mask_stands_beside_the_pixels_and_never_in_them(tmp_path):
    """SCL, a cloud probability and QA_PIXEL change weights only: the values are those of the file, cloud or not."""
    values = noise((40, 40), 1)
    scl, cloud = np.full((20, 20), 4, np.uint8), np.zeros((20, 20), np.uint8)
    scl[:5], cloud[10:15], cloud[15:] = 9, 45, 90
    files = {
        "red": write_raster(tmp_path / "red.tif", values, LEFT, TOP, 10),
        "scl": write_raster(tmp_path / "scl.tif", scl, LEFT, TOP, 20),
        "cloud": write_raster(tmp_path / "cloud.tif", cloud, LEFT, TOP, 20),
    }
    scene, box = scene_of("sentinel2", "a", files), window(0, 0, 40, 40)
    optical = source("sentinel2", ["red"])
    steep, _ = read_frames([scene], box, optical)
    ramp, _ = read_frames([scene], box, with_cloud_percent(optical, (0, 90)))
    assert steep is not None and ramp is not None
    for frames, expected in ((steep, (0, 255, 255, 0)), (ramp, (0, 255, 128, 0))):
        np.testing.assert_array_equal(frames.values[0, 0], values)
        assert [np.unique(part).tolist() for part in np.split(frames.weight[0], 4)] == [[w] for w in expected]

    qa = np.full((20, 20), 21824, np.uint16)  # clear land
    qa[10:] = 22280  # cloud
    thirty = noise((20, 20), 2)
    files = {
        "red": write_raster(tmp_path / "l_red.tif", thirty, LEFT, TOP, 30),
        "qa_pixel": write_raster(tmp_path / "qa.tif", qa, LEFT, TOP, 30, nodata=1),
    }
    facts = {"platform": "landsat-8", "wrs_path": 199, "sun_elevation": 40}
    masked = scene_of("landsat", "l", files, facts=facts)
    bare = scene_of("landsat", "l", {"red": files["red"]}, facts=facts)
    red = source("landsat", ["red"])
    (with_mask, _), (without, _) = (read_frames([one], window(3, 3, 54, 54), red) for one in (masked, bare))
    assert with_mask is not None and without is not None
    np.testing.assert_array_equal(with_mask.values, without.values)
    assert (without.weight == 255).all()
    assert (with_mask.weight[0, :27] == 255).all() and (with_mask.weight[0, 27:] == 0).all()


def test_radar_noise_at_the_border_and_beyond_its_range_has_no_weight_and_keeps_its_numbers(tmp_path):
    """Border noise of the GRD products lies far below -30 dB; where it was cut away nothing was measured."""
    power = np.full((40, 40), 0.1, np.float32)
    power[:, :3], power[:, 3:6], power[0, 20], power[:, 38:] = 0.0, 1e-5, 50.0, -32768
    scene = scene_of("sentinel1", "s", {"vv": write_raster(tmp_path / "vv.tif", power, LEFT, TOP, 10, nodata=-32768)})
    frames, _ = read_frames([scene], window(0, 0, 40, 40), source("sentinel1", ["vv"]))
    assert frames is not None
    np.testing.assert_array_equal(frames.values[0, 0], np.where(power == 0, -32768, power))
    expected = np.full((40, 40), 255)
    expected[:, :6], expected[0, 20], expected[:, 38:] = 0, 0, 0
    np.testing.assert_array_equal(frames.weight[0], expected)
