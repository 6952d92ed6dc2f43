"""Of an acquisition whose best scene is gone from the archive, another scene is read, and the report says so."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.coregister import read_frames
from pipelines.grid import Site
from pipelines.sandbox.process import running_server, set_faults
from pipelines.shards import open_shards
from pipelines.stages import ingest
from pipelines.stages.groups import groups_of
from pipelines.stages.ingest import FAILURES, GroupReader
from pipelines.stages.session import StageResult
from pipelines.stages.sites import sites_to_frame
from pipelines.storage import Storage
from tests.catalogs import static_world
from tests.coregister.files import LEFT, TOP, noise, scene_of, window, write_raster
from tests.stages.worlds import YEAR, config, write_counts

WINDOW = window(0, 0, 32, 32)
SITE = Site.at(WINDOW, "train")
MOMENT = YEAR.start_ms + 100 * 86_400_000
DATATAKE = {"platform": "sentinel-2a", "datatake": "GS2A_20210411T105031_030318"}
PATH = {"platform": "landsat-8", "wrs_path": 199, "sun_elevation": 40}
# Two of each acquisition, the one that wins first: the later processing, the later row.
SCENES = {
    "sentinel2": (
        ("new", 10, {**DATATAKE, "processing_baseline": "05.00"}, 0),
        ("old", 10, {**DATATAKE, "processing_baseline": "03.01"}, 0),
    ),
    "landsat": (("row25", 30, PATH, 24_000), ("row24", 30, PATH, 0)),
}


@pytest.fixture
def archive(tmp_path):
    """A served archive at an address of its own, as files once read are kept by address; and its scenes by source."""
    root = tmp_path / "archive"
    found = {}
    for source, members in SCENES.items():
        items = []
        for seed, (name, step, facts, later_ms) in enumerate(members):
            files = {
                band: write_raster(
                    root / "assets" / source / name / f"{band}.tif", noise((64, 64), 10 * seed + k), LEFT, TOP, step
                )
                for k, band in enumerate(("red", "blue"))
            }
            scene = scene_of(source, name, files, time_ms=MOMENT + later_ms, facts=facts)
            found.setdefault(source, []).append(scene)
            item = static_world._item(name, source, scene.footprint, {"datetime": "2021-04-11T10:50:31Z"})
            item["assets"] = {band: {"href": f"../../../assets/{source}/{name}/{band}.tif"} for band in files}
            items.append(item)
        static_world._collection(root / "stac", source, items)
    links = [{"rel": "child", "href": f"./{name}/collection.json"} for name in SCENES]
    about = {"type": "Catalog", "stac_version": "1.0.0", "id": "archive", "description": "two of each"}
    static_world._write(root / "stac" / "catalog.json", {**about, "links": links})
    with running_server(root / "stac") as url:
        yield url, {source: [_served(scene, root, url) for scene in scenes] for source, scenes in found.items()}


def _served(scene, root, url):
    assets = {band: replace(asset, href=asset.href.replace(str(root), url, 1)) for band, asset in scene.assets.items()}
    return replace(scene, assets=assets)


class Planned:
    def __init__(self, scenes):
        self.found = {scenes[0].source: scenes}

    def scenes(self, _window, _period):
        return self.found


@pytest.fixture
def ingested(archive, tmp_path, monkeypatch):
    """Ingests one site of a source while files are gone: (settings, figures, result)."""
    url, scenes = archive
    monkeypatch.setattr(ingest, "signers", lambda _: None)

    def _ingested(name, gone):
        sources = {name: {"catalog": "here", "collections": ["any"], "bands": ["red", "blue"]}}
        settings = config(
            tmp_path / "root", sources=sources, ingest={"text_encoder": None}, train={"max_frames": {name: 3}}
        )
        set_faults(url, {"missing": {"path": gone}})
        (group,) = groups_of([SITE], [YEAR], settings.ingest.block_px)
        figures = GroupReader(settings, Planned(scenes[name]), None).outcome(group)
        storage = Storage(settings.root)
        write_counts(storage, {"sequences": 2})
        sites_to_frame([SITE]).to_parquet(f"{settings.root}/plan/sites.parquet")
        return settings, figures, storage

    yield _ingested
    set_faults(url, {})


def frames(storage, name):
    shards = open_shards(storage, "shards")
    (sequence,) = shards.read(shards.rows())
    return sequence.rasters[name]


def alone(archive, settings, name, index):
    set_faults(archive[0], {})
    found, failures = read_frames([archive[1][name][index]], WINDOW, settings.source(name))
    assert not failures
    return found


@pytest.mark.parametrize("name", SCENES)
def test_the_next_scene_of_the_acquisition_stands_in_for_one_that_is_gone(archive, ingested, name):
    winner, loser = (member[0] for member in SCENES[name])
    settings, figures, storage = ingested(name, f"/assets/{name}/{winner}/red.tif")
    (failure,) = figures["failures"]
    assert (failure["scene_id"], failure["kind"], failure["fallback"]) == (winner, "missing", loser)
    found = frames_after_booking(settings, storage, figures, name)
    expected = alone(archive, settings, name, 1)
    assert found.scene_ids == (loser,) and expected.weight.any()
    for part in ("values", "weight", "scale", "offset"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))
    assert storage.read_json(FAILURES)[0]["fallback"] == loser
    (row,) = storage.list("shards/train", ".json")
    storage.write_json("shards/train/of_an_earlier_plan-abc.json", storage.read_json(row))
    told = ingest.status_line(settings)
    assert f"1 scenes of {name} not read, missing: {winner}; 1 of them replaced by others of their acquisition" in told
    assert "1 of 2 planned sequences done, 1 left" in told


def frames_after_booking(settings, storage, figures, name):
    result = ingest._book(settings, storage, StageResult("ingest", "sequences", planned=1), [figures])
    assert result.details["scenes_not_read"] == result.details["scenes_replaced"] == 1
    reason = f"scene of {name} not read: missing, others of its acquisition read in its place (see {FAILURES})"
    assert result.reasons[reason] == 1
    return frames(storage, name)


@pytest.mark.parametrize("name", SCENES)
def test_a_sound_archive_gives_the_best_scene(archive, ingested, name):
    settings, figures, storage = ingested(name, "/assets/nothing")
    assert figures["failures"] == []
    ingest._book(settings, storage, StageResult("ingest", "sequences", planned=1), [figures])
    found, expected = frames(storage, name), alone(archive, settings, name, 0)
    assert found.scene_ids == (SCENES[name][0][0],)
    np.testing.assert_array_equal(found.values, expected.values)


def test_where_all_scenes_of_an_acquisition_are_gone_nothing_stands_in(ingested):
    settings, figures, _ = ingested("sentinel2", "/assets/sentinel2/*")
    assert [failure["fallback"] for failure in figures["failures"] if failure["scene_id"] == "new"] == ["", ""]
    assert figures["empty"] and not figures["shards"]
    told = ingest.status_line(settings)
    assert "2 scenes of sentinel2 not read, missing: new, old" in told and "replaced" not in told
