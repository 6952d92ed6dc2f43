"""Which scenes a plan holds."""

import json
from io import BytesIO
from pathlib import Path

import geopandas as gpd
import pytest
from shapely import Point, box

from pipelines.cli import main
from pipelines.config import ConfigError, load_config
from pipelines.grid import Period
from pipelines.stages.plan import with_margin
from pipelines.stages.planned import Plan
from tests.catalogs import static_world
from tests.stages.worlds import config


@pytest.fixture
def planned(tmp_path, capsys):
    """The plan of an area over a static catalog, and the catalog's folder."""
    catalog = static_world.write(tmp_path / "catalog")

    def _planned(bbox, collections=("optical",)):
        path = tmp_path / "region.yaml"
        tree = {
            "root": str(tmp_path / "root"),
            "area": {"bbox": bbox},
            "periods": [["2020-01-01", "2021-01-01"]],
            "catalogs": {"here": {"kind": "static", "url": str(catalog)}},
            "sources": {"sentinel2": {"catalog": "here", "collections": list(collections)}},
            "plan": {"tile_px": 64, "site_px": 32},
            "ingest": {"text_encoder": None},
        }
        path.write_text(json.dumps(tree))
        assert main(["plan", "--config", str(path)]) == 0, capsys.readouterr().err
        return Plan.load(load_config(str(path), []))

    return _planned, catalog


@pytest.mark.parametrize(("east", "expected"), [(10.95, {"scene-0"}), (10.998, {"scene-0", "scene-1"})])
def test_ground_beyond_the_area_that_a_tile_reaches_is_searched_too(planned, east: float, expected: set[str]):
    """One scene ends at 10.5 degrees, the next begins at 11: 140 m beyond the area, where its last tile is."""
    plan = planned[0]([10.49, 50.0, east, 50.03])
    assert {scene.scene_id for scene in plan.scenes_of("sentinel2")} == expected


def test_two_collections_may_use_one_id(planned):
    plan_of, catalog = planned
    items = [json.loads(path.read_text()) for path in sorted((catalog / "optical").rglob("scene-*.json"))]
    for item in items:
        item["collection"] = "again"
    static_world._collection(catalog, "again", items)
    root = json.loads((catalog / "catalog.json").read_text())
    root["links"].append({"rel": "child", "href": "./again/collection.json"})
    (catalog / "catalog.json").write_text(json.dumps(root))
    plan = plan_of([10.0, 50.0, 10.05, 50.03], ("optical", "again"))
    found = plan.scenes_of("sentinel2")
    assert [(scene.scene_id, scene.collection) for scene in found] == [("scene-0", "again"), ("scene-0", "optical")]
    (site, *_) = plan.sites()
    assert len(plan.scenes(site.window, Period.calendar_year(2020))["sentinel2"]) == 2


def test_ground_beyond_180_degrees_is_searched_on_its_other_side(tmp_path):
    searched = with_margin(box(179.9, -17.0, 180, -16.9), config(tmp_path))
    assert searched.bounds[0] == -180 and searched.bounds[2] == 180
    assert searched.contains(Point(-179.999, -16.95)) and not searched.contains(Point(0, -16.95))


def another_table():
    sink = BytesIO()
    gpd.GeoDataFrame({"scene_id": ["a"]}, geometry=[box(10, 50, 10.1, 50.1)], crs="EPSG:4326").to_parquet(
        sink, write_covering_bbox=True
    )
    return sink.getvalue()


@pytest.mark.parametrize(
    "content", [b"garbage" * 100, b"", None, another_table()], ids=["garbage", "empty", "gone", "another"]
)
@pytest.mark.parametrize("table", ["scenes/*/*.parquet", "sites.parquet", "tiles.parquet"])
def test_a_damaged_table_of_the_plan_is_named_with_the_remedy(planned, table: str, content: bytes | None):
    plan_of, _ = planned
    plan = plan_of([10.02, 50.02, 10.05, 50.04])
    (named,) = (Path(plan.storage.root) / "plan").glob(table)
    named.unlink()
    if content is not None:
        named.write_bytes(content)
    uses = {
        "scenes/*/*.parquet": (
            lambda: plan.scenes(plan.tiles()[0].window, Period.calendar_year(2020)),
            lambda: plan.scenes_of("sentinel2"),
        ),
        "sites.parquet": (plan.sites,),
        "tiles.parquet": (plan.tiles,),
    }
    for use in uses[table]:
        with pytest.raises(ConfigError) as error:
            use()
        assert str(error.value) == f"root: {named} is missing or damaged; run `aef plan --refresh`"
