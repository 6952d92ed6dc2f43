"""stac-geoparquet: the items that were written come back, whatever the writer, and only what is asked for is read."""

from __future__ import annotations

import json
import os
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shapely import box, from_wkb, to_wkb, to_wkt
from shapely.geometry import mapping, shape

from pipelines import patience
from pipelines.catalogs import CatalogError, open_catalog
from pipelines.catalogs.sign import PlanetaryComputerSigner, Unsigned
from pipelines.catalogs.snapshot_rows import item_of
from pipelines.grid import Period
from pipelines.sources import source
from tests.catalogs import static_world
from tests.coregister.served import serve
from tests.stages.running import free_port

EVERYWHERE = box(-180, -90, 180, 90)
YEAR = Period.calendar_year(2020)
OPTICAL = source("sentinel2", ["blue"])
TIMES = ("datetime", "start_datetime", "end_datetime")


def write_snapshot(items: list[dict], path: Path) -> Path:
    """Items as the stac-geoparquet specification 1.0 lays them out; written independently of the reader."""
    rows = []
    for item in items:
        row = {name: item[name] for name in ("type", "stac_version", "id", "collection", "links", "assets")}
        outline = shape(item["geometry"]) if item["geometry"] else None
        row["geometry"] = to_wkb(outline) if outline else None
        names = ("xmin", "ymin", "xmax", "ymax")
        row["bbox"] = dict(zip(names, outline.bounds, strict=True)) if outline else None
        for name, value in item["properties"].items():
            moment = name in TIMES and value
            row[name] = datetime.fromisoformat(value.replace("Z", "+00:00")).astimezone(UTC) if moment else value
        rows.append(row)
    keys = sorted({key for row in rows for key in row})
    table = pa.Table.from_pylist([{key: row.get(key) for key in keys} for row in rows])
    for name in set(TIMES) & set(table.column_names):
        index = table.column_names.index(name)
        table = table.set_column(index, name, table[name].cast(pa.timestamp("us", "UTC")))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = static_world.write(tmp_path_factory.mktemp("world"))
    out = tmp_path_factory.mktemp("snapshot")
    items = {}
    for name in ("optical", "weather"):
        items[name] = [json.loads(path.read_text()) for path in sorted((folder / name / "items").glob("*.json"))]
        for item in items[name]:
            for asset in item["assets"].values():
                asset["href"] = asset["href"].replace("../../..", str(folder.parent))
        write_snapshot(items[name], out / name / "part-0.parquet")
    write_snapshot([*items["optical"], *items["weather"]], out / "all.parquet")
    return folder, out


def key(scene):
    return scene.scene_id, scene.time_ms, scene.valid_ms, sorted(scene.assets), scene.facts


@pytest.mark.parametrize("url", ["{collection}", "{collection}/part-0.parquet", "all.parquet"])
@pytest.mark.parametrize(
    ("name", "area", "period"),
    [
        ("optical", EVERYWHERE, YEAR),
        ("optical", EVERYWHERE, None),
        ("optical", box(11.1, 50.1, 12.1, 50.2), YEAR),
        ("optical", EVERYWHERE, Period.from_iso("2020-02-15T10:30:00Z", "2020-02-20T10:30:00.500Z")),
        ("optical", box(0, 0, 1, 1), YEAR),
        ("weather", box(10, 50, 11, 50.1), Period.from_iso("2019-06-01", "2021-06-01")),
    ],
)
def test_a_snapshot_gives_the_scenes_of_the_catalog_that_it_was_made_from(world, url, name, area, period):
    folder, out = world
    wanted = OPTICAL if name == "optical" else source("era5")
    told = open_catalog("cat", "static", str(folder)).search(wanted, [name], area, period)
    found = open_catalog("cat", "geoparquet", f"{out}/{url}").search(wanted, [name], area, period)
    assert [key(scene) for scene in found] == [key(scene) for scene in told]
    assert [scene.footprint.equals(other.footprint) for scene, other in zip(found, told, strict=True)].count(False) == 0
    asset, other = (next((s.assets[b] for s in result for b in s.assets), None) for result in (found, told))
    assert (asset is None) == (other is None)
    if asset is not None:
        assert os.path.samefile(asset.href, other.href)
        assert (asset.dtype, asset.nodata, asset.scale, asset.offset, asset.epsg, asset.transform, asset.extra) == (
            (other.dtype, other.nodata, other.scale, other.offset, other.epsg, other.transform, other.extra)
        )
    for reason, count in found.refused.items():
        assert told.refused[reason] == count


def test_a_row_without_what_other_items_have_is_the_item_without_it():
    item = item_of(
        {
            "id": "a",
            "collection": "c",
            "geometry": to_wkb(box(0, 0, 1, 1)),
            "bbox": {"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1},
            "datetime": datetime(2020, 5, 1, 10, 0, 0, 250_000),
            "eo:cloud_cover": None,
            "proj:code": "EPSG:32631",
            "assets": {"red": {"href": "/r.tif", "nodata": 0, "proj:shape": [3, 4]}, "scl": None},
        }
    )
    assert item["properties"] == {"datetime": "2020-05-01T10:00:00.250Z", "proj:code": "EPSG:32631"}
    assert item["assets"] == {"red": {"href": "/r.tif", "nodata": 0, "proj:shape": [3, 4]}}
    assert shape(item["geometry"]).bounds == (0, 0, 1, 1)


@pytest.mark.parametrize("lacking", ["first", "second"])
def test_every_file_of_a_snapshot_is_read_by_its_own_columns(world, tmp_path, lacking):
    """Writers of partitions leave out what no item of a file has, and give numbers the type of that file's."""
    folder, _ = world
    items = [json.loads(path.read_text()) for path in sorted((folder / "optical" / "items").glob("*.json"))]
    half = len(items) // 2
    parts = {"first": items[:half], "second": items[half:]}
    for name, part in parts.items():
        for item in part:
            full = name != lacking
            item["properties"] |= {"eo:cloud_cover": 26.5 if full else 26} | (
                {"earthsearch:boa_offset_applied": True} if full else {}
            )
            if full:
                item["assets"]["more"] = {"href": "/more.tif"}
        write_snapshot(part, tmp_path / "all" / f"{name}.parquet")
        write_snapshot(part, tmp_path / name / "part.parquet")

    def scenes(part):
        found = open_catalog("cat", "geoparquet", str(tmp_path / part)).search(OPTICAL, ["optical"], EVERYWHERE, None)
        return {
            (key(scene)[:3], *((a.scale, a.offset) for a in scene.assets.values()), str(scene.facts)) for scene in found
        }

    assert scenes("all") == scenes("first") | scenes("second")
    assert scenes("first") and scenes("second")


def test_assets_may_be_a_map(world, tmp_path):
    """As writers do that keep items of several collections in one file."""
    _, out = world
    table = pq.read_table(out / "optical/part-0.parquet")
    index = table.column_names.index("assets")
    kind = table.schema.field("assets").type
    fields = pa.unify_schemas([pa.schema(list(part.type)) for part in kind], promote_options="permissive")
    rows = [[pair for pair in row.items() if pair[1]] for row in table["assets"].to_pylist()]
    maps = pa.array(rows, pa.map_(pa.string(), pa.struct(list(fields))))
    pq.write_table(table.set_column(index, "assets", maps), tmp_path / "maps.parquet")
    told, found = (
        open_catalog("cat", "geoparquet", str(path)).search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
        for path in (out / "optical", tmp_path / "maps.parquet")
    )
    assert [key(scene) for scene in found] == [key(scene) for scene in told] != []


def rewritten(world, path, change):
    """The optical snapshot's rows, each changed, as a file of another writer."""
    rows = pq.read_table(world[1] / "optical/part-0.parquet").to_pylist()
    for row in rows:
        change(row)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def nested_in_text(row):
    properties = {name: row.pop(name) for name in list(row) if ":" in name or name in (*TIMES, "platform")}
    row["properties"] = json.dumps(
        {name: item_of({name: value})["properties"].get(name) for name, value in properties.items()}
    )


def as_json(column):
    return lambda row: row.update({column: json.dumps(item_of({column: row[column]})[column])})


def as_geometry(write):
    return lambda row: row.update(geometry=write(from_wkb(row["geometry"])) if row["geometry"] else None)


OTHER_WRITERS = {
    "properties": nested_in_text,
    "assets": as_json("assets"),
    "assets in bytes": lambda row: row.update(assets=json.dumps(item_of(row)["assets"]).encode()),
    "links": as_json("links"),
    "WKT": as_geometry(to_wkt),
    "hex WKB": as_geometry(lambda outline: to_wkb(outline, hex=True)),
    "GeoJSON text": as_geometry(lambda outline: json.dumps(mapping(outline))),
    "GeoJSON": as_geometry(mapping),
}


@pytest.mark.parametrize("writer", OTHER_WRITERS)
def test_what_other_writers_keep_as_text_is_understood(world, tmp_path, writer):
    path = rewritten(world, tmp_path / "other.parquet", OTHER_WRITERS[writer])
    found, told = (
        open_catalog("cat", "geoparquet", str(url)).search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
        for url in (path, world[1] / "optical")
    )
    assert [key(scene) for scene in found] == [key(scene) for scene in told] != []
    for scene, other in zip(found, told, strict=True):
        assert scene.footprint.equals_exact(other.footprint, 1e-6)
    assert found.refused == told.refused


@pytest.mark.parametrize(
    ("column", "value", "of_type"),
    [
        ("geometry", [[{"x": 1.0, "y": 2.0}]], "list<element: list<element: struct<x: double, y: double>>>"),
        ("geometry", {"x": 1.0, "y": 2.0}, "struct<x: double, y: double>"),
        ("geometry", 7, "int64"),
        ("assets", [1.5], "list<element: double>"),
        ("properties", True, "bool"),
        ("links", 3, "int64"),
    ],
)
def test_a_column_of_another_type_is_one_line_with_file_column_and_type(world, tmp_path, column, value, of_type):
    path = rewritten(world, tmp_path / "other.parquet", lambda row: row.update({column: value}))
    with pytest.raises(CatalogError) as error:
        searched(path)
    said = str(error.value)
    assert said.startswith(f"catalog cat: {path}: column {column} of {path} is of type {of_type}, not ")
    assert (
        said.endswith("; write the file with such a column, or give another in catalogs.cat.url") and "\n" not in said
    )


@pytest.mark.parametrize(
    ("column", "value", "wanted"),
    [
        ("geometry", "u0nd9h", "WKB, hex WKB, WKT or GeoJSON"),
        ("geometry", "00ff", "WKB, hex WKB, WKT or GeoJSON"),
        ("geometry", "{'type': 'Point'}", "WKB, hex WKB, WKT or GeoJSON"),
        ("geometry", b"\x01\x02", "WKB, hex WKB, WKT or GeoJSON"),
        ("geometry", b"\xff", "WKB, hex WKB, WKT or GeoJSON"),
        ("assets", "{'red': 1}", "JSON"),
        ("assets", "[]", "a JSON object"),
        ("properties", "3", "a JSON object"),
        ("links", "{}", "a JSON array"),
    ],
)
def test_one_value_that_is_not_understood_costs_its_item_and_names_the_column(world, tmp_path, column, value, wanted):
    def change(row):
        if row["id"] == first:
            row[column] = value
        elif isinstance(value, str):
            row[column] = {"geometry": to_wkt(box(10, 50, 11, 51)), "links": "[]"}.get(
                column, json.dumps(item_of(row)["assets"]) if column == "assets" else "{}"
            )

    first = searched(str(world[1] / "optical"))[0][0]
    path = rewritten(world, tmp_path / "other.parquet", change)
    found = open_catalog("cat", "geoparquet", path).search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
    reason = f"the item is malformed (its column {column} holds text or bytes that are not {wanted})"
    assert found.refused_items[reason] == [first]
    assert len(found.scenes) > 1


@pytest.mark.parametrize("column", ["absent", "null"])
def test_rows_that_name_no_collection_are_of_the_one_that_is_asked_for_and_refused_where_there_are_two(
    world, tmp_path, column
):
    _, out = world
    table = pq.read_table(out / "optical/part-0.parquet")
    index = table.column_names.index("collection")
    bare = table.remove_column(index)
    if column == "null":
        bare = bare.append_column("collection", pa.nulls(len(bare), pa.string()))
    pq.write_table(bare, tmp_path / "optical.parquet")
    told = open_catalog("cat", "geoparquet", f"{out}/optical").search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
    one = open_catalog("cat", "geoparquet", f"{tmp_path}/optical.parquet")
    found = one.search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
    assert [key(scene) for scene in found] == [key(scene) for scene in told] != []
    assert {scene.collection for scene in found} == {"optical"}
    with pytest.raises(CatalogError, match="names no collection, and optical and other are looked for there"):
        one.search(OPTICAL, ["optical", "other"], EVERYWHERE, YEAR)
    pq.write_table(bare, tmp_path / "other.parquet")
    each = open_catalog("cat", "geoparquet", f"{tmp_path}/{{collection}}.parquet")
    both = each.search(OPTICAL, ["optical", "other"], EVERYWHERE, YEAR)
    assert {scene.collection for scene in both} == {"optical", "other"}


def test_assets_are_signed_as_those_of_the_catalog_that_the_items_are_of(world):
    _, out = world
    assert isinstance(open_catalog("cat", "geoparquet", str(out)).signer, Unsigned)
    signed = open_catalog("cat", "geoparquet", str(out), signer="planetary_computer")
    assert isinstance(signed.signer, PlanetaryComputerSigner)
    assert pickle.loads(pickle.dumps(signed)).url == signed.url


def test_what_is_no_snapshot_is_one_clear_line(world, tmp_path):
    (tmp_path / "a.parquet").write_text("no parquet")
    for url in (tmp_path / "a.parquet", tmp_path / "absent.parquet"):
        with pytest.raises(CatalogError, match=r"catalogs\.cat\.url") as error:
            open_catalog("cat", "geoparquet", str(url)).search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
        assert "\n" not in str(error.value) and str(url) in str(error.value)
    for options, said in (({"signer": "nobody"}, "'nobody'"), ({"page_items": 3}, "unknown 'page_items'")):
        with pytest.raises(ValueError, match=said):
            open_catalog("cat", "geoparquet", str(tmp_path), **options)
    with pytest.raises(ValueError, match="give the file or folder"):
        open_catalog("cat", "geoparquet", "")


def searched(url, **options):
    found = open_catalog("cat", "geoparquet", url, **options).search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
    return [key(scene) for scene in found]


@pytest.mark.parametrize("fault", [503, (429, "0"), 404, "truncate"])
def test_a_server_that_fails_for_a_moment_costs_no_scene(world, fault, monkeypatch):
    monkeypatch.setattr(patience, "wait_s", lambda *_: 0.0)
    folder = world[1] / "optical"
    expected = searched(f"{folder}/part-0.parquet")
    with serve(folder) as server:
        assert searched(f"{server.url}/part-0.parquet") == expected and expected
        sound = len(server.requests)
    for nth in range(sound):
        with serve(folder, lambda path, seen, nth=nth: fault if seen == nth else None) as server:
            assert searched(f"{server.url}/part-0.parquet") == expected, nth


def test_a_server_that_stays_away_is_told_with_the_query_and_its_own_words(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "wait_s", lambda *_: 0.0)
    for status, asked in ((503, 4), (404, 2), (403, 1)):
        with serve(tmp_path, lambda path, seen, status=status: status) as server:
            with pytest.raises(CatalogError, match=f"HTTP response code: {status}") as error:
                searched(f"{server.url}/all.parquet")
            assert "collections ['optical'], 2020-01-01" in str(error.value) and "bounds (-180" in str(error.value)
            assert sum(request.startswith("GET") for request in server.requests) >= asked
    with pytest.raises(CatalogError, match=r"catalogs\.cat\.url"):
        searched(f"http://127.0.0.1:{free_port()}/all.parquet")
