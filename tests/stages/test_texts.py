"""Which texts are encoded: those that some sequence of the plan will hold."""

import geopandas as gpd
from shapely import Point, box

from pipelines.coregister.texts import read_texts
from pipelines.grid import WGS84, Period, Site, Window
from pipelines.scenes import Asset, Scene
from pipelines.sources import source
from pipelines.stages.texts import in_heaps, texts_of_sites

YEARS = [Period.calendar_year(2020), Period.calendar_year(2022)]
PLACES = [Window(32631, 400_000 + 10_000 * k, 5_600_000, 64, 64) for k in range(2)]
SITES = [Site.at(window, "train") for window in PLACES]


def scene_of(path):
    return Scene("text", path.stem, "here", "texts", 0, (0, 2**60), box(-9, 0, 9, 60), {"t": Asset(str(path), "t")})


def write(path, rows):
    texts, points, starts, ends = zip(*rows, strict=True)
    columns = {"text": texts, "start_ms": starts, "end_ms": ends, "uncertainty_m": 5.0}
    gpd.GeoDataFrame(columns, geometry=list(points), crs=WGS84).to_parquet(path)
    return scene_of(path)


def test_what_lies_at_no_site_or_holds_in_no_period_is_not_encoded(tmp_path):
    here, there = (window.footprint().centroid for window in PLACES)
    first, second = YEARS
    known = write(
        tmp_path / "a.parquet",
        [
            ("at the first", here, first.start_ms - 5, first.start_ms + 1),
            ("at the second", there, second.start_ms, second.end_ms),
            ("between them", Point((here.x + there.x) / 2, here.y), first.start_ms, first.end_ms),
            ("elsewhere", Point(-100, -40), first.start_ms, first.end_ms),
            ("in the year between", here, first.end_ms, second.start_ms),
        ],
    )
    gone = scene_of(tmp_path / "gone.parquet")
    (found,) = texts_of_sites([known, gone], SITES, YEARS)
    assert sorted(found) == ["at the first", "at the second"]


def test_every_text_that_a_site_holds_is_encoded_to_its_outermost_pixels(tmp_path):
    """A site is read on its own and as part of a block, whose outline in degrees bends otherwise."""
    year = YEARS[0]
    for window in (Window(32631, 170_000, 9_000_000, 64, 64), Window(32731, 830_000, 2_000_000, 64, 64)):
        left, bottom, right, top = window.bounds_m
        edges = [(x, y) for x in (left + 0.01, right - 0.01) for y in (bottom + 0.01, top - 0.01)]
        points = gpd.GeoSeries([Point(edge) for edge in edges], crs=window.epsg).to_crs(WGS84)
        rows = [(f"corner {k}", point, year.start_ms, year.end_ms) for k, point in enumerate(points)]
        scene = write(tmp_path / f"{window.epsg}.parquet", rows)
        block = Window(window.epsg, window.left_m - 20_000, window.top_m + 20_000, 4096, 4096)
        held, failures = read_texts([scene], block, year, source("text"))
        assert failures == [] and held is not None and len(held.text) == 4
        (found,) = texts_of_sites([scene], [Site.at(window, "train")], [year])
        assert sorted(found) == sorted(held.text)


def test_texts_are_encoded_in_heaps_of_whole_files_and_not_all_at_once():
    asked = []

    def files():
        for texts in (["a", "b"], [], ["c"], ["d", "e", "f", "g"], ["h"]):
            asked.append(texts)
            yield texts

    heaps = in_heaps(files(), 3)
    assert next(heaps) == ["a", "b", "c"]
    assert len(asked) == 3  # what comes after is not read yet
    assert list(heaps) == [["d", "e", "f", "g"], ["h"]]
