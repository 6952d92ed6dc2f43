"""Archives that limit how many connections one account may have."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.catalogs import reads_at_once
from pipelines.config import ConfigError
from pipelines.coregister.read import read_block
from pipelines.grid import DAY_MS, Period
from pipelines.sources import source
from pipelines.stages.limits import check_readers, threads_by_source
from tests.coregister.files import DAY, LEFT, TOP, noise, scene_of, window, write_raster
from tests.coregister.served import serve
from tests.stages.worlds import config

CDSE = {"kind": "cdse", "url": "https://stac.dataspace.copernicus.eu/v1", "options": {}}


def limited(options=None, threads=6):
    """A configuration whose Sentinel-2 is CDSE's."""
    made = config(ingest={"text_encoder": None, "threads": threads})
    part = made.catalogs[made.sources["sentinel2"].catalog].model_copy(update={**CDSE, "options": options or {}})
    mine = made.sources["sentinel2"].model_copy(update={"catalog": "cdse"})
    return made.model_copy(
        update={"catalogs": {**made.catalogs, "cdse": part}, "sources": {**made.sources, "sentinel2": mine}}
    )


@pytest.mark.parametrize(("readers", "threads"), [(1, 4), (2, 2), (3, 1), (4, 1)])
def test_readers_share_the_connections_of_an_account(readers, threads):
    found = threads_by_source(limited(), readers)
    assert found.pop("sentinel2") == threads and found and set(found.values()) == {6}
    check_readers(limited(), "ingest.workers", readers)


def test_a_limit_is_the_providers_or_ones_own():
    assert threads_by_source(limited({"reads": 20}), 2)["sentinel2"] == 6
    assert threads_by_source(limited({"reads": 2}), 2)["sentinel2"] == 1
    assert reads_at_once("geoparquet", {"signer": "cdse"}) == 4
    assert reads_at_once("earth_search", {}) is None


def test_more_readers_than_connections_are_refused():
    with pytest.raises(ConfigError, match=r"ingest.workers: 5 readers are more than the 4 .* catalog cdse"):
        check_readers(limited(), "ingest.workers", 5)


@pytest.mark.parametrize(("engine", "most"), [("cog", 1), ("cog", 3), ("rasterio", 1)])
def test_no_more_files_are_read_at_once_than_a_source_may(tmp_path: Path, engine, most):
    lock, now, seen = threading.Lock(), [], []

    def busy(path: str, before: int) -> None:
        with lock:
            now.append(path)
            seen.append(len(now))
        time.sleep(0.05)
        with lock:
            now.remove(path)

    images = [write_raster(tmp_path / f"{n}.tif", noise((64, 64), n), LEFT, TOP, 10) for n in range(6)]
    with serve(tmp_path, busy) as server:
        scenes = []
        for n, path in enumerate(images):
            here = scene_of("sentinel2", f"S{n}", {"red": path}, time_ms=DAY + n * DAY_MS)
            there = replace(here.assets["red"], href=f"{server.url}/{path.name}")
            scenes.append(replace(here, assets={"red": there}))
        block = read_block(
            {"sentinel2": scenes},
            window(),
            Period(DAY, DAY + 6 * DAY_MS),
            [source("sentinel2", ["red"])],
            engine=engine,
            threads={"sentinel2": most},
        )
    assert len(block.rasters["sentinel2"].time_ms) == 6 and block.failures == []
    assert max(seen) == most
