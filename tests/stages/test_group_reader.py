"""One group of sites from files to shards: what is committed is not read again, and what looks wrong is reported."""

import json
import logging
import pickle

import numpy as np
import pytest

from pipelines.config import ConfigError
from pipelines.grid import Site
from pipelines.stages import ingest, shard_set
from pipelines.stages.groups import groups_of
from pipelines.stages.ingest import DOUBTS, GroupReader
from pipelines.stages.session import StageResult
from pipelines.stages.sites import sites_to_frame
from pipelines.storage import Storage
from tests.coregister.files import LEFT, TOP, scene_of, window, write_raster
from tests.stages.worlds import YEAR, config, write_counts

SITE = Site.at(window(0, 0, 64, 64), "train")
(GROUP,) = groups_of([SITE], [YEAR], 512)


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

    def _process(*scenes, sizes=None):
        settings = config(tmp_path / "root", ingest={"text_encoder": None})
        (row,) = GroupReader(settings, Planned(tmp_path, scenes), None)(
            {"groups": pickle.dumps([(GROUP, sizes or {})])}
        )
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
    storage = Storage(settings.root)
    listed = storage.sizes("shards")
    with monkeypatch.context() as listing:
        for name in ("exists", "size"):
            plain = getattr(Storage, name)

            def of_no_shard(self, path, plain=plain):
                assert not path.endswith(".shard.parquet"), "asked for a shard that is listed"
                return plain(self, path)

            listing.setattr(Storage, name, of_no_shard)
        assert process(*scenes, sizes=listed)[1]["skipped"]
    # What was listed before another attempt at the same work is not all that is there.
    assert process(*scenes, sizes={})[1]["skipped"]


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_shard_that_is_gone_or_cut_is_told_and_made_again(process, harm):
    scenes = ("a", 200, 0.0), ("b", 1200, -0.1)
    settings, first = process(*scenes)
    storage = Storage(settings.root)
    (shard,) = first["shards"]
    sound = storage.read_bytes(shard["path"])

    def booked(figures):
        return ingest._book(settings, storage, StageResult("ingest", "sequences", planned=1), [figures])

    booked(first)
    write_counts(storage, {"sequences": 1})
    sites_to_frame([SITE]).to_parquet(f"{settings.root}/plan/sites.parquet")
    assert "1 of 1 planned" in ingest.status_line(settings)
    storage.delete(shard["path"])
    if harm == "cut":
        storage.write_bytes_atomic(shard["path"], sound[:5000])
    told = ingest.status_line(settings)
    assert "ingest: 0 of 1 planned sequences done, 1 left" in told
    what = "missing" if harm == "gone" else f"damaged (5000 bytes, not {len(sound)})"
    named = f"ingest: 1 shards are not as they were committed: {shard['path']} {what}; `aef ingest` makes them again"
    assert named in told
    problem = f"{shard['path']}: {what}; run `aef ingest`, which makes it again"
    assert shard_set.verify(settings) == [problem]

    _, again = process(*scenes, sizes=storage.sizes("shards", ".shard.parquet"))
    assert not again["skipped"] and again["shards"] == first["shards"]
    assert storage.read_bytes(shard["path"]) == sound
    assert booked(again).written == 1
    assert shard_set.verify(settings) == [] and "1 of 1 planned" in ingest.status_line(settings)


def test_a_group_that_lacks_a_scene_is_read_again_where_that_is_asked_for(tmp_path, process, monkeypatch):
    scenes = ("a", 200, 0.0), ("b", 300, 0.0)
    settings, whole = process(*scenes)
    storage = Storage(settings.root)
    content = [storage.read_bytes(shard["path"]) for shard in whole["shards"]]
    (commit,) = storage.list("shards", ".json")
    away = tmp_path / "b_red.tif"
    for path in [commit, *(shard["path"] for shard in whole["shards"])]:
        storage.delete(path)

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
