"""Groups of sites: the unit of reading, and what it is known by."""

from dataclasses import replace
from itertools import pairwise, product

import pytest
from shapely import box

from pipelines.config import Area, PlanConfig
from pipelines.grid import Period, Site, Window
from pipelines.scenes import Asset, Scene
from pipelines.stages import ingest
from pipelines.stages.groups import SiteGroup, along_curve, groups_of, reads_of_groups, stretches
from pipelines.stages.ingest import group_identity
from pipelines.stages.memory import (
    block_budget,
    decoded_bytes,
    kept_bytes,
    large_site,
    needed_mb,
    parts_of,
    peak_mb,
    pixel_bytes,
    sparse,
    window_of,
)
from pipelines.stages.sites import draw_sites
from pipelines.stages.survey import Look, Survey
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


def test_a_site_is_read_in_the_periods_that_it_was_drawn_in_only():
    drawn = [replace(site, periods=(PERIODS[index % 2].label,)) for index, site in enumerate(sites())]
    groups = groups_of(drawn, PERIODS, 256)
    read = [(site, group.period) for group in groups for site in group.sites]
    assert len(read) == len(drawn)
    assert all(site.periods == (period.label,) for site, period in read)


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
    optical = configured.sources["sentinel2"].model_copy(update={"cloud_percent": (0, 100)})
    hazy = configured.model_copy(update={"sources": {**configured.sources, "sentinel2": optical}})
    others = [
        key(scenes=[rescaled]),
        key(scenes=[replace(scene, scene_id="S2A_2")]),
        key(scenes=[]),
        key(config(ingest={"codec": "zstd"})),
        key(config(ingest={"sequences_per_shard": 2})),
        key(its_group=replace(group, sites=group.sites[1:])),
        key(its_group=replace(group, period=PERIODS[1])),
        key(code="d"),
        key(hazy),
    ]
    assert len({key(), *others}) == len(others) + 1


def test_parts_hold_every_site_once_and_fit_unless_they_are_one_site():
    group = max(groups_of(sites(), PERIODS, 256), key=lambda group: len(group.sites))

    half = group.window.width_px * group.window.height_px / 2

    def fits(part):
        window = window_of(part)
        return window.width_px * window.height_px <= half

    parts = parts_of(group.sites, fits)
    assert sorted(site for part in parts for site in part) == sorted(group.sites)
    assert len(parts) > 1 and max(map(len, parts)) > 1
    assert all(fits(part) or len(part) == 1 for part in parts)
    assert parts_of(group.sites, lambda part: True) == [list(group.sites)]
    assert all(len(part) == 1 for part in parts_of(group.sites, lambda part: False))


def test_decoded_bytes_are_values_and_a_weight_of_every_acquisition_that_touches_the_window():
    configured = config()
    sources = {name: configured.source(name) for name in configured.sources}
    window = groups_of(sites(), PERIODS, 256)[0].window
    far = box(0, 0, 1, 1)

    def scene(source, name, footprint, **facts):
        return Scene(source, name, "here", "any", YEAR.start_ms, (0, 1), footprint, {}, facts)

    scenes = {
        "sentinel2": [  # two tiles of one datatake, one of another, one elsewhere
            scene("sentinel2", "a", box(*AREA).buffer(1), datatake="GS2A_1"),
            scene("sentinel2", "b", box(*AREA).buffer(1), datatake="GS2A_1"),
            scene("sentinel2", "c", box(*AREA).buffer(1), datatake="GS2A_2"),
            scene("sentinel2", "d", far, datatake="GS2A_3"),
        ],
        "era5": [scene("era5", "e", box(*AREA).buffer(1))],
    }
    px = window.width_px * window.height_px
    assert decoded_bytes(scenes, window, sources) == px * 2 * (2 * 2 + 1)
    assert pixel_bytes(sources["sentinel1"], 3) == 3 * (2 * 4 + 1)


def test_the_budget_leaves_room_for_everything_else():
    for memory_mb in (1024, 2048, 16384):
        assert 0 < block_budget(memory_mb) + kept_bytes(memory_mb) < memory_mb * 2**20


@pytest.mark.parametrize("memory_mb", [2048, 4096, 16384])
def test_the_budget_takes_the_whole_bound_and_a_byte_more_needs_a_larger_one(memory_mb):
    budget = block_budget(memory_mb)
    assert peak_mb(budget, memory_mb) == memory_mb
    decoded = 3 * budget
    assert peak_mb(decoded, memory_mb) > memory_mb
    assert peak_mb(decoded, needed_mb(decoded)) <= needed_mb(decoded)
    assert peak_mb(decoded, needed_mb(decoded) - 2) > needed_mb(decoded) - 2


@pytest.mark.parametrize(("site_px", "promised"), [(128, True), (512, False)])
def test_a_dry_run_promises_no_bound_that_one_site_breaks(tmp_path, capsys, site_px, promised):
    configured = config(tmp_path, ingest={"memory_mb": 2048}, plan={"site_px": site_px})
    site = Site.at(Window(32631, 500_000, 5_600_000, site_px, site_px), "train")
    looks = {"sentinel2": Look(500.0, ()), "sentinel1": Look(210.0, ())}
    pixel = 500 * (2 * 2 + 1) + 210 * (2 * 4 + 1)
    ingest.describe(configured, Survey([site], [], looks))
    told = capsys.readouterr().out
    said = large_site(configured, [site], looks)
    if promised:
        assert said is None and "a worker stays below 2048 MB (ingest.memory_mb), 2 of them below 4.0 GB" in told
        return
    decoded_mb = 512 * 512 * pixel / 2**20
    peak = int(850 + 256 + 2.55 * decoded_mb) + 1
    needed = int((850 + 2.55 * decoded_mb) / 0.875) + 1
    assert f"a worker may take {peak} MB, more than the 2048 MB (ingest.memory_mb)" in told and "stays" not in told
    assert said == (
        f"a site of 512 x 512 px is {decoded_mb:.0f} MB decoded and never split: a worker may take {peak} MB, more "
        f"than ingest.memory_mb (2048); lower plan.site_px (512) or raise ingest.memory_mb to {needed}"
    )
    assert f"[ingest] memory: {said}\n" in told


def test_the_stage_warns_in_one_line_of_a_site_that_takes_more_than_the_memory(tmp_path, caplog, monkeypatch):
    """Before anything is read."""
    configured = config(tmp_path, ingest={"memory_mb": 2048}, plan={"site_px": 512})
    site = Site.at(Window(32631, 500_000, 5_600_000, 512, 512), "train")

    class Planned:
        sites = staticmethod(lambda: [site])
        looks = staticmethod(lambda: {"sentinel2": Look(1000.0, ())})

    def stop(*_):
        raise InterruptedError

    monkeypatch.setattr(ingest.Plan, "load", lambda _: Planned)
    monkeypatch.setattr(ingest, "ray_session", stop)
    with pytest.raises(InterruptedError):
        ingest.run(configured)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.getMessage() == large_site(configured, [site], Planned.looks())


def test_sites_far_apart_are_read_apart():
    def at(col, row):
        return Site.at(Window(32631, 500_000 + 10 * col, 5_600_000 - 10 * row, 128, 128), "train")

    assert not sparse([at(0, 0), at(300, 300)])  # within one block of a file
    assert not sparse([at(128 * i, 128 * j) for i in range(8) for j in range(8)])
    assert sparse([at(0, 0), at(1500, 1800)])
    near, far = [at(0, 0), at(130, 0)], [at(1500, 1800)]
    assert parts_of(far + near, lambda part: not sparse(part)) == [near, far]


def test_neighbours_follow_one_another():
    """Of a square of cells, every quarter is read before the next is begun, and so within the quarters."""
    cells = sorted(product(range(8), range(8)), key=lambda cell: along_curve(*cell))
    for side in (2, 4):
        for start in range(0, 64, side * side):
            corners = {(col // side, row // side) for col, row in cells[start : start + side * side]}
            assert len(corners) == 1
    assert along_curve(3, 0) == 0b101 and along_curve(0, 3) == 0b1010
    side = [Site.at(Window(32631, 5120 * col, 5_120_000 - 5120 * row, 32, 32), "train") for col, row in cells]
    groups = groups_of(sorted(side), PERIODS, 512)
    assert [group.period for group in groups] == [PERIODS[0]] * 64 + [PERIODS[1]] * 64
    jumps = [
        abs(one.window.left_m - two.window.left_m) + abs(one.window.top_m - two.window.top_m)
        for one, two in pairwise(groups[:64])
    ]
    assert sum(jumps) / 63 < 2 * 5120  # row by row it is near 2 as well, but blocks of two rows are wanted twice


@pytest.mark.parametrize(("count", "workers", "length"), [(3, 2, 1), (64, 2, 4), (10_000, 2, 256), (10_000, 100, 12)])
def test_stretches_are_long_but_several_a_worker(count, workers, length):
    found = stretches(range(count), workers)
    assert [item for stretch in found for item in stretch] == list(range(count))
    assert {len(stretch) for stretch in found[:-1]} == {length}


def test_only_sites_that_lie_close_share_blocks_with_their_neighbours():
    close = [Site.at(Window(32631, 1280 * col, 5_120_000, 128, 128), "train") for col in range(5)]
    assert SiteGroup("close", tuple(close), YEAR).shares_blocks
    far = Site.at(Window(32631, 5120, 5_114_880, 128, 128), "train")
    assert not SiteGroup("far", (close[0], far), YEAR).shares_blocks  # an eighth of 640 x 640 px is needed
    assert not SiteGroup("one", (close[0],), YEAR).shares_blocks


def test_reading_is_reckoned_by_what_shares_blocks():
    def sites_at(*cells, step=1280):
        return tuple(Site.at(Window(32631, step * c, 5_120_000 - step * r, 128, 128), "train") for c, r in cells)

    dense = [
        SiteGroup("a", sites_at(*product(range(5), range(4))), YEAR),
        SiteGroup("b", sites_at(*product(range(5, 9), range(4))), YEAR),
    ]
    assert [window.shape for window in reads_of_groups(dense, 1)] == [(512, 640), (512, 512)]  # a stretch each
    assert [window.shape for window in reads_of_groups(dense * 8, 1)] == [(512, 1152)] * 8
    later = [replace(group, period=PERIODS[1]) for group in dense]
    assert len(reads_of_groups([*dense * 8, *later * 8], 1)) == 16
    sparse_sites = sites_at((0, 0), (4, 4))
    assert reads_of_groups([SiteGroup("c", sparse_sites, YEAR)], 1) == [site.window for site in sparse_sites]
    assert reads_of_groups([SiteGroup("d", sites_at((0, 0)), YEAR)], 1) == [sites_at((0, 0))[0].window]
    scattered = [SiteGroup("far", sites_at(*product(range(100 * k, 100 * k + 5), range(4))), YEAR) for k in range(16)]
    assert len(reads_of_groups(scattered, 1)) == 16
