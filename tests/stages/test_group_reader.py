"""One group of sites from files to shards: what is committed is not read again, and what looks wrong is reported."""

import json
import logging
import pickle

import numpy as np
import pytest

from pipelines.config import ConfigError
from pipelines.grid import Site
from pipelines.stages import ingest
from pipelines.stages.groups import SiteGroup
from pipelines.stages.ingest import DOUBTS, GroupReader
from pipelines.stages.session import StageResult
from pipelines.storage import Storage
from tests.coregister.files import LEFT, TOP, scene_of, window, write_raster
from tests.stages.worlds import YEAR, config

GROUP = SiteGroup("group", (Site.at(window(0, 0, 64, 64), "train"),), YEAR)


class Planned:
    """A plan of Sentinel-2 scenes of one place: (name, digital number of its darkest ground, offset)."""

    def __init__(self, folder, scenes):
        ground = np.random.default_rng(0).integers(0, 2000, (64, 64))
        self.found = [
            scene_of(
                "sentinel2",
                name,
                {
                    band: write_raster(folder / f"{name}_{band}.tif", (ground + dark).astype(np.uint16), LEFT, TOP, 10)
                    for band in ("red", "nir")
                },
                time_ms=YEAR.start_ms + (100 + day) * 86_400_000,
                facts={"platform": "sentinel-2a"},
                scale=1e-4,
                offset=offset,
            )
            for day, (name, dark, offset) in enumerate(scenes)
        ]

    def scenes(self, _window, _period):
        return {"sentinel2": self.found}


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Ingests the group of a root from scenes: (settings, figures)."""
    monkeypatch.setattr(ingest, "signers", lambda _: None)

    def _process(*scenes):
        settings = config(tmp_path / "root", ingest={"text_encoder": None})
        (row,) = GroupReader(settings, Planned(tmp_path, scenes), None)({"groups": pickle.dumps([GROUP])})
        return settings, json.loads(row["outcome"])

    return _process


def test_a_committed_group_is_not_read_again(process, monkeypatch):
    scenes = ("a", 200, 0.0), ("b", 1200, -0.1)
    _, first = process(*scenes)
    assert not first["skipped"] and first["shards"]

    def never(*_args, **_options):
        raise AssertionError("read again")

    monkeypatch.setattr(ingest, "read_block", never)
    settings, again = process(*scenes)
    assert again["skipped"] and again["shards"] == first["shards"]
    # A shard that is gone is no commit.
    storage = Storage(settings.root)
    storage.delete(first["shards"][0]["path"])
    assert "read again" in process(*scenes)[1]["error"]


def test_a_group_that_lacks_a_scene_is_read_again_where_that_is_asked_for(tmp_path, process, monkeypatch):
    scenes = ("a", 200, 0.0), ("b", 300, 0.0)
    settings, whole = process(*scenes)
    storage = Storage(settings.root)
    content = [storage.read_bytes(shard["path"]) for shard in whole["shards"]]
    (commit,) = storage.list("shards", ".json")
    away = tmp_path / "b_red.tif"
    for path in [commit, *(shard["path"] for shard in whole["shards"])]:
        storage.delete(path)

    def booked(figures):
        ingest._book(settings, storage, StageResult("ingest", "sequences", planned=1), [figures])
        return ingest.status_line(settings)

    def read(retry):
        again = config(tmp_path / "root", ingest={"text_encoder": None, "retry_unread": retry})
        return GroupReader(again, planned, None).outcome(GROUP)

    planned = Planned(tmp_path, scenes)
    away.rename(tmp_path / "elsewhere")
    lacking = read(False)
    assert [failure["scene_id"] for failure in lacking["failures"]] == ["b"] and lacking["shards"]
    assert read(False)["skipped"] and not read(True)["skipped"]  # it is still away

    def refuse(_):
        raise ConnectionError("no access token")

    with monkeypatch.context() as down:
        down.setattr(ingest, "signers", lambda _: {"test": refuse})
        assert "no access token" in read(True)["error"]
    assert read(False)["skipped"]  # what was there is kept while nothing better can be had
    (tmp_path / "elsewhere").rename(away)
    assert read(False)["skipped"]
    mended = read(True)
    assert mended["failures"] == [] and not mended["skipped"]
    assert [storage.read_bytes(shard["path"]) for shard in mended["shards"]] == content
    assert read(True)["skipped"]  # nothing is lacking any more


def test_an_ingest_of_which_no_file_is_there_says_so(tmp_path, process):
    settings, _ = process(("a", 200, 0.0))
    lost = {"source": "sentinel2", "scene_id": "a", "kind": "missing", "reason": "no such file", "fallback": ""}
    outcome = {
        "sites": 1,
        "shards": [],
        "empty": ["s"],
        "water": [],
        "failures": [lost],
        "doubts": [],
        "skipped": False,
    }
    told = r"root: no sequence has any input: 1 scenes .* sentinel2 \(missing\) by no such file; .*retry_unread=true"
    with pytest.raises(ConfigError, match=told):
        ingest._book(settings, Storage(settings.root), StageResult("ingest", "sequences", planned=1), [outcome])


def test_scenes_that_contradict_their_offset_are_named_in_the_report(process, caplog):
    """``left``: the offset is still in the numbers; ``twice``: it is said to be still in them."""
    settings, figures = process(("fine", 200, 0.0), ("new", 1200, -0.1), ("left", 1200, 0.0), ("twice", 200, -0.1))
    assert [doubt["scene_id"] for doubt in figures["doubts"]] == ["left"]
    assert [failure["scene_id"] for failure in figures["failures"]] == ["twice"]
    assert "in the numbers already" in figures["failures"][0]["reason"]
    storage = Storage(settings.root)
    with caplog.at_level(logging.WARNING):
        result = ingest._book(settings, storage, StageResult("ingest", "sequences", planned=1), [figures])
    assert result.details["scenes_doubtful"] == 1 and result.details["scenes_not_read"] == 1
    (doubt,) = storage.read_json(DOUBTS)
    assert (doubt["source"], doubt["scene_id"], doubt["groups"]) == ("sentinel2", "left", 1)
    assert "sentinel2 scene left: no clear pixel of its visible bands is darker than 0.12" in caplog.text
    assert result.written == 1 and storage.read_json(ingest.FAILURES)[0]["scene_id"] == "twice"
