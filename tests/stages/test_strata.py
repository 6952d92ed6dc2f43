"""Sites by design: strata of polygons, texts first, no open water, periods by lot."""

from collections import Counter

import geopandas as gpd
import numpy as np
import pytest
from shapely import box

from pipelines.config import Area, ConfigError, PlanConfig, StratumConfig
from pipelines.coregister.fetch import Failure, FailureKind
from pipelines.grid import WGS84, Period, transformer
from pipelines.scenes import Asset, Scene
from pipelines.sequence import Sequence
from pipelines.sources.landcover import with_classes
from pipelines.stages.sites import count_sequences, draw_sites, frame_to_sites, sites_to_frame
from pipelines.stages.strata import FULL, OUTSIDE, WATER, TextPoints, choose_periods
from pipelines.stages.water import is_open_water
from tests.stages.worlds import YEAR, config, raster, sources_of

BBOX = (5.9, 49.9, 6.1, 50.0)
WEST, MIDDLE, EAST = (5.85, 49.8, 5.97, 50.1), (5.97, 49.8, 6.02, 50.1), (6.02, 49.8, 6.15, 50.1)
YEARS = [Period.calendar_year(year) for year in (2020, 2021, 2022, 2023)]


def drawn(seed=0, texts=None, periods=(), **plan):
    settings = PlanConfig(**{"sites": 10_000, "site_px": 64, "spacing_m": 640, **plan})
    return draw_sites(Area(bbox=BBOX), settings, box(*BBOX), seed, periods, texts)


def centre(site):
    west, south, east, north = site.window.bounds_m
    return transformer(site.window.epsg, WGS84).transform((west + east) / 2, (south + north) / 2)


def regions(path, boxes, ids, column="ECO_ID"):
    frame = gpd.GeoDataFrame({column: ids}, geometry=[box(*one) for one in boxes], crs=WGS84)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return str(path)


@pytest.fixture
def ecoregions(tmp_path):
    return regions(tmp_path / "eco.gpkg", [WEST, MIDDLE], [664.0, 81.0])


@pytest.mark.parametrize("name", ["eco.geojson", "eco.gpkg", "eco.shp", "eco.parquet"])
def test_every_region_of_a_file_gets_its_number_of_sites_and_no_place_outside_gets_any(tmp_path, name):
    path = regions(tmp_path / name, [WEST, MIDDLE], [664.0, 81.0])
    sites, refused = drawn(strata=[{"path": path, "column": "ECO_ID", "sites": 7, "limits": {"81": 3}}])
    assert Counter(site.stratum for site in sites) == {"eco:664": 7, "eco:81": 3}
    for site in sites:
        west, _, east, _ = WEST if site.stratum == "eco:664" else MIDDLE
        assert west <= centre(site)[0] <= east
    assert refused[OUTSIDE] > 0 and refused[FULL] > 0


def test_regions_of_several_files_share_the_spacing_and_a_site_counts_for_all_that_it_lies_in(tmp_path, ecoregions):
    coast = regions(tmp_path / "coast.geojson", [(5.9, 49.9, 6.1, 49.94)], ["x"])
    strata = [{"path": ecoregions, "column": "ECO_ID", "sites": 5}, {"path": coast, "sites": 9}]
    sites, _ = drawn(strata=strata, spacing_m=1000)
    counts = Counter(name for site in sites for name in site.stratum.split(";"))
    assert counts["coast"] == 9 and counts["eco:664"] >= 5
    assert any(";" in site.stratum for site in sites)
    everything, _ = drawn(spacing_m=1000)
    assert len(sites) < len(everything)
    same, _ = drawn(strata=strata, spacing_m=1000)
    assert same == sites != drawn(seed=1, strata=strata, spacing_m=1000)[0]


def test_the_order_of_regions_in_the_file_does_not_matter_even_where_they_overlap(tmp_path):
    overlapping = [WEST, (5.93, 49.8, 6.02, 50.1)]
    one = regions(tmp_path / "eco.geojson", overlapping, ["a", "b"])
    (tmp_path / "turned").mkdir()
    other = regions(tmp_path / "turned/eco.geojson", overlapping[::-1], ["b", "a"])
    first, second = (drawn(strata=[{"path": p, "column": "ECO_ID", "sites": 6}])[0] for p in (one, other))
    assert first == second and {site.stratum for site in first} == {"eco:a", "eco:b"}


def test_strata_keep_training_apart_from_the_test_area(ecoregions):
    test_area = (5.99, 49.8, 6.2, 50.1)
    sites, _ = drawn(strata=[{"path": ecoregions, "column": "ECO_ID", "sites": 20}], test_area=test_area, gap_m=1000)
    by_split = {split: [site for site in sites if site.split == split] for split in ("train", "test")}
    assert by_split["train"] and by_split["test"]
    for site in by_split["test"]:
        assert box(*test_area).contains(site.window.footprint())
    for site in by_split["train"]:
        assert site.window.footprint().bounds[2] < test_area[0] - 0.01


def test_without_strata_nothing_is_refused_for_them_and_no_site_has_one():
    sites, refused = drawn()
    assert {site.stratum for site in sites} == {""} and not {OUTSIDE, FULL, WATER} & set(refused)


@pytest.mark.parametrize(
    ("strata", "says"),
    [
        ({"path": "missing.gpkg", "sites": 1}, r"plan.strata.0.path: missing.gpkg cannot be read \(no such file\)"),
        ({"column": "NAME", "sites": 1}, r"plan.strata.0.column: .*eco.gpkg has no column 'NAME'; it has ECO_ID"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_remedy(ecoregions, strata, says):
    with pytest.raises(ConfigError, match=says):
        drawn(strata=[{"path": ecoregions, **strata}])


def test_a_file_with_nothing_in_the_area_is_an_error_not_an_empty_plan(tmp_path):
    far = regions(tmp_path / "far.geojson", [(100, 0, 101, 1)], ["x"])
    with pytest.raises(ConfigError, match=r"plan.strata.0.path: .*far.geojson has no polygon in the area"):
        drawn(strata=[{"path": far, "sites": 1}])
    with pytest.raises(ConfigError, match=r"plan.land: .*far.geojson has no polygon"):
        drawn(land=far)


def test_a_stratum_needs_its_number_of_sites():
    with pytest.raises(ValueError, match="sites"):
        StratumConfig(path="any.gpkg")


def test_sites_that_touch_no_land_are_dropped_and_one_on_the_shore_stays(tmp_path):
    land = regions(tmp_path / "land.geojson", [WEST], ["x"])
    sites, refused = drawn(land=land, spacing_m=0)
    everything, _ = drawn(spacing_m=0)
    assert {site.site_id for site in sites} == {
        site.site_id for site in everything if site.window.footprint().intersects(box(*WEST))
    }
    assert refused[WATER] == len(everything) - len(sites) > 0
    assert any(not box(*WEST).contains(site.window.footprint()) for site in sites)


def points(sites, *, periods=(YEAR,), jitter=0.0):
    lonlat = [(lon + jitter, lat) for lon, lat in map(centre, sites) for _ in periods]
    valid = [(period.start_ms, period.end_ms) for _ in sites for period in periods]
    return TextPoints(np.array(lonlat), np.array(valid, np.int64))


def test_places_with_texts_are_drawn_before_all_others_in_both_zones():
    everything, _ = drawn(spacing_m=0)
    chosen = everything[::9]
    assert {site.window.epsg for site in chosen} == {32631, 32632}
    sites, _ = drawn(sites=len(chosen), spacing_m=0, texts=points(chosen), periods=[YEAR])
    assert [site.site_id for site in sites] == [site.site_id for site in chosen]
    without, _ = drawn(sites=len(chosen), spacing_m=0, texts=points(chosen), periods=[YEAR], texts_first=False)
    assert without == drawn(sites=len(chosen), spacing_m=0)[0] != sites


def test_texts_outside_all_periods_or_all_windows_count_for_nothing():
    everything, _ = drawn(spacing_m=0)
    windows = [site.window for site in everything]
    texts = points(everything[:3], periods=[YEARS[0], YEARS[1], YEARS[1]])
    counts = texts.counts(windows, YEARS)
    assert counts[:3].tolist() == [[1, 2, 0, 0]] * 3 and not counts[3:].any()
    far = TextPoints(np.array([[5.0, 10.0]]), np.array([[0, 1 << 60]]))
    assert not far.counts(windows, YEARS).any()


def test_counting_agrees_with_looking_up_every_pixel():
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(BBOX[0], BBOX[2], 200), rng.uniform(BBOX[1], BBOX[3], 200)], axis=1)
    texts = TextPoints(lonlat, np.tile([YEAR.start_ms, YEAR.end_ms], (200, 1)))
    windows = [site.window for site in drawn(spacing_m=0)[0]]
    direct = []
    for window in windows:
        x, y = transformer(WGS84, window.epsg).transform(*lonlat.T)
        pixels = [window.pixel(*point) for point in zip(x, y, strict=True)]
        direct.append(sum(0 <= row < 64 and 0 <= col < 64 for row, col in pixels))
    assert texts.counts(windows, [YEAR])[:, 0].tolist() == direct and sum(direct) > 150


def test_a_point_found_by_two_searches_counts_once():
    texts = points(drawn()[0][:4])
    assert len(texts.joined(texts).lonlat) == 4


class Catalog:
    """Addresses are opened as they are."""

    def signer(self, href):
        return href


def text_scene(href):
    asset = Asset(str(href), "texts")
    return Scene("text", "t", "here", "texts", 0, (0, 1), box(*BBOX), {"texts": asset}, {})


def test_a_file_of_texts_that_is_gone_costs_a_warning_and_one_that_may_come_back_ends_it(tmp_path, caplog, monkeypatch):
    times = {"text": ["a"], "start_ms": [YEAR.start_ms], "end_ms": [YEAR.end_ms], "uncertainty_m": [5.0]}
    gpd.GeoDataFrame(times, geometry=gpd.points_from_xy([6.0], [49.95]), crs=WGS84).to_parquet(tmp_path / "t.parquet")
    here = TextPoints.read([text_scene(tmp_path / "t.parquet")], {"here": Catalog()}, box(*BBOX))
    assert here.lonlat.tolist() == [[6.0, 49.95]] and here.valid_ms.tolist() == [[YEAR.start_ms, YEAR.end_ms]]
    beside = TextPoints.read([text_scene(tmp_path / "t.parquet")], {"here": Catalog()}, box(0, 0, 1, 1))
    assert beside.lonlat.shape == beside.valid_ms.shape == (0, 2)
    gone = TextPoints.read([text_scene(tmp_path / "gone.parquet")], {"here": Catalog()}, box(*BBOX))
    assert not len(gone.lonlat) and "texts of t are left out (missing" in caplog.text

    def down(*_):
        return Failure(FailureKind.TRANSIENT, "connection failed")

    monkeypatch.setattr("pipelines.stages.strata.texts_within", down)
    with pytest.raises(ConfigError, match=r"sources.text: t cannot be read \(transient: .*plan.texts_first: false"):
        TextPoints.read([text_scene("http://x/t.parquet")], {"here": Catalog()}, box(*BBOX))


def test_a_training_site_gets_so_many_periods_those_with_texts_first_and_a_test_site_all():
    everything, _ = drawn(spacing_m=0)
    texts = points(everything[:5], periods=[YEARS[2], YEARS[3]])
    sites, _ = drawn(spacing_m=0, texts=texts, periods=YEARS, periods_per_site=2, test_area=EAST)
    by_id = {site.site_id: site for site in sites}
    written = {site.site_id for site in everything[:5]} & set(by_id)
    assert written
    for site_id in written:
        assert by_id[site_id].periods == ("2022", "2023")
    train = [site for site in sites if site.split == "train"]
    test = [site for site in sites if site.split == "test"]
    assert {len(site.periods) for site in train} == {2} and {site.periods for site in test} == {()}
    assert len({site.periods for site in train}) == 6  # every pair is drawn somewhere
    assert count_sequences(sites, YEARS) == 2 * len(train) + 4 * len(test)
    assert frame_to_sites(sites_to_frame(sites)) == sites


def test_periods_that_overlap_are_never_drawn_together():
    rolling = [Period.from_iso(f"2021-{month:02d}-01", f"2022-{month:02d}-01") for month in range(1, 13)] + YEARS[2:]
    for seed in range(50):
        labels = choose_periods(rolling, np.zeros(len(rolling)), 3, seed)
        chosen = [period for period in rolling if period.label in labels]
        assert not any(a.intersects(b) for a in chosen for b in chosen if a is not b) and chosen


def world(codes, names):
    configured = config()
    sources = sources_of(configured)
    legend = dict(enumerate(names, 1))
    sources["landcover"] = with_classes(sources["landcover"], legend)
    frame = raster(sources["landcover"], [5], (4, 4))
    frame.values[:] = np.array(codes, np.uint8).reshape(4, 4)
    window = drawn()[0][0].window
    return Sequence("q", window, YEAR, "train", {"landcover": frame}), sources


@pytest.mark.parametrize(
    ("codes", "is_water"),
    [
        ([1] * 16, True),
        ([1] * 15 + [2], False),
        ([1] * 8 + [0] * 8, True),
        ([1] * 7 + [0] * 9, False),
        ([3] * 16, False),
        ([0] * 16, False),
    ],
)
def test_open_water_is_what_a_map_of_half_of_the_place_or_more_calls_water_all_over(codes, is_water):
    sequence, sources = world(codes, ["Permanent water bodies", "trees", "Watermelons"])
    assert is_open_water(sequence, sources) == is_water
