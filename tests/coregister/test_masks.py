from __future__ import annotations

import numpy as np

from pipelines.coregister.masks import present, weight
from pipelines.sources import source

ONE, ZERO = np.ones(2), np.zeros(2)


def test_the_stored_range_is_the_range_in_model_space():
    """A pixel has weight exactly where model space holds a number, for every band with a valid range."""
    rng = np.random.default_rng(0)
    s1 = source("sentinel1", ["vv"])
    power = (10 ** rng.uniform(-5, 3, (1, 40, 40))).astype(np.float32)
    power[0, :5] = -32768
    found = weight(s1, power, s1.nodata, np.ones(1), np.zeros(1), {}) == 255
    measured = np.isfinite(s1.to_model_space(power, np.ones(1), np.zeros(1), s1.nodata)[0])
    np.testing.assert_array_equal(found, measured)
    thermal = source("landsat", ["lwir11"])
    stored = rng.integers(0, 65535, (1, 40, 40)).astype(np.uint16)
    scale, offset = np.array([0.00341802]), np.array([149.0])
    found = weight(thermal, stored, 0, scale, offset, {}) == 255
    np.testing.assert_array_equal(found, np.isfinite(thermal.to_model_space(stored, scale, offset, 0)[0]))


def test_an_angle_of_view_alone_is_no_measurement():
    s1 = source("sentinel1", ["vv", "angle"])
    values = np.full((2, 3, 3), -32768, np.float32)
    values[1] = 38
    assert not present(values, -32768, s1).any()
    assert (weight(s1, values, -32768, ONE, ZERO, {}) == 0).all()
    values[0, 1, 1] = 0.1
    assert present(values, -32768, s1).sum() == 1


def test_one_polarisation_is_enough_and_nan_is_never_data():
    s1 = source("sentinel1", ["vv", "vh"])
    values = np.full((2, 1, 3), np.nan, np.float32)
    values[0, 0, 0] = values[1, 0, 1] = 0.1
    assert weight(s1, values, -32768, ONE, ZERO, {}).tolist() == [[255, 255, 0]]
