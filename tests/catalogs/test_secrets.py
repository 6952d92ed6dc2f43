"""What gives access stays in the process: not in a plan, not in a failure, not in a log."""

from __future__ import annotations

import logging
import pickle
from dataclasses import replace

import pytest
from shapely import box

from pipelines.catalogs import open_catalog
from pipelines.coregister import read_window
from pipelines.coregister.engines import ENGINES
from pipelines.grid import Window
from pipelines.sandbox.process import running_server, set_faults
from pipelines.scenes import read_scenes, scenes_to_frame
from pipelines.sources import source
from tests.catalogs import static_world
from tests.coregister.files import LEFT, TOP, noise, scene_of, write_raster
from tests.coregister.served import serve

OPTICAL = source("sentinel2", ["blue"])
SECRET = "sig=very-secret"


def test_a_plan_of_a_catalog_that_signs_holds_plain_addresses(tmp_path):
    """Searched after signing and again after another process would have it: tokens are nowhere in what is kept."""
    with running_server(static_world.write(tmp_path), {"signature": {"seconds": 60.0}}) as url:
        catalog = open_catalog("cat", "sandbox", url, signed=True)
        href = f"{url}/assets/optical/scene-0/B02.tif"
        signed = catalog.signer(href)
        token = signed.removeprefix(f"{href}?")
        assert signed != href and "sig=" in token
        found = catalog.search(OPTICAL, ["optical"], box(-180, -90, 180, 90), None)
        path = tmp_path / "scenes.parquet"
        scenes_to_frame(found).to_parquet(path)
        kept = path.read_bytes() + pickle.dumps(catalog) + repr(list(found)).encode()
        assert len(read_scenes(path)) == 4
        for secret in (token, token.rsplit("sig=", 1)[1], "sig="):
            assert secret.encode() not in kept
        assert all("?" not in asset.href for one in read_scenes(path) for asset in one.assets.values())
        set_faults(url, {})


def signed(href):
    return f"{href}?{SECRET}"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("fault", [403, 404])
def test_a_failed_read_names_the_file_and_not_what_opened_it(tmp_path, engine, fault, caplog, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setattr("pipelines.coregister.fetch.time.sleep", lambda seconds: None)
    path = write_raster(tmp_path / "blue.tif", noise((100, 100), 1), LEFT, TOP, 10)
    with serve(tmp_path, lambda path, seen: fault) as server, caplog.at_level(logging.INFO):
        scene = scene_of("sentinel2", "one", {"blue": path})
        scene.assets["blue"] = replace(scene.assets["blue"], href=f"{server.url}/blue.tif")
        failures: list = []
        box_ = Window(32631, LEFT, TOP, 40, 40)
        read_window([scene], box_, OPTICAL, engine=engine, sign=signed, on_error=failures.append)
        read_window([scene], box_, OPTICAL, engine=engine, sign=signed)
    assert [one.scene_id for one in failures] == ["one"] and failures[0].href == f"{server.url}/blue.tif"
    assert "sentinel2 one not read" in caplog.text
    assert "very-secret" not in caplog.text + repr(failures)
    # GDAL names the address of what was refused; the rest of its words is kept.
    assert engine == "cog" or fault == 404 or f"HTTP response code on {server.url}/blue.tif?... {fault}" in caplog.text
    assert any("very-secret" in request for request in server.requests)
