"""The STAC API of the sandbox's server: every search parameter, by GET and by POST, on a catalog known by heart."""

from __future__ import annotations

import json

import httpx
import pytest
from pystac_client import Client
from starlette.testclient import TestClient

from pipelines.sandbox.server import ServerError, create_app, running_server
from tests.catalogs import static_world

OPTICAL = ["scene-0", "scene-1", "scene-2", "scene-3"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return static_world.write(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def api(catalog):
    with TestClient(create_app(catalog)) as client:
        yield client


def ask(api, method: str, **parameters) -> dict:
    parameters = {"limit": 100, **parameters}
    if method == "POST":
        answer = api.post("/search", json=parameters)
    else:
        answer = api.get("/search", params={name: as_text(value) for name, value in parameters.items()})
    assert answer.status_code == 200, answer.text
    return answer.json()


def as_text(value):
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else value


def ids(page: dict) -> list[str]:
    return sorted(item["id"] for item in page["features"])


POINT = {"type": "Point", "coordinates": [11.2, 50.2]}
SEARCHES = [
    ({"collections": ["weather"]}, ["weather-2020"]),
    ({"collections": ["weather", "optical"], "ids": ["scene-1", "weather-2020"]}, ["scene-1", "weather-2020"]),
    ({"collections": ["optical"], "bbox": [10.9, 50.1, 12.1, 50.2]}, ["empty", "scene-1", "scene-2"]),
    ({"bbox": [12.9, 50.1, 0, 13.1, 50.2, 9]}, ["scene-3", "weather-2020"]),
    ({"bbox": [13.4, 50.1, -170, 50.2]}, ["scene-3", "weather-2020"]),  # across the antimeridian
    ({"intersects": POINT, "collections": ["optical"]}, ["empty", "scene-1"]),
    ({"datetime": "2020-02-20T10:30:00.500Z", "collections": ["optical"]}, ["scene-2"]),
    ({"datetime": "2020-02-15T10:30:00Z/2020-02-20T10:30:00.499Z"}, ["empty", "scene-1", "weather-2020"]),
    ({"datetime": "2020-05-01T00:00:00Z/.."}, ["scene-3", "weather-2020"]),
    ({"datetime": "../2020-01-14T00:00:00Z"}, ["weather-2020"]),
    ({"datetime": "2021-01-01T00:00:00Z/2021-02-01T00:00:00Z"}, []),
    ({"query": {"eo:cloud_cover": {"gte": 40, "lt": 60}}}, ["scene-2"]),
    ({"query": {"eo:cloud_cover": {"in": [0, 60]}}}, ["nowhere", "scene-0", "scene-3"]),
]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("parameters", "expected"), SEARCHES)
def test_search_finds_exactly_what_matches(api, method, parameters, expected):
    page = ask(api, method, **parameters)
    assert ids(page) == expected
    assert page["numberMatched"] == page["numberReturned"] == len(expected)


TEXT = "eo:cloud_cover > 10 AND collection = 'optical' AND S_INTERSECTS(geometry, POINT(12.1 50.1))"
CQL2 = {
    "op": "and",
    "args": [
        {"op": ">", "args": [{"property": "eo:cloud_cover"}, 10]},
        {"op": "=", "args": [{"property": "collection"}, "optical"]},
        {"op": "s_intersects", "args": [{"property": "geometry"}, {"type": "Point", "coordinates": [12.1, 50.1]}]},
    ],
}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("expression", "language"), [(TEXT, "cql2-text"), (CQL2, "cql2-json")])
def test_cql2_in_both_languages(api, method, expression, language):
    assert ids(ask(api, method, **{"filter": expression, "filter-lang": language})) == ["scene-2"]


def test_a_filter_on_a_property_that_an_item_lacks_does_not_match_it(api):
    assert ids(ask(api, "POST", **{"filter": {"op": "<", "args": [{"property": "eo:cloud_cover"}, 5]}})) == [
        "nowhere",
        "scene-0",
    ]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_sorting(api, method):
    order = "-properties.eo:cloud_cover" if method == "GET" else [{"field": "eo:cloud_cover", "direction": "desc"}]
    page = ask(api, method, ids=OPTICAL, sortby=order)
    assert [item["id"] for item in page["features"]] == OPTICAL[::-1]


def test_without_an_order_the_newest_comes_first(api):
    assert [item["id"] for item in ask(api, "GET", ids=OPTICAL)["features"]] == OPTICAL[::-1]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_fields(api, method):
    fields = "id,properties.datetime" if method == "GET" else {"include": ["id", "properties.datetime"], "exclude": []}
    item = ask(api, method, ids=["scene-0"], fields=fields)["features"][0]
    assert item["properties"] == {"datetime": static_world.MONTHS[0]}
    assert "assets" not in item
    fields = (
        "-assets,-properties.eo:cloud_cover"
        if method == "GET"
        else {"exclude": ["assets", "properties.eo:cloud_cover"]}
    )
    item = ask(api, method, ids=["scene-0"], fields=fields)["features"][0]
    assert (
        "assets" not in item and "eo:cloud_cover" not in item["properties"] and item["properties"]["proj:epsg"] == 32632
    )


@pytest.mark.parametrize(
    "request_",
    [
        {"params": {"bbox": "1,2"}},
        {"params": {"datetime": "yesterday"}},
        {"params": {"intersects": "{no"}},
        {"params": {"token": "prev:9"}},
        {"params": {"filter": "eo:cloud_cover <"}},
        {"params": {"query": "{"}},
        {"params": {"query": '{"a": {"like": 1}}'}},
    ],
)
def test_a_bad_query_is_the_askers_fault(api, request_):
    assert api.get("/search", **request_).status_code == 400


def test_collections_items_and_landing_page(api):
    assert {c["id"] for c in api.get("/collections").json()["collections"]} == {"optical", "weather"}
    item = api.get("/collections/optical/items/scene-0").json()
    assert item["links"][0]["href"] == "http://testserver/collections/optical/items/scene-0"
    assert item["assets"]["blue"]["href"] == "http://testserver/assets/optical/scene-0/B02.tif"
    assert api.get("/collections/optical/items/none").status_code == 404
    assert api.get("/collections/none/items").status_code == 404
    assert "eo:cloud_cover" in api.get("/collections/optical/queryables").json()["properties"]
    assert ids(api.get("/collections/optical/items", params={"datetime": "2020-06-01T00:00:00Z/.."}).json()) == [
        "scene-3"
    ]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_pystac_client_pages_through_a_server_in_another_process(catalog, method):
    with running_server(catalog) as url:
        search = Client.open(url).search(method=method, collections=["optical"], limit=2, sortby="+id")
        pages = list(search.pages_as_dicts())
        assert [len(page["features"]) for page in pages] == [2, 2, 2]
        assert [item["id"] for page in pages for item in page["features"]] == sorted([*OPTICAL, "empty", "nowhere"])
        assert search.matched() == 6
    with pytest.raises(httpx.TransportError):
        httpx.get(url)  # it ended with the block


def test_a_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(ServerError, match=r"no STAC catalog at .*catalog.json"), running_server(tmp_path):
        pass
    (tmp_path / "catalog.json").write_text('{"id": "x", "links": [{"rel": "child", "href": "./gone.json"}]}')
    with pytest.raises(ValueError, match=r"gone.json: cannot be read"):
        create_app(tmp_path)


def test_a_taken_port_is_reported(catalog):
    with running_server(catalog) as url, pytest.raises(ServerError, match=r"cannot listen on .*choose another port"):
        with running_server(catalog, port=int(url.rsplit(":", 1)[1])):
            pass
