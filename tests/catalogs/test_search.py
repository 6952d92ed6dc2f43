"""Searching the same small catalog as a static folder and through a STAC API that misbehaves."""

from __future__ import annotations

import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest
from shapely import Polygon, box, point_on_surface

from pipelines.catalogs import CatalogError, open_catalog
from pipelines.catalogs.base import SceneSearch, time_windows
from pipelines.catalogs.items import collect
from pipelines.grid import Period
from pipelines.sandbox.faults import uniform
from pipelines.sandbox.process import running_server, served, set_faults
from pipelines.sources import source
from tests.catalogs import static_world
from tests.coregister.served import serve

EVERYWHERE = box(-180, -90, 180, 90)
YEAR = Period.calendar_year(2020)
JANUARY = Period.from_iso("2020-01-01", "2020-02-01")
OPTICAL = source("sentinel2", ["blue"])
REFUSED = {"the item has no geometry": 1, "no asset of the item holds a band of sentinel2": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return static_world.write(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def server(folder):
    with running_server(folder) as url:
        yield url


@pytest.fixture
def quiet(server):
    set_faults(server, {})
    yield server
    set_faults(server, {})


@pytest.fixture(params=["static", "static file", "sandbox", "earth_search"])
def catalog(request, folder, server):
    if request.param == "static":
        return open_catalog("cat", "static", str(folder))
    if request.param == "static file":
        return open_catalog("cat", "static", str(folder / "catalog.json"))
    return open_catalog("cat", request.param, server)


def ids(found) -> list[str]:
    return [scene.scene_id for scene in found]


def test_every_item_is_a_scene_or_is_refused_with_its_reason(catalog):
    found = catalog.search(OPTICAL, ["optical"], EVERYWHERE, None)
    assert ids(found) == ["scene-0", "scene-1", "scene-2", "scene-3"]
    assert found.refused_items["no asset of the item holds a band of sentinel2"] == ["empty"]
    if catalog.kind == "static":  # an API never returns an item without geometry for an area
        assert found.refused == REFUSED


def test_area_and_period(catalog):
    assert ids(catalog.search(OPTICAL, ["optical"], box(11.1, 50.1, 12.1, 50.2), YEAR)) == ["scene-1", "scene-2"]
    february = Period.from_iso("2020-02-01", "2020-03-01")
    assert ids(catalog.search(OPTICAL, ["optical"], EVERYWHERE, february)) == ["scene-1", "scene-2"]
    until = Period.from_iso("2020-02-15T10:30:00Z", "2020-02-20T10:30:00.500Z")
    assert ids(catalog.search(OPTICAL, ["optical"], EVERYWHERE, until)) == ["scene-1"]
    assert ids(catalog.search(OPTICAL, ["optical"], box(0, 0, 1, 1), YEAR)) == []


def test_a_collection_that_is_not_there_is_told_beside_one_that_is(catalog):
    found = catalog.search(OPTICAL, ["optical", "opticle"], box(11.1, 50.1, 12.1, 50.2), YEAR)
    assert ids(found) == ["scene-1", "scene-2"]
    assert found.refused_items["the catalog has no such collection"] == ["opticle"]
    nothing = catalog.search(OPTICAL, ["optical"], box(0, 0, 1, 1), YEAR)
    assert ids(nothing) == [] and "the catalog has no such collection" not in nothing.refused


def test_an_item_found_twice_with_other_links_is_one(folder):
    item = json.loads(next((folder / "optical").rglob("scene-1.json")).read_text())
    found = SceneSearch()
    again = {**item, "links": [{"rel": "next", "href": "https://x"}]}
    changed = {**item, "properties": {**item["properties"], "datetime": "2020-07-01T00:00:00Z"}}
    collect(found, [(item, None), (again, None), (changed, None)], OPTICAL, "cat", EVERYWHERE, None)
    assert ids(found) == ["scene-1"]
    assert found.refused == {"another item of the collection has the same id": 1}


def test_an_outline_too_long_to_send_still_decides(catalog):
    around = point_on_surface(box(10, 50, 13.5, 50.5)).buffer(2, quad_segs=400)
    hole = box(11, 50, 12.6, 50.6).buffer(0.01)
    found = catalog.search(OPTICAL, ["optical"], Polygon(around.exterior, [hole.exterior]), YEAR)
    assert ids(found) == ["scene-0", "scene-3"]


def test_an_interval_that_spans_many_windows_is_found_once(catalog):
    found = catalog.search(
        source("era5"), ["weather"], box(10, 50, 11, 50.1), Period.from_iso("2019-06-01", "2021-06-01")
    )
    assert ids(found) == ["weather-2020"]
    assert Period(*found.scenes[0].valid_ms) == YEAR
    assert found.scenes[0].assets["store"].href.endswith("assets/weather/a.zarr")


def test_hrefs_can_be_opened(catalog):
    import rasterio

    scene = catalog.search(OPTICAL, ["optical"], EVERYWHERE, YEAR).scenes[2]
    assert scene.catalog == "cat" and scene.collection == "optical"
    with rasterio.open(catalog.signer(scene.assets["blue"].href)) as file:
        assert (file.read(1) == static_world.PIXELS + 2).all()


def test_catalogs_travel_to_other_processes(catalog):
    catalog.search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
    again = pickle.loads(pickle.dumps(catalog))
    assert ids(again.search(OPTICAL, ["optical"], EVERYWHERE, YEAR)) == ["scene-0", "scene-1", "scene-2", "scene-3"]


def test_windows_cut_a_period_at_months_without_gap_or_overlap():
    period = Period.from_iso("2019-12-15", "2020-03-02T12:00:00Z")
    windows = list(time_windows(period))
    assert [window.datetime_range[:10] for window in windows] == [
        "2019-12-15",
        "2020-01-01",
        "2020-02-01",
        "2020-03-01",
    ]
    assert windows[0].start_ms == period.start_ms and windows[-1].end_ms == period.end_ms
    assert all(a.end_ms == b.start_ms for a, b in pairwise(windows))


def test_a_page_that_is_too_large_is_asked_for_in_halves(quiet):
    set_faults(quiet, {"too_large": {"limit": 30}})
    catalog = open_catalog("cat", "sandbox", quiet)
    assert len(catalog.search(OPTICAL, ["optical"], EVERYWHERE, Period.from_iso("2020-02-01", "2020-03-01"))) == 2
    assert served(quiet)["struck"]["too_large"] == 2  # 100, 50, then 25


@pytest.mark.parametrize("fault", ["429", "503"])
def test_a_busy_server_is_asked_again(quiet, fault):
    catalog = open_catalog("cat", "sandbox", quiet)
    set_faults(quiet, {fault: {"probability": 0.5, "seconds": 0.01}, "seed": 11})
    assert ids(catalog.search(OPTICAL, ["optical"], EVERYWHERE, YEAR)) == ["scene-0", "scene-1", "scene-2", "scene-3"]
    assert sum(served(quiet)["struck"].values()) > 0


def test_an_answer_cut_short_is_asked_for_again(quiet):
    catalog = open_catalog("cat", "sandbox", quiet, attempts=8)
    settings = {"probability": 0.5, "path": "/search"}
    set_faults(quiet, {"truncated": settings, "seed": first_struck_seed("truncated")})
    assert ids(catalog.search(OPTICAL, ["optical"], EVERYWHERE, JANUARY)) == ["scene-0"]
    assert served(quiet)["struck"]["truncated"] == 1


def test_requests_at_once_are_limited_over_all_catalogs_of_a_process(quiet):
    catalogs = [open_catalog(f"cat{i}", "sandbox", quiet, concurrent=1) for i in range(4)]
    for catalog in catalogs:
        catalog.search(OPTICAL, ["optical"], EVERYWHERE, None)  # the landing pages are read
    set_faults(quiet, {"latency": {"seconds": 0.2, "path": "/search"}})
    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda catalog: catalog.search(OPTICAL, ["optical"], EVERYWHERE, None), catalogs))
    assert [len(one) for one in found] == [4, 4, 4, 4]
    assert time.monotonic() - start >= 4 * 0.2


def test_retry_after_is_honoured(quiet):
    catalog = open_catalog("cat", "sandbox", quiet)
    catalog.search(OPTICAL, ["optical"], EVERYWHERE, None)  # the landing page is read
    set_faults(
        quiet, {"429": {"seconds": 1.0, "probability": 0.5, "path": "/search"}, "seed": first_struck_seed("throttled")}
    )
    start = time.monotonic()
    catalog.search(OPTICAL, ["optical"], EVERYWHERE, JANUARY)
    assert served(quiet)["struck"]["throttled"] == 1
    assert time.monotonic() - start >= 1.0


def first_struck_seed(fault: str) -> int:
    """A seed with which the first search is struck and the second is not."""
    draws = ((seed, [uniform(seed, fault, "/search POST ", turn) < 0.5 for turn in (0, 1)]) for seed in range(50))
    return next(seed for seed, struck in draws if struck == [True, False])


def test_a_server_that_stays_busy_ends_in_one_line_that_names_the_query(quiet):
    catalog = open_catalog("cat", "sandbox", quiet, attempts=2)
    set_faults(quiet, {"503": {"path": "/search"}})
    with pytest.raises(CatalogError) as error:
        catalog.search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
    said = str(error.value)
    assert "\n" not in said
    for part in (
        "catalog cat",
        f"POST {quiet}/search",
        "optical",
        "2020-01-01",
        "HTTP 503",
        "2 times",
        "catalogs.cat.url",
    ):
        assert part in said


def test_403_is_a_throttle_for_earth_search_only(quiet):
    set_faults(quiet, {"expired": {"path": "/search"}})
    for kind, attempts in (("earth_search", 3), ("sandbox", 1)):
        set_faults(quiet, {"expired": {"path": "/search"}})
        with pytest.raises(CatalogError, match="HTTP 403"):
            open_catalog("cat", kind, quiet, attempts=3).search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
        assert served(quiet)["struck"]["expired"] == attempts


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/stac", "http://no-such-host.invalid"])
def test_an_unreachable_catalog_is_one_clear_line(url):
    with pytest.raises(ConnectionError) as error:
        open_catalog("cat", "earth_search", url, attempts=1).search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
    assert "\n" not in str(error.value) and url in str(error.value) and "cannot be reached" in str(error.value)


def test_an_address_that_is_no_stac_api(quiet):
    with pytest.raises(CatalogError, match="does not answer as a STAC API"):
        open_catalog("cat", "sandbox", f"{quiet}/_mgmt/ping").search(OPTICAL, ["optical"], EVERYWHERE, YEAR)


def test_a_static_catalog_that_is_not_there(tmp_path):
    with pytest.raises(CatalogError, match=r"cannot read .*catalog\.json"):
        open_catalog("cat", "static", str(tmp_path)).search(OPTICAL, ["optical"], EVERYWHERE, YEAR)


def served_world(tmp_path, spoil):
    return serve(static_world.write(tmp_path), spoil)


def test_a_static_catalog_over_http_has_patience_and_counts_what_is_gone(tmp_path):
    def spoil(path, seen):
        if path.endswith("scene-1.json"):
            return 404
        return (503, "0") if seen == 0 else None

    with served_world(tmp_path, spoil) as server:
        (tmp_path / "stac" / "optical" / "items" / "scene-2.json").write_text("<html>")
        found = open_catalog("cat", "static", f"{server.url}/catalog.json").search(
            OPTICAL, ["optical"], EVERYWHERE, YEAR
        )
        assert ids(found) == ["scene-0", "scene-3"]
        gone = found.refused_items["the item's file is missing or no JSON"]
        assert [href.rsplit("/", 1)[1] for href in gone] == ["scene-1.json", "scene-2.json"]
        assert sum(request.endswith("scene-1.json") for request in server.requests) == 2


def test_a_server_that_is_down_ends_the_search_of_a_static_catalog(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.patience.FIRST_WAIT_S", 0.0)
    with served_world(tmp_path, lambda path, seen: (503, "0") if path.endswith("scene-1.json") else None) as server:
        catalog = open_catalog("cat", "static", f"{server.url}/catalog.json")
        with pytest.raises(CatalogError, match=r"cannot read http.*scene-1\.json .*503"):
            catalog.search(OPTICAL, ["optical"], EVERYWHERE, YEAR)


def test_items_of_a_catalog_without_collections_go_by_its_id(tmp_path):
    folder = static_world.write(tmp_path)
    path = folder / "optical" / "collection.json"
    node = json.loads(path.read_text())
    path.write_text(json.dumps({**node, "type": "Catalog"}))
    found = open_catalog("cat", "static", str(folder)).search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
    assert ids(found) == ["scene-0", "scene-1", "scene-2", "scene-3"]


def test_links_in_circles_and_to_nowhere_are_followed_once(tmp_path):
    folder = static_world.write(tmp_path)
    root = folder / "catalog.json"
    node = json.loads(root.read_text())
    node["links"] += [{"rel": "child", "href": "./catalog.json"}, {"rel": "child"}, None]
    node["links"] += [{"rel": "child", "href": "./gone/catalog.json"}, {"rel": "child", "href": "./round.json"}]
    root.write_text(json.dumps(node))
    back = [{"rel": "child", "href": "./catalog.json"}, {"rel": "child", "href": "./optical/collection.json"}]
    (folder / "round.json").write_text(json.dumps({"type": "Catalog", "links": back}))
    (folder / "optical" / "items" / "scene-1.json").rename(folder / "optical" / "items" / "scene 1.json")
    path = folder / "optical" / "collection.json"
    path.write_text(path.read_text().replace("scene-1.json", "scene%201.json"))
    found = open_catalog("cat", "static", str(folder)).search(OPTICAL, ["optical", "tpyo"], EVERYWHERE, YEAR)
    assert ids(found) == ["scene-0", "scene-1", "scene-2", "scene-3"]
    assert found.refused_items["the catalog has no such collection"] == ["tpyo"]
    (gone,) = found.refused_items["a catalog below it is missing or no JSON"]
    assert gone.endswith("gone/catalog.json")


def test_no_item_of_a_static_catalog_is_lost_without_a_word(tmp_path):
    folder = static_world.write(tmp_path)
    for index, geometry in enumerate(
        (
            {"type": "Polygon", "coordinates": []},
            {"type": "GeometryCollection", "geometries": []},
            {"type": "Polygon", "coordinates": [[[179, 50], [-179, 50], [-179, 51], [179, 51], [179, 50]]]},
        )
    ):
        path = folder / "optical" / "items" / f"scene-{index}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "geometry": geometry}))
    path = folder / "optical" / "items" / "scene-3.json"
    twin = {**json.loads(path.read_text()), "properties": {"datetime": "2020-07-01T00:00:00Z"}}
    (folder / "optical" / "items" / "twin.json").write_text(json.dumps(twin))
    path = folder / "optical" / "collection.json"
    node = json.loads(path.read_text())
    path.write_text(json.dumps({**node, "links": [*node["links"], {"rel": "item", "href": "./items/twin.json"}]}))
    catalog = open_catalog("cat", "static", str(folder))
    east, west = (catalog.search(OPTICAL, ["optical"], box(x, 50, x + 0.5, 50.5), YEAR) for x in (179.2, -179.5))
    assert ids(east) == ids(west) == ["scene-2"]
    assert ids(catalog.search(OPTICAL, ["optical"], box(0, 50, 1, 51), YEAR)) == []
    found = catalog.search(OPTICAL, ["optical"], EVERYWHERE, YEAR)
    assert ids(found) == ["scene-2", "scene-3"]
    assert found.refused_items["the item's geometry is empty"] == ["scene-0", "scene-1"]
    assert found.refused_items["another item of the collection has the same id"] == ["scene-3"]


def test_assets_of_a_static_catalog_are_signed_as_it_is_told(folder):
    catalog = open_catalog("cat", "static", str(folder), signer="planetary_computer")
    assert catalog.signer.token_url("https://acc.blob.core.windows.net/box/a.tif").endswith("/acc/box")


@pytest.mark.parametrize(
    ("kind", "url", "options", "message"),
    [
        ("stac", "http://x", {}, "'stac' is not one of earth_search"),
        ("static", "", {}, "give the folder"),
        ("static", "/x", {"page_items": 3}, "unknown 'page_items'"),
        ("earth_search", "", {"token": "secret"}, "options.token: holds a credential"),
    ],
)
def test_bad_settings_name_their_key(kind, url, options, message):
    with pytest.raises(ValueError, match=message) as error:
        open_catalog("cat", kind, url, **options)
    assert "catalogs.cat." in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize("text", ["[1]", '"catalog"', "<html>", ""])
def test_a_static_catalog_that_is_something_else(tmp_path, text):
    (tmp_path / "catalog.json").write_text(text)
    catalog = open_catalog("here", "static", str(tmp_path))
    with pytest.raises(
        CatalogError, match=r"catalog here: cannot read .*catalog\.json \(.*; check catalogs\.here\.url"
    ):
        catalog.search(source("sentinel2"), ["optical"], box(0, 0, 1, 1), None)


@pytest.mark.parametrize("answer", ["[1]", "3", "null", "<html>", '{"type": "Catalog"}'])
def test_a_web_address_that_answers_something_else(answer):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_):
            """Nothing to say."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        catalog = open_catalog("here", "sandbox", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(CatalogError, match=r"does not answer as a STAC API .*; check catalogs\.here\.url"):
            catalog.search(source("sentinel2"), ["optical"], box(0, 0, 1, 1), None)
        server.shutdown()
