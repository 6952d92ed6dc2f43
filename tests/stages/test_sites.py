"""Sites: apart from each other, apart from the test area, the same for the same seed."""

from itertools import combinations

import numpy as np
import pytest
from pyproj import Geod
from shapely import box

from pipelines.config import Area, PlanConfig
from pipelines.grid import WGS84, Site, Window, transformer, utm_epsg
from pipelines.stages.sites import draw_sites, frame_to_sites, sites_to_frame

TWO_ZONES = (5.9, 49.9, 6.1, 50.0)


def drawn(bbox=TWO_ZONES, seed=0, **plan):
    settings = PlanConfig(**{"sites": 10_000, "site_px": 64, "spacing_m": 640, **plan})
    return draw_sites(Area(bbox=bbox), settings, box(*bbox), seed)


def centre(window):
    west, south, east, north = window.bounds_m
    return transformer(window.epsg, WGS84).transform((west + east) / 2, (south + north) / 2)


@pytest.mark.parametrize("spacing_m", [640, 1500])
def test_no_two_sites_are_closer_than_the_spacing(spacing_m):
    sites, refused = drawn(spacing_m=spacing_m)
    centres = [centre(site.window) for site in sites]
    distances = [Geod(ellps="WGS84").inv(*one, *other)[2] for one, other in combinations(centres, 2)]
    assert len(sites) > 30
    assert min(distances) > 0.985 * spacing_m
    assert refused["closer than plan.spacing_m to another site"] > 0


def test_the_grid_itself_is_no_breach_of_its_own_spacing():
    sites, _ = drawn(bbox=(5.2, 49.9, 5.4, 50.0), spacing_m=640)
    dense, _ = drawn(bbox=(5.2, 49.9, 5.4, 50.0), spacing_m=0)
    assert len(sites) == len(dense) > 100


def test_every_site_lies_in_the_zone_of_its_centre_and_both_zones_have_some():
    sites, _ = drawn()
    for site in sites:
        assert utm_epsg(*centre(site.window)) == site.window.epsg
    assert {site.window.epsg for site in sites} == {32631, 32632}
    assert len({site.site_id for site in sites}) == len(sites)


def test_a_seed_draws_the_same_sites_and_another_seed_others():
    first, again, other = (drawn(seed=seed, sites=30)[0] for seed in (1, 1, 2))
    assert first == again == sorted(first)
    assert len(first) == len(other) == 30 and first != other


def test_every_candidate_is_drawn_or_refused_for_a_reason():
    sites, refused = drawn(sites=30)
    everything, none_refused = drawn(spacing_m=0)
    assert not none_refused
    assert len(sites) + sum(refused.values()) == len(everything)


def test_the_test_area_is_apart_from_training_by_the_gap():
    test_area = (6.02, 49.8, 6.2, 50.1)
    sites, refused = drawn(test_area=test_area, gap_m=2000)
    by_split = {split: [site for site in sites if site.split == split] for split in ("train", "test")}
    assert len(by_split["train"]) > 30 and len(by_split["test"]) > 30
    for site in by_split["test"]:
        assert box(*test_area).contains(site.window.footprint())
    geod = Geod(ellps="WGS84")
    for site in by_split["train"]:
        _, south, east, north = site.window.footprint().bounds
        assert east < test_area[0]
        assert geod.inv(east, north, test_area[0], north)[2] > 1990
        assert geod.inv(east, south, test_area[0], south)[2] > 1990
    assert refused["straddles the edge of plan.test_area"] > 0


FIJI = box(179.9, -17.0, 180, -16.9) | box(-180, -17.0, -179.9, -16.9)


def across_180(**plan):
    settings = PlanConfig(sites=10_000, site_px=64, spacing_m=0, **plan)
    return draw_sites(Area(bbox=(179.9, -17.0, 180, -16.9)), settings, FIJI, 0)


def test_a_test_area_elsewhere_on_the_parallel_costs_no_site_on_the_180th_meridian():
    everything, _ = across_180()
    astride = [site for site in everything if site.window.footprint().geom_type == "MultiPolygon"]
    assert len(astride) > 5
    sites, refused = across_180(test_area=(20, -18, 21, -16), gap_m=1000)
    assert sites == everything and not refused


def test_the_gap_holds_across_the_180th_meridian():
    sites, _ = across_180(test_area=(-180, -18, -179.95, -16), gap_m=2000)
    train = [site for site in sites if site.split == "train"]
    west = [site.window.footprint() for site in train if site.window.epsg == 32760]
    assert west and max(outline.bounds[2] for outline in west) < 180 - 2000 / 111_320
    assert any(site.split == "test" for site in sites)


@pytest.mark.parametrize(("test_area", "split"), [((0, 0, 1, 1), "train"), ((5, 49, 7, 51), "test")])
def test_a_test_area_may_hold_nothing_or_everything(test_area, split):
    sites, _ = drawn(test_area=test_area)
    assert len(sites) > 30 and {site.split for site in sites} == {split}


def explicit(*windows, site_px=128):
    area = Area(windows=windows)
    return draw_sites(area, PlanConfig(sites=100, site_px=site_px, spacing_m=0), area.geometry(), 0)[0]


def test_a_window_smaller_than_a_site_is_rounded_up_to_the_models_stride_around_its_corner():
    small = {"epsg": 32631, "left_m": 587_880, "top_m": 5_685_430, "width_px": 46, "height_px": 52}
    tiny = {"epsg": 32736, "left_m": 661_440, "top_m": 9_648_860, "width_px": 6, "height_px": 6, "test": True}
    assert explicit(small, tiny) == sorted(
        [
            Site("31N_587880_5685430", Window(32631, 587_880, 5_685_430, 48, 64), "train"),
            Site("36S_661440_9648860", Window(32736, 661_440, 9_648_860, 16, 16), "test"),
        ]
    )


def test_a_large_window_is_cut_into_whole_sites_that_do_not_overlap():
    window = {"epsg": 32631, "left_m": 500_000, "top_m": 5_600_000, "width_px": 300, "height_px": 128}
    sites = explicit(window)
    assert [site.window for site in sites] == [
        Window(32631, 500_000, 5_600_000, 128, 128),
        Window(32631, 501_280, 5_600_000, 128, 128),
    ]


def at(left_m, top_m, epsg=32631, width_px=128, height_px=128, **more):
    return {
        "epsg": epsg,
        "left_m": left_m,
        "top_m": top_m,
        "width_px": width_px,
        "height_px": height_px,
        **more,
    }


SHARED = "over a site of a test window or within plan.gap_m of it"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing_m", [0, 1280])
def test_a_training_site_never_shares_ground_with_a_test_window(seed, spacing_m):
    """One window over half of another, one inside a large one, one beside one, one that only rounding brings near."""
    area = Area(
        windows=(
            at(500_000, 5_600_000),
            at(500_640, 5_600_000, test=True),
            at(520_000, 5_600_000, width_px=512, height_px=512),
            at(521_300, 5_598_600, width_px=64, height_px=64, test=True),
            at(501_920, 5_600_000),
            at(540_000, 5_600_000, width_px=40, height_px=40),
            at(540_400, 5_600_000, width_px=64, height_px=64, test=True),
        )
    )
    sites, refused = draw_sites(area, PlanConfig(sites=100, spacing_m=spacing_m), area.geometry(), seed)
    train, test = ([site.window.polygon() for site in sites if site.split == split] for split in ("train", "test"))
    assert test and train and max(one.intersection(other).area for one in train for other in test) == 0
    assert refused[SHARED] == 3
    if not spacing_m:  # 16 squares of the large window, less one; the window beside
        assert (len(train), len(test)) == (16, 3)


@pytest.mark.parametrize(("gap_m", "kept"), [(0, [1280, 3000, 9000]), (2000, [9000]), (5000, [9000]), (8000, [])])
def test_a_test_window_keeps_its_distance(gap_m, kept):
    """Training windows that begin where the test window ends, and further east."""
    area = Area(
        windows=(at(500_000, 5_600_000, test=True), *(at(500_000 + east, 5_600_000) for east in (1280, 3000, 9000)))
    )
    sites, refused = draw_sites(area, PlanConfig(spacing_m=0, gap_m=gap_m), area.geometry(), 0)
    assert sorted(site.window.left_m - 500_000 for site in sites if site.split == "train") == kept
    assert refused[SHARED] == 3 - len(kept)


def test_a_training_site_of_another_zone_does_not_share_ground_with_a_test_window_either():
    east = transformer(WGS84, 32631).transform(6.0, 50.0)
    west = transformer(WGS84, 32632).transform(6.0, 50.0)
    one, other = ((round(x / 10) * 10 - 640, round(y / 10) * 10 + 640) for x, y in (east, west))
    near, far = at(*other, epsg=32632), at(other[0] + 5000, other[1], epsg=32632)
    area = Area(windows=(at(*one, test=True), near, far))
    sites, refused = draw_sites(area, PlanConfig(spacing_m=0), area.geometry(), 0)
    assert sorted((site.window.epsg, site.split) for site in sites) == [(32631, "test"), (32632, "train")]
    assert refused[SHARED] == 1


def test_the_site_table_gives_the_sites_back():
    sites, _ = drawn(sites=20, test_area=(6.02, 49.8, 6.2, 50.1))
    frame = sites_to_frame(sites)
    assert frame_to_sites(frame) == sites
    middles = np.array([centre(site.window) for site in sites])
    west, south, east, north = frame.bounds.to_numpy().T
    assert np.allclose(np.stack([west + east, south + north], axis=1) / 2, middles, atol=1e-4)
