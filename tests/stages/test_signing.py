"""Signers live as long as their process: what they learnt and what was opened with them serves every part."""

from __future__ import annotations

import json
import pickle

from pipelines.coregister.climate import read_climate
from pipelines.grid import format_time
from pipelines.stages.signing import signers
from tests.coregister.files import window
from tests.coregister.served import serve
from tests.coregister.test_climate import ERA5, YEAR, by_name, hourly, scene, write
from tests.stages.worlds import config

BLOB = "https://account.blob.core.windows.net/container/a.tif"


def configured(**catalogs):
    any_of = {"catalog": "one", "collections": ["any"]}
    images = {**any_of, "catalog": "images", "bands": ["red"]}
    given = {"images": {"kind": "static", "url": "/none"}, "unused": {"kind": "static", "url": "/none"}, **catalogs}
    return config(catalogs=given, sources={"sentinel2": images, "era5": any_of})


def bucket(endpoint: str):
    return {"kind": "earth_search", "url": "", "options": {"s3_endpoint": endpoint, "page_items": 10}}


def test_equal_settings_give_the_same_signers_and_others_give_others():
    first, again = signers(configured(one=bucket("a.example"))), signers(configured(one=bucket("a.example")))
    assert first.keys() == {"images", "one"}
    assert all(again[name] is signer for name, signer in first.items())
    turned = {**bucket("a.example"), "options": {"page_items": 10, "s3_endpoint": "a.example"}}
    assert signers(configured(one=turned))["one"] is first["one"]
    other = signers(configured(one=bucket("b.example")))
    assert other["one"] is not first["one"] and other["one"].endpoint == "b.example"
    assert other["images"] is first["images"]


def test_parts_ask_for_one_token_which_stays_in_the_process(monkeypatch):
    asked = []

    def answer(url):
        asked.append(url)
        return 200, {}, json.dumps({"token": "sig=very-secret", "msft:expiry": format_time(4_000_000_000_000)})

    for part in range(3):
        signer = signers(configured(one={"kind": "planetary_computer", "url": "https://pc.example/stac"}))["one"]
        if part == 0:
            monkeypatch.setattr(signer, "transport", answer)
        assert signer(BLOB) == f"{BLOB}?sig=very-secret"
    assert len(asked) == 1
    monkeypatch.undo()
    assert b"very-secret" not in pickle.dumps(signer)
    assert not pickle.loads(pickle.dumps(signer))._tokens


def test_a_store_is_opened_once_for_all_parts(tmp_path):
    write(hourly(), tmp_path / "a.zarr")
    with serve(tmp_path) as server:
        store = {"kind": "zarr", "url": f"{server.url}/a.zarr"}
        there = [scene(f"{server.url}/a.zarr", catalog="one")]
        first, failures = read_climate(there, window(), YEAR, ERA5, signers(configured(one=store)))
        asked = list(server.requests)
        # The next part lies 8 km to the north: another cell of the same chunks.
        second, more = read_climate(there, window(0, -800), YEAR, ERA5, signers(configured(one=store)))
        assert server.requests == asked and sum(one.endswith("/.zmetadata") for one in asked) == 1
    assert failures == more == []
    assert by_name(first)["temperature_2m_min"][0] == 33_100 and by_name(second)["temperature_2m_min"][0] == 23_100
