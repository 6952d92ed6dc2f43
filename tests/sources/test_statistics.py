from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources import source
from pipelines.sources.statistics import Accumulator, BandStatistics, Statistics, normalise

S2 = source("sentinel2", ["blue", "nir"])
S1 = source("sentinel1", ["vv", "angle"])


def accumulate(parts, bands=("a", "b")) -> Accumulator:
    total = Accumulator(bands)
    for part in parts:
        total.add(part)
    return total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(-1e4, 1e4), st.floats(1e-3, 1e3), st.integers(0, 6))
def test_any_grouping_gives_the_direct_result(seed: int, count: int, centre: float, spread: float, cut: int):
    """Exact to 1e-6 of the spread however the frames are grouped, with gaps."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(centre, spread, (3, 2, 5, 4)) for _ in range(count)]
    for part in parts:
        part[rng.random(part.shape) < 0.2] = np.nan
    left, right = accumulate(parts[:cut]), accumulate(parts[cut:])
    left.merge(Accumulator.from_dict(json.loads(json.dumps(right.to_dict()))))
    found, everything = left.result(), np.concatenate(parts)
    for band in range(2):
        direct = everything[:, band][np.isfinite(everything[:, band])]
        assert found.count[band] == direct.size
        assert abs(found.mean[band] - direct.mean()) < 1e-6 * spread + 1e-12 * abs(centre)
        assert abs(found.std[band] - direct.std()) < 1e-6 * spread


def test_points_count_by_column():
    values = np.array([[1.0, 10.0], [3.0, np.nan]])
    found = accumulate([values]).result()
    assert found.count.tolist() == [2, 1] and found.mean.tolist() == [2, 10]


def test_json_keeps_everything_and_the_digest_follows_the_numbers():
    found = accumulate([np.random.default_rng(0).normal(size=(2, 2, 3, 3)), np.full((1, 2, 3, 3), np.nan)]).result()
    empty = Accumulator(("x",)).result()
    statistics = Statistics({"sentinel2": found, "era5": empty})
    again = Statistics.from_json(statistics.to_json())
    assert again.to_json() == statistics.to_json() and again.digest() == statistics.digest()
    np.testing.assert_array_equal(again["sentinel2"].std, found.std)
    assert np.isnan(again["era5"].mean[0]) and again["era5"].count[0] == 0
    moved = BandStatistics(found.bands, found.count, found.mean + 1e-9, found.std)
    assert Statistics({"sentinel2": moved, "era5": empty}).digest() != statistics.digest()


def test_numbers_reach_the_model_as_clipped_scores_of_the_transformed_value():
    """By hand: reflectance 0.2 is DN 2000 after the offset, log(2001) / 10."""
    stored = np.array([3000, 0, 9000, 1001], np.uint16).reshape(1, 1, 2, 2).repeat(2, 1)
    scale, offset = np.full((1, 2), 1e-4), np.full((1, 2), -0.1)
    mean, std = np.log(2001) / 10, 0.05
    statistics = BandStatistics(("blue", "nir"), np.array([9, 9]), np.array([mean, mean]), np.array([std, std]))
    z = normalise(S2, statistics, stored, scale, offset, 0)[0, 0].ravel()
    np.testing.assert_allclose(z[0], 0, atol=1e-4)
    assert np.isnan(z[1])
    np.testing.assert_allclose(z[2], (np.log(8001) / 10 - mean) / std, rtol=1e-4)
    assert z[3] == -6


def test_numpy_and_torch_agree():
    rng = np.random.default_rng(1)
    stored = rng.uniform(0.0005, 12, (2, 3, 2, 8, 8)).astype(np.float32)
    stored[:, :, 0, 0] = -32768
    scale, offset = np.ones((2, 3, 2)), np.zeros((2, 3, 2))
    found = accumulate([S1.to_model_space(stored, scale, offset, -32768)], ("vv", "angle")).result()
    one = normalise(S1, found, stored, scale, offset, -32768)
    other = normalise(S1, found, *map(torch.from_numpy, (stored, scale, offset)), -32768)
    np.testing.assert_allclose(one, other.numpy(), atol=1e-5)
    assert np.isnan(one[:, :, 0, 0]).all() and other.dtype == torch.float32


def test_a_band_that_never_varies_becomes_zero_and_not_infinity():
    flat = BandStatistics(("blue", "nir"), np.array([5, 0]), np.array([0.7, np.nan]), np.array([0.0, np.nan]))
    z = normalise(S2, flat, np.full((1, 2, 2, 2), 1000, np.uint16), np.full((1, 2), 1e-4), np.zeros((1, 2)), 0)
    assert (z == 0).all()


def test_statistics_of_other_bands_are_refused():
    other = Accumulator(("blue", "green")).result()
    with pytest.raises(ValueError, match=r"'nir'.*blue, green"):
        normalise(S2, other, np.ones((1, 2, 1, 1), np.uint16), np.ones((1, 2)), np.zeros((1, 2)), 0)
    with pytest.raises(ValueError, match="merge"):
        Accumulator(("a",)).merge(Accumulator(("b",)))
