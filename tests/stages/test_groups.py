"""Groups of sites: the unit of reading, and what it is known by."""

from dataclasses import replace

from shapely import box

from pipelines.config import Area, PlanConfig
from pipelines.grid import Period
from pipelines.scenes import Asset, Scene
from pipelines.stages.ingest import group_identity, groups_of
from pipelines.stages.sites import draw_sites
from tests.stages.worlds import YEAR, config

AREA = (5.9, 49.9, 6.1, 50.0)
PERIODS = [YEAR, Period.calendar_year(2022)]


def sites():
    plan = PlanConfig(sites=80, site_px=32, spacing_m=0, test_area=(6.02, 49.8, 6.2, 50.1))
    return draw_sites(Area(bbox=AREA), plan, box(*AREA), 0)[0]


def test_every_site_is_read_once_in_every_period_and_with_its_own_split_and_zone():
    drawn = sites()
    groups = groups_of(drawn, PERIODS, 256)
    for period in PERIODS:
        members = [site for group in groups if group.period == period for site in group.sites]
        assert sorted(members) == drawn
    assert len({group.group_id for group in groups}) == len(groups)
    assert any(len(group.sites) > 1 for group in groups)
    for group in groups:
        assert len({(site.split, site.window.epsg) for site in group.sites}) == 1


def test_a_groups_window_holds_its_sites_and_is_bounded_by_the_block():
    for group in groups_of(sites(), PERIODS, 256):
        west, south, east, north = group.window.bounds_m
        for site in group.sites:
            left, bottom, right, top = site.window.bounds_m
            assert west <= left and south <= bottom and east >= right and north >= top
        assert group.window.width_px < 256 + 32 and group.window.height_px < 256 + 32


def test_groups_do_not_depend_on_the_order_of_sites():
    drawn = sites()
    assert groups_of(drawn, PERIODS, 256) == groups_of(drawn[::-1], PERIODS, 256)


def test_a_group_is_known_by_what_its_pixels_come_from_and_nothing_else():
    configured = config()
    group = groups_of(sites(), PERIODS, 256)[0]
    asset = Asset(href="https://x/red.tif", key="red", scale=1e-4)
    scene = Scene(
        "sentinel2",
        "S2A_1",
        "here",
        "any",
        YEAR.start_ms,
        (YEAR.start_ms, YEAR.start_ms + 1),
        box(*AREA),
        {"red": asset},
    )

    def key(settings=configured, its_group=group, scenes=(scene,), code="c"):
        return group_identity(settings, its_group, {"sentinel2": list(scenes)}, code)

    assert key() == key()
    same = config(ingest={"workers": 7, "threads": 9}, train={"steps": 5}, seed=3)
    assert key(same) == key()
    moved = replace(scene, assets={"red": replace(asset, href="https://elsewhere/red.tif")})
    assert key(scenes=[moved]) == key()
    rescaled = replace(scene, assets={"red": replace(asset, offset=-0.1)})
    others = [
        key(scenes=[rescaled]),
        key(scenes=[replace(scene, scene_id="S2A_2")]),
        key(scenes=[]),
        key(config(ingest={"codec": "zstd"})),
        key(config(ingest={"sequences_per_shard": 2})),
        key(its_group=replace(group, sites=group.sites[1:])),
        key(its_group=replace(group, period=PERIODS[1])),
        key(code="d"),
    ]
    assert len({key(), *others}) == len(others) + 1
