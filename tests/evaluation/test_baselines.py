import numpy as np
import pytest
from pyproj import Transformer

from pipelines.evaluation import baselines
from pipelines.evaluation.baselines import PointSeries, point_features
from pipelines.evaluation.randomconv import RandomFilters
from pipelines.grid import DAY_MS
from pipelines.sources import SOURCES as REAL
from tests.evaluation.worlds import OPTICAL, RADAR, SOURCES, TERRAIN, YEAR, frames, sequence

ROWS, COLS = np.array([0, 3, 7]), np.array([0, 5, 7])


def series(values, days, radar=False):
    return PointSeries(
        np.asarray(values, np.float32), YEAR.start_ms + (np.asarray(days) * DAY_MS).astype(np.int64), radar
    )


def test_median_equals_numpy_with_holes():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 8):
        values = rng.normal(size=(count, 3, 40)).astype(np.float32)
        values[rng.random(values.shape) < 0.3] = np.nan
        values[:, 0, 0] = np.nan
        with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
            expected = np.nanmedian(values, axis=0)
        np.testing.assert_allclose(baselines.nan_median(values), expected, rtol=1e-6)


def test_annual_composite_is_the_median_of_clear_optical_looks_and_the_mean_decibel_of_radar():
    values = np.zeros((5, 2, 8, 8), np.uint16)
    values[:, 0] = np.array([100, 200, 300, 9000, 9000])[:, None, None]  # the last two are cloud
    values[:, 1] = np.array([10, 0, 30, 50, 50])[:, None, None]  # 0: nodata
    weight = np.full((5, 8, 8), 255, np.uint8)
    weight[3:] = 0
    power = np.full((2, 2, 8, 8), 35.0, np.float32)
    power[0, 0], power[1, 0] = 0.1, 0.001  # -10 and -30 dB
    found = point_features(
        sequence(
            {"sentinel2": frames(values, range(5), 0, weight, 1e-4, 0.5), "sentinel1": frames(power, [1, 2], -32768)}
        ),
        ROWS,
        COLS,
        SOURCES,
        names=["annual_composite"],
    )["annual_composite"]
    np.testing.assert_allclose(found, np.tile([0.02 + 0.5, 0.002 + 0.5, -20.0], (3, 1)), rtol=1e-5)  # no angle


def test_a_point_that_was_never_clear_uses_what_there_is():
    values = np.full((3, 2, 8, 8), 70, np.uint16)
    weight = np.full((3, 8, 8), 255, np.uint8)
    weight[:, 0, 0] = 0
    found = point_features(
        sequence({"sentinel2": frames(values, range(3), 0, weight)}),
        ROWS,
        COLS,
        {"sentinel2": OPTICAL},
        names=["annual_composite"],
    )
    assert (found["annual_composite"] == 70).all()


def test_a_source_that_is_not_there_leaves_columns_of_nan():
    values = np.full((3, 2, 8, 8), 70, np.uint16)
    found = point_features(sequence({"sentinel2": frames(values, range(3), 0)}), ROWS, COLS, SOURCES)
    assert found["annual_composite"].shape == (3, 3) and np.isnan(found["annual_composite"][:, 2]).all()
    assert np.isnan(found["xyz"][:, 4]).all()
    assert "random_conv" not in found


def test_seasons_and_how_an_empty_one_is_filled():
    # Looks in the 1st, 2nd and 4th quarter; the third takes the mean of its neighbours.
    values = np.array([1, 3, 10, 20])[:, None, None] * np.ones((4, 1, 2))
    found = baselines.seasonal_composites(series(values, [10, 40, 120, 350]), YEAR)
    np.testing.assert_allclose(found[:, 0, 0], [2, 10, 15, 20])
    alone = baselines.seasonal_composites(series(np.full((1, 1, 1), 4.0), [200]), YEAR)
    assert (alone == 4).all()


def test_harmonics_recover_a_known_season_despite_clouds():
    rng = np.random.default_rng(0)
    days = np.sort(rng.uniform(0, 365, 40))
    omega = 2 * np.pi * (YEAR.start_ms / DAY_MS + days) / 365.25
    clean = 5 + 2 * np.cos(omega) - 1 * np.sin(omega) + 0.5 * np.sin(2 * omega)
    values = (clean + 0.05 * rng.normal(size=40))[:, None, None].astype(np.float32)
    cloudy = values.copy()
    cloudy[[3, 11, 20, 33]] += 6
    missing = cloudy.copy()
    missing[5:9] = np.nan
    for case in (values, cloudy, missing):
        fit = baselines.harmonics(series(case, days))[:, 0, 0]
        np.testing.assert_allclose(fit[:7], [5, 2, -1, 0, 0.5, 0, 0], atol=0.12)
        assert fit[7] < 0.12
    # Many clouds: Huber's weights bring the fit near, the redescending ones finish it.
    many = values.copy()
    many[::4] += 3
    np.testing.assert_allclose(baselines.harmonics(series(many, days))[:3, 0, 0], [5, 2, -1], atol=0.06)
    # Plain least squares is thrown off by the same clouds.
    design = np.c_[np.ones(40), np.cos(omega), np.sin(omega), np.cos(2 * omega), np.sin(2 * omega)]
    plain = np.linalg.lstsq(design, cloudy[:, 0, 0], rcond=None)[0]
    assert abs(plain[0] - 5) > 0.3


def test_harmonics_of_few_looks_stay_bounded_and_of_none_are_unknown():
    values = np.full((3, 2, 1), np.nan, np.float32)
    values[:, 0, 0] = [1.0, 2.0, 3.0]
    fit = baselines.harmonics(series(values, [10, 30, 60]))
    assert np.abs(fit[:, 0, 0]).max() < 10 and np.isnan(fit[:, 1, 0]).all()


def test_every_point_gets_the_same_fit_alone_as_among_others():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(30, 3, 6)).astype(np.float32)
    days = np.sort(rng.uniform(0, 365, 30))
    together = baselines.harmonics(series(values, days))
    alone = np.concatenate([baselines.harmonics(series(values[:, :, k : k + 1], days)) for k in range(6)], axis=2)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_interpolation_is_linear_between_clear_looks():
    values = np.array([0.0, np.nan, 100.0])[:, None, None]
    found = baselines.interpolated(series(values, [0, 100, 200]), YEAR)[:, 0, 0]
    centres = (np.arange(26) + 0.5) * 365 / 26
    np.testing.assert_allclose(found, np.clip(centres / 200, 0, 1) * 100, rtol=1e-5)


def test_position_and_elevation():
    terrain = np.zeros((1, 2, 8, 8), np.float32)
    terrain[0, 0] = np.arange(64).reshape(8, 8)
    terrain[0, 0, 7, 7] = -32768
    values = np.full((3, 2, 8, 8), 70, np.uint16)
    rasters = {"sentinel2": frames(values, range(3), 0), "elevation": frames(terrain, [0], -32768)}
    found = point_features(sequence(rasters), ROWS, COLS, SOURCES)
    assert found["xyz"][:2, 4].tolist() == [0, 29] and np.isnan(found["xyz"][2, 4])
    lon, lat = Transformer.from_crs(32631, 4326, always_xy=True).transform(500_055.0, 5_000_000 - 35.0)
    angle = np.radians([lon, lat])
    np.testing.assert_allclose(
        found["xy"][1], [np.sin(angle[0]), np.cos(angle[0]), np.sin(angle[1]), np.cos(angle[1])], atol=1e-6
    )
    np.testing.assert_array_equal(found["xyz"][:, :4], found["xy"])


def test_the_configured_sources_give_the_sixteen_numbers_of_the_paper():
    rng = np.random.default_rng(0)
    rasters = {}
    for name in ("sentinel2", "sentinel1", "landsat"):
        source = REAL[name]
        values = rng.uniform(1, 5000, (4, len(source.bands), 8, 8)).astype(source.dtype)
        rasters[name] = frames(values, [1, 100, 200, 300], source.nodata, scale=1e-4)
    found = point_features(sequence(rasters), ROWS, COLS, REAL)
    assert found["annual_composite"].shape == (3, 16)
    assert found["seasonal_composite"].shape == (3, 64) and found["harmonics"].shape == (3, 128)


def test_points_outside_and_unknown_baselines_are_refused():
    one = sequence({"sentinel2": frames(np.full((3, 2, 8, 8), 70, np.uint16), range(3), 0)})
    with pytest.raises(ValueError, match="outside its 8 x 8 px"):
        point_features(one, np.array([8]), np.array([0]), SOURCES)
    with pytest.raises(ValueError, match="unknown baseline"):
        point_features(one, ROWS, COLS, SOURCES, names=["clay"])
    with pytest.raises(ValueError, match="no imaging source"):
        point_features(one, ROWS, COLS, {"elevation": TERRAIN})


def test_random_filters_equal_a_naive_convolution():
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(60, 2, 3, 3)).astype(np.float32) * [[[[3]], [[0.1]]]] + 5
    filters = RandomFilters.fit(patches.astype(np.float32), filters=7, pool_px=2, seed=1)
    windows = rng.normal(size=(3, 2, 4, 4)).astype(np.float32) + 5
    windows[1, 0] = np.nan
    expected = np.zeros((3, 14))
    for k, window in enumerate(windows):
        for dy in (0, 1):
            for dx in (0, 1):
                piece = (window[:, dy : dy + 3, dx : dx + 3] - filters.mean_C[:, None, None]) / filters.std_C[
                    :, None, None
                ]
                z = np.nan_to_num(piece).ravel() @ filters.weights + filters.bias
                expected[k] += np.concatenate([np.maximum(z, 0), np.maximum(-z, 0)]) / 4
    np.testing.assert_allclose(filters(windows), expected, atol=1e-4)
    response = (patches - filters.mean_C[:, None, None]) / filters.std_C[:, None, None]
    np.testing.assert_allclose((response.reshape(60, -1) @ filters.weights).std(0), 1, rtol=1e-3)


def test_random_convolutions_see_texture_that_composites_do_not():
    rng = np.random.default_rng(0)
    flat = np.full((3, 2, 32, 32), 500, np.uint16)
    striped = flat.copy()
    striped[:, :, ::2] = 700
    striped[:, :, 1::2] = 300
    both = [sequence({"sentinel2": frames(v, range(3), 0)}, side=32) for v in (flat, striped)]
    sources = {"sentinel2": OPTICAL}
    patches = np.concatenate([baselines.sample_patches(one, sources, 50, 0) for one in both])
    filters = RandomFilters.fit(patches, 32)
    at = rng.integers(6, 26, (2, 9))
    plain, rows = (point_features(one, at[0], at[1], sources, filters)["random_conv"] for one in both)
    assert np.allclose(plain, plain[0], atol=1e-5) and np.abs(rows - plain).max(1).min() > 0.2


def test_windows_at_the_border_repeat_the_edge():
    image = np.arange(64, dtype=np.uint16).reshape(8, 8) + 1
    one = sequence({"sentinel2": frames(np.broadcast_to(image, (3, 2, 8, 8)).copy(), range(3), 0)})
    corner = baselines._patches(one, np.array([0]), np.array([7]), {"sentinel2": OPTICAL}, 3)[0, 0]
    np.testing.assert_array_equal(corner, np.pad(image, 1, mode="edge")[0:3, 7:10])


def test_radar_harmonics_leave_the_incidence_angle_out():
    power = np.full((12, 2, 8, 8), 0.01, np.float32)
    power[:, 1] = np.linspace(30, 45, 12)[:, None, None]
    found = point_features(
        sequence({"sentinel1": frames(power, np.arange(12) * 30, -32768)}),
        ROWS,
        COLS,
        {"sentinel1": RADAR},
        names=["harmonics"],
    )["harmonics"]
    np.testing.assert_allclose(found, np.tile([-20.0] + [0] * 7, (3, 1)), atol=1e-4)
