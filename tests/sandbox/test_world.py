"""The hidden truth: one world for both zones, seeded, with change, and not separable by a glance."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.sandbox.layers import ZONES, evaluate, layer_grids
from pipelines.sandbox.legend import CLASSES, CODE, FIRST_CROP
from pipelines.sandbox.parameters import parameters_for
from pipelines.sandbox.phenology import DAYS, cover_curves
from pipelines.sandbox.spectra import BANDS, parcel_state, reflectance
from pipelines.sandbox.weather import sky_at, weather_of
from pipelines.sandbox.world import World, world_of

P = parameters_for("tiny", 3)
NOON_MS = weather_of(P).start_ms + 10 * 86_400_000 + 38_000_000


def test_a_ground_point_has_one_class_and_height_in_both_zones():
    world = world_of(P)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-300, 300, 400), rng.uniform(-1200, 1200, 400)
    seen = []
    for epsg in ZONES:
        east, north = world.from_plane(x, y, epsg)
        back = world.to_plane(east, north, epsg)
        seen.append((world.class_at(*back, 2021), world.height_at(*back, 2021), world.elevation_m(*back)))
    assert np.mean(seen[0][0] == seen[1][0]) > 0.995  # a point on an edge may fall to either side by a micrometre
    np.testing.assert_allclose(seen[0][2], seen[1][2], atol=1e-2)
    same = seen[0][0] == seen[1][0]
    np.testing.assert_allclose(seen[0][1][same], seen[1][1][same], atol=1e-2)


def test_layers_of_two_zones_agree_on_the_ground():
    world = world_of(P)
    a, b = (evaluate(world, layer_grids(P)[f"sentinel2_{epsg}_20"]) for epsg in ZONES)
    x, y = b.grid.centres()
    column, row = (np.asarray(v) for v in _pixel(a, *world.from_plane(*world.to_plane(x, y, ZONES[1]), ZONES[0])))
    inside = (row >= 0) & (column >= 0) & (row < a.grid.height_px) & (column < a.grid.width_px)
    inside &= b.edge_m > 25
    assert inside.sum() > 300
    assert np.mean(a.parcel[row[inside], column[inside]] == b.parcel[inside]) > 0.99


def _pixel(layers, x, y):
    grid = layers.grid
    return (
        np.floor((x - grid.left_m) / grid.resolution_m).astype(int),
        np.floor((grid.top_m - y) / grid.resolution_m).astype(int),
    )


def test_the_seed_decides():
    one, same, other = World(P), World(P), World(replace(P, seed=4))
    np.testing.assert_array_equal(one.parcels.classes, same.parcels.classes)
    assert (one.parcels.classes[:50] != other.parcels.classes[:50]).any()
    assert P.identity == parameters_for("tiny", 3).identity != replace(P, seed=4).identity


def test_an_answer_does_not_depend_on_what_else_is_asked():
    world = world_of(P)
    x, y = np.linspace(-900, 900, 50), np.linspace(800, -800, 50)
    together = world.elevation_m(x, y)
    alone = [float(world.elevation_m(x[k : k + 1], y[k : k + 1])[0]) for k in range(50)]
    np.testing.assert_array_equal(together, np.array(alone, np.float32))


def test_small_world_has_every_class_parcels_of_the_asked_size_and_change():
    p = parameters_for("small", 5)
    world = world_of(p)
    n = len(world.parcels) // 2
    inside = (abs(world.parcels.x[:n]) < p.width_m / 2) & (abs(world.parcels.y[:n]) < p.height_m / 2)
    first, second = world.parcels.classes[:n][inside, 0], world.parcels.classes[:n][inside, 1]
    assert np.bincount(first, minlength=len(CLASSES)).min() > 0.015 * len(first)
    per_square = len(first) / (p.width_m * p.height_m / 1280**2)
    assert 30 <= per_square <= 70
    forest = np.isin(first, (CODE["broadleaf_forest"], CODE["conifer_forest"]))
    felled = forest & np.isin(second, (CODE["bare"], CODE["shrub"]))
    built = (first != CODE["built_up"]) & (second == CODE["built_up"])
    rotated = (first >= FIRST_CROP) & (second >= FIRST_CROP) & (first != second)
    assert felled.sum() > 50 and built.sum() > 50 and rotated.sum() > 500
    assert world.parcels.height_m[:n][inside][felled, 1].max() < 5


def test_crops_differ_in_timing_as_said():
    half = []
    for name in ("winter_barley", "winter_wheat", "maize", "sunflower"):
        green = cover_curves()[CODE[name], 0]
        season = (DAYS > 20) & (DAYS < 300)
        peak = np.flatnonzero(season)[green[season].argmax()]
        after = np.flatnonzero((green < 0.5 * green[peak]) & (np.arange(len(green)) > peak))[0]
        half.append(DAYS[after])
    assert half[1] - half[0] == pytest.approx(18, abs=1.5)
    assert half[3] - half[2] == pytest.approx(13, abs=1.5)


def test_the_north_is_later():
    world = world_of(parameters_for("small", 5))
    y, delay = world.parcels.y, world.parcels.delay_days[:, 0]
    assert np.corrcoef(y, delay)[0, 1] > 0.7


def test_no_band_of_no_day_tells_wheat_from_barley_alone():
    p = parameters_for("small", 5)
    world = world_of(p)
    wheat, barley = (world.parcels.classes[:, 0] == CODE[name] for name in ("winter_wheat", "winter_barley"))
    best = 0.0
    for day in range(20, 300, 20):
        table = reflectance(world, parcel_state(world, 0, day), 0.4)
        for band in range(len(BANDS)):
            a, b = table[wheat, band], table[barley, band]
            cuts = np.quantile(np.concatenate([a, b]), np.linspace(0.05, 0.95, 19))
            accuracy = [(np.mean(a > cut) + np.mean(b <= cut)) / 2 for cut in cuts]
            best = max(best, *accuracy, *(1 - np.array(accuracy)))
    assert 0.6 < best < 0.93


def test_clouds_move_within_a_day_and_change_between_days():
    first, soon = sky_at(P, NOON_MS), sky_at(P, NOON_MS + 1_200_000)
    later = [sky_at(P, NOON_MS + day * 86_400_000) for day in range(1, 12)]
    cloudy = next(sky for sky in [first, *later] if 0.15 < sky.opacity.mean() < 0.85)
    assert not np.array_equal(first.haze, soon.haze)
    assert all(not np.array_equal(cloudy.opacity, sky.opacity) for sky in later if sky is not cloudy)
    np.testing.assert_array_equal(first.opacity, sky_at(P, NOON_MS).opacity)


def test_clear_share_is_as_asked():
    for share in (0.3, 0.6):
        cover = weather_of(replace(P, clear_fraction=share)).cloudiness
        assert 1 - float(cover.mean()) == pytest.approx(share + 0.09, abs=0.02)


def test_bad_parameters_say_what_to_do():
    with pytest.raises(ValueError, match="tiny, small, large"):
        parameters_for("huge", 1)
    with pytest.raises(ValueError, match="2000 m"):
        replace(P, width_m=500.0)
    with pytest.raises(ValueError, match="2019"):
        world_of(P).season_index(2019)
