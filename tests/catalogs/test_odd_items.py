"""Items and settings that make no sense cost themselves and nothing else."""

from __future__ import annotations

import json

import pytest
from shapely import box

from pipelines.catalogs import normalise, open_catalog
from pipelines.catalogs.credentials import unsigned, without_credentials
from pipelines.catalogs.stores import stores
from pipelines.sources import source
from tests.catalogs import static_world

EVERYWHERE = box(-180, -90, 180, 90)
SECRET = "hunter2"


def change_item(folder, name: str, change) -> None:
    (path,) = folder.rglob(f"{name}.json")
    item = json.loads(path.read_text())
    change(item)
    path.write_text(json.dumps(item))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda item: item["properties"].update({"s2:generation_time": "soon"}), "a fact of the item makes no sense"),
        (lambda item: item.update(geometry={"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}), "malformed"),
        (lambda item: item.update(geometry={"type": "Polygon"}), "malformed"),
        (lambda item: item["properties"].update({"view:sun_elevation": []}), None),
    ],
)
def test_an_odd_item_is_refused_with_its_reason_and_the_others_are_found(tmp_path, change, reason):
    folder = static_world.write(tmp_path)
    change_item(folder, "scene-1", change)
    found = open_catalog("cat", "static", str(folder)).search(
        source("sentinel2", ["blue"]), ["optical"], EVERYWHERE, None
    )
    kept = {scene.scene_id for scene in found}
    assert {"scene-0", "scene-2", "scene-3"} <= kept
    if reason is None:  # a fact that Sentinel-2 has no use for
        assert "scene-1" in kept
        return
    assert "scene-1" not in kept
    (why,) = [said for said, names in found.refused_items.items() if names == ["scene-1"]]
    assert reason in why


@pytest.mark.parametrize(
    ("kind", "url", "options", "where"),
    [
        ("zarr", f"https://me:{SECRET}@host/x.zarr", {}, "catalogs.era.url"),
        ("static", f"https://{SECRET}@host/catalog.json", {}, "catalogs.era.url"),
        ("zarr", "https://host/x.zarr", {"open_kwargs": {"storage_options": {"headers": {"Authorization": SECRET}}}},
         "catalogs.era.options.open_kwargs.storage_options.headers.Authorization"),
        ("zarr", "s3://b/x.zarr", {"open_kwargs": {"storage_options": {"key": "me", "secret": SECRET}}},
         "catalogs.era.options.open_kwargs.storage_options."),
        ("zarr", "gs://b/x.zarr", {"open_kwargs": {"storage_options": {"token": SECRET}}},
         "catalogs.era.options.open_kwargs.storage_options.token"),
        ("static", f"https://host/catalog.json?sv=1&sig={SECRET}", {}, "catalogs.era.url"),
        ("zarr", f"https://host/x.zarr?X-Amz-Signature={SECRET}", {}, "catalogs.era.url"),
        ("earth_search", "", {"query": {"all": [{"api_key": SECRET}]}}, "catalogs.era.options.query.all.0.api_key"),
        ("geoparquet", "abfs://b/x.parquet", {"storage_options": {"account_key": SECRET}},
         "catalogs.era.options.storage_options.account_key"),
        ("zarr", "s3://b/x.zarr", {"open_kwargs": {"storage_options": {"aws_session_token": SECRET}}},
         "catalogs.era.options.open_kwargs.storage_options.aws_session_token"),
        ("zarr", f"s3://AKIA:{SECRET}@b/x.zarr", {}, "catalogs.era.url"),
        ("zarr", f"https://host/x.zarr?subscription-key={SECRET}", {}, "catalogs.era.url"),
    ],
)  # fmt: skip
def test_credentials_in_a_catalogs_settings_are_refused_by_key_and_not_repeated(kind, url, options, where):
    with pytest.raises(ValueError) as refusal:
        open_catalog("era", kind, url, **options)
    said = str(refusal.value)
    assert where in said and ".netrc" in said and SECRET not in said and "\n" not in said


@pytest.mark.parametrize("name", ["subscription-key", "access_key", "key", "password", "auth", "jwt", "sig", "token"])
def test_an_address_keeps_nothing_that_opens_it(name: str):
    assert unsigned(f"https://host/a.tif?{name}={SECRET}") == "https://host/a.tif"
    assert unsigned(f"s3://AKIA:{SECRET}@b/a.tif?version=2") == "s3://b/a.tif?version=2"
    assert unsigned("abfs://container@account/a?keyframe=2") == "abfs://container@account/a?keyframe=2"


def test_options_keep_nothing_that_opens_anything_however_deep():
    options = {"a": [{"refresh_token": SECRET, "b": 1}], "headers": {"X-Api-Token": SECRET}, "pwd": SECRET, "c": [1, 2]}
    assert without_credentials(options) == {"a": [{"b": 1}], "headers": {}, "c": [1, 2]}


def test_what_is_no_credential_passes():
    options = {"open_kwargs": {"storage_options": {"token": "anon", "client_kwargs": {"trust_env": True}}}}
    assert open_catalog("era", "zarr", "gs://bucket/x.zarr", **options).kind == "zarr"


def test_a_static_catalog_on_an_object_store_is_refused_before_it_is_asked():
    with pytest.raises(ValueError, match=r"catalogs\.cat\.url: 's3://b/catalog\.json' is no folder and no web address"):
        open_catalog("cat", "static", "s3://b/catalog.json")


@pytest.mark.parametrize("accumulated", [True, False, None])
def test_what_is_said_of_precipitation_travels_with_the_store(accumulated):
    options = {} if accumulated is None else {"accumulated": accumulated}
    catalog = open_catalog("era", "zarr", "https://host/x.zarr", **options)
    (scene,) = catalog.search(source("era5"), ["any"], EVERYWHERE, None)
    assert scene.assets["store"].extra.get("accumulated") is accumulated


def test_whether_precipitation_adds_up_is_yes_or_no():
    with pytest.raises(ValueError, match=r"catalogs\.era\.options\.accumulated: must be true or false"):
        open_catalog("era", "zarr", "https://host/x.zarr", accumulated="since midnight")


def test_what_an_item_says_of_access_is_not_kept():
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "a", "collection": "c", "links": [],
        "geometry": {"type": "Point", "coordinates": [3, 50]},
        "properties": {"datetime": "2020-01-01T00:00:00Z", "s2:processing_baseline": "02.14"},
        "assets": {
            "red": {"href": f"https://acc.blob.core.windows.net/box/red.tif?sv=1&sig={SECRET}"},
            "blue": {"href": f"https://me:{SECRET}@host/blue.tif?version=2"},
            "zarr": {
                "href": "abfs://box/a.zarr", "type": "application/vnd+zarr",
                "xarray:open_kwargs": {"storage_options": {"headers": {"Authorization": SECRET}}},
                "xarray:storage_options": {"account_name": "acc", "account_key": SECRET, "sas_token": SECRET},
            },
        },
    }  # fmt: skip
    optical = normalise(item, source("sentinel2", ["red", "blue"]), "cat")
    assert optical.assets["red"].href == "https://acc.blob.core.windows.net/box/red.tif"
    assert optical.assets["blue"].href == "https://host/blue.tif?version=2"
    (store,) = normalise(item, source("era5"), "cat").assets.values()
    assert store.href == "https://acc.blob.core.windows.net/box/a.zarr"
    assert SECRET not in repr(optical) + repr(store)


def test_no_store_of_an_item_is_taken_for_another():
    def stores_of(**hrefs):
        assets = {key: {"href": href, "type": "application/vnd+zarr"} for key, href in hrefs.items()}
        return set(stores({}, assets, source("era5"), None))

    assert stores_of(a="https://h/t2m/2020/data.zarr", b="https://h/tp/2020/data.zarr") == {"a", "b"}
    assert stores_of(t2m="https://h/1.zarr", precipitation="https://h/2.zarr", all="https://h/3.zarr") == {
        "t2m", "precipitation", "all",
    }  # fmt: skip
    assert stores_of(t2m="https://h/1.zarr", tp="https://h/2.zarr", u10="https://h/3.zarr") == {"t2m", "tp"}
    assert stores_of(far="s3://b/x/a.zarr", near="https://h/x/a.zarr") == {"store"}
