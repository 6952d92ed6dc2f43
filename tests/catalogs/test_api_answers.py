"""What an API may answer that no specification foresees: each time one clear line, or the rest of the search."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from shapely import box

from pipelines.catalogs import CatalogError, open_catalog
from pipelines.grid import Period
from pipelines.sources import source

JANUARY = Period.from_iso("2020-01-01", "2020-02-01")
AREA = box(9, 49, 12, 51)
ITEM = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "sound",
    "collection": "optical",
    "geometry": {"type": "Polygon", "coordinates": [[[10, 50], [11, 50], [11, 51], [10, 50]]]},
    "bbox": [10, 50, 11, 51],
    "properties": {"datetime": "2020-01-15T10:00:00Z", "proj:epsg": 32632, "s2:processing_baseline": "02.14"},
    "assets": {"blue": {"href": "https://example.com/B02.tif"}},
    "links": [],
}


@contextmanager
def api(search, collection: tuple[int, bytes] = (404, b"{}")):
    """An API whose searches are answered by a function of the number of earlier ones: a status, and JSON."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            base = f"http://127.0.0.1:{self.server.server_address[1]}"
            if "/collections/" in self.path:
                self.give(*collection)
            elif self.path.startswith("/search"):
                self.search(base)
            else:
                core = "https://api.stacspec.org/v1.0.0/"
                links = [{"rel": "self", "href": f"{base}/"}, {"rel": "root", "href": f"{base}/"}]
                links.append({"rel": "search", "href": f"{base}/search", "type": "application/geo+json"})
                landing = {"type": "Catalog", "stac_version": "1.0.0", "id": "odd", "description": "odd"}
                conforms = [f"{core}core", f"{core}item-search"]
                self.give(200, json.dumps({**landing, "links": links, "conformsTo": conforms}).encode())

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.search(f"http://127.0.0.1:{self.server.server_address[1]}")

        def search(self, base):
            asked.append(self.path)
            status, answer = search(len(asked) - 1, base)
            self.give(status, json.dumps({"type": "FeatureCollection", "links": [], **answer}).encode())

        def give(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def found_at(url: str, **options):
    return open_catalog("odd", "sandbox", url, **options).search(
        source("sentinel2", ["blue"]), ["optical"], AREA, JANUARY
    )


@pytest.mark.parametrize("odd", [None, "text", {**ITEM, "id": ["a"]}, {**ITEM, "collection": {"a": 1}, "geometry": 5}])
def test_an_odd_item_is_counted_and_the_others_are_found(odd):
    with api(lambda n, base: (200, {"features": [odd, ITEM]})) as (url, _):
        found = found_at(url)
    assert "sound" in [scene.scene_id for scene in found.scenes]
    assert len(found.scenes) + found.refused.total() == 2


@pytest.mark.parametrize("answer", [{"features": 5}, {"features": None}, {}])
def test_an_answer_without_items_names_the_query(answer):
    with (
        api(lambda n, base: (200, answer)) as (url, _),
        pytest.raises(CatalogError, match=r"catalog odd: search of .* no list of features"),
    ):
        found_at(url)


def test_pages_without_items_do_not_end_a_search_that_goes_on():
    """Some servers filter after they have cut their pages."""

    def answers(n, base):
        more = {"links": [{"rel": "next", "href": f"{base}/search?page={n + 1}"}]}
        return 200, {"features": [ITEM] if n == 3 else [], **(more if n < 4 else {})}

    with api(answers) as (url, asked):
        assert [scene.scene_id for scene in found_at(url).scenes] == ["sound"]
        assert len(asked) == 5


def test_pages_without_items_that_never_end_are_an_error(monkeypatch):
    monkeypatch.setattr("pipelines.catalogs.stac_io.EMPTY_PAGES", 5)
    link = {"rel": "next"}
    with (
        api(lambda n, base: (200, {"features": [], "links": [{**link, "href": f"{base}/search?{n}"}]})) as (url, asked),
        pytest.raises(CatalogError, match=r"catalog odd: search of .* failed: .*6 empty pages in a row"),
    ):
        found_at(url)
    assert len(asked) == 6


@pytest.mark.parametrize("answer", [{"numberMatched": 12}, {"numberMatched": "12"}, {"context": {"matched": 12}}])
def test_a_search_that_ends_before_all_that_matches_came_is_told(answer, caplog):
    with api(lambda n, base: (200, {"features": [ITEM], **answer})) as (url, _):
        assert [scene.scene_id for scene in found_at(url).scenes] == ["sound"]
    (told,) = [record.getMessage() for record in caplog.records if "came" in record.getMessage()]
    assert "catalog odd: of 12 items that match collections ['optical']" in told and "1 came" in told
    assert "plan.search_cell_deg" in told


def test_what_the_first_page_alone_says_of_all_is_remembered(caplog):
    def search(n, base):
        more = {"links": [{"rel": "next", "href": f"{base}/search", "method": "POST", "body": {"token": "b"}}]}
        return 200, {"features": [{**ITEM, "id": f"item {n}"}], **({"numberMatched": 12, **more} if n == 0 else {})}

    with api(search) as (url, _):
        assert len(found_at(url).scenes) == 2
    assert "of 12 items" in caplog.text and "2 came" in caplog.text


@pytest.mark.parametrize("answer", [{}, {"numberMatched": 1}, {"numberMatched": None}, {"numberMatched": 0}])
def test_a_search_that_gives_all_says_nothing(answer, caplog):
    with api(lambda n, base: (200, {"features": [ITEM], **answer})) as (url, _):
        found_at(url)
    assert "came" not in caplog.text


def test_pages_that_lead_to_themselves_end_the_search():
    def search(n, base):
        link = {"rel": "next", "href": f"{base}/search", "method": "POST", "body": {"token": "again"}}
        return 200, {"features": [ITEM], "links": [link]}

    with api(search) as (url, asked), pytest.raises(CatalogError, match="its pages repeat without end"):
        found_at(url)
    assert len(asked) == 2


def test_a_gateway_that_gives_up_on_a_page_of_one_is_asked_again(monkeypatch):
    monkeypatch.setattr("pipelines.catalogs.api.time.sleep", lambda seconds: None)
    with api(lambda n, base: (502, {}) if n < 4 else (200, {"features": [ITEM]})) as (url, asked):
        assert len(found_at(url, page_items=2)) == 1
    assert len(asked) == 5
    with api(lambda n, base: (502, {})) as (url, asked), pytest.raises(CatalogError, match="down to pages of one item"):
        found_at(url, page_items=2, attempts=3)
    assert len(asked) == 4


@pytest.mark.parametrize(("answer", "told"), [((404, b"{}"), 1), ((200, b"<html>"), 0), ((200, b"{}"), 0)])
def test_whether_there_is_a_collection_is_told_by_the_status_alone(answer, told: int):
    with api(lambda n, base: (200, {"features": []}), answer) as (url, _):
        assert found_at(url).refused.total() == told
