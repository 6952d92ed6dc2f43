"""An archive that does not answer leaves work for the next run; a broken file does not hold it up."""

import argparse
import json
import re

import numpy as np
import pytest

from pipelines.coregister import ReadFailure
from pipelines.coregister.fetch import FailureKind
from pipelines.grid import Site, Tile
from pipelines.products import Cost, TileProduct, commit_tile
from pipelines.scenes import Scene
from pipelines.stages import embed, ingest
from pipelines.stages.commands import status
from pipelines.stages.embed import Recipe, TileReader, TileTask
from pipelines.stages.groups import SiteGroup
from pipelines.stages.ingest import GroupReader
from pipelines.stages.outage import OutageError, outcomes_of, stop_on_outage
from pipelines.stages.session import StageResult, write_summary
from pipelines.storage import Storage
from tests.coregister.files import LEFT, TOP, noise, scene_of, window, write_raster
from tests.stages.running import free_port
from tests.stages.worlds import YEAR, config, sources_of, write_counts

SITE = Site.at(window(0, 0, 16, 16), "train")
GROUP = SiteGroup("group", (SITE,), YEAR)
TILE = TileTask(Tile("31N_r0_c0", SITE.window), YEAR)
SOURCES = sources_of(config())


def failed(source, scene_id, kind):
    return ReadFailure(source, scene_id, "https://x/a.tif", kind, f"because of {scene_id}")


CORRUPT = failed("sentinel2", "a", FailureKind.CORRUPT)


def test_files_at_fault_and_targets_do_not_stop_the_work():
    stop_on_outage([CORRUPT, failed("sentinel2", "c", FailureKind.MISSING)], (), SOURCES)
    stop_on_outage([failed("gedi", "d", FailureKind.TRANSIENT)], (), SOURCES)  # a target


@pytest.mark.parametrize("kind", [FailureKind.TRANSIENT, FailureKind.THROTTLED])
def test_one_scene_of_an_input_that_an_outage_hit_stops_the_work(kind):
    lost = failed("sentinel2", "b", kind)
    with pytest.raises(OutageError, match=rf"sentinel2: 1 scene not read, the first \({kind}\) .* of b; .*tries again"):
        stop_on_outage([CORRUPT, lost, lost], {"sentinel2", "sentinel1"}, SOURCES)
    with pytest.raises(OutageError, match="because of b, and none was read; not committed"):
        stop_on_outage([CORRUPT, lost], {"sentinel1"}, SOURCES)


def test_access_that_the_archive_denies_stops_the_work_where_nothing_was_read():
    denied = failed("sentinel2", "b", FailureKind.EXPIRED)
    stop_on_outage([CORRUPT, denied], {"sentinel2"}, SOURCES)
    message = r"sentinel2: 2 scenes not read, the first \(corrupt\) by because of a, and none was read; .*tries again"
    with pytest.raises(OutageError, match=message):
        stop_on_outage([CORRUPT, denied], {"sentinel1"}, SOURCES)


def test_refused_access_stops_the_work_whatever_else_was_read():
    refused = failed("gedi", "d", FailureKind.REFUSED)
    with pytest.raises(OutageError, match=r"gedi: 1 scene not read, the first \(refused\) .*mend the access"):
        stop_on_outage([CORRUPT, refused], {"sentinel2"}, SOURCES)


@pytest.mark.parametrize(
    ("failing", "there", "asked_again"),
    [
        ({"a": True}, "", ["a"]),
        ({"a": True}, "bcd", ["a"]),
        ({"a": True, "b": False}, "", ["a"]),
        ({"a": False}, "", []),
        ({"a": True, "b": True, "c": True}, "", []),
        ({"a": True, "b": True, "c": True}, "defghij", []),
    ],
)
def test_what_passes_is_tried_once_more_unless_the_archive_is_down(failing, there, asked_again):
    """Three of four reads that fail are an outage, whatever was read by an earlier run; a broken file does not mend."""
    asked = []

    def read(work):
        first = not asked
        asked.append([group.group_id for group, _ in work])
        for group, _ in work:
            failure = {"error": "e", "passes": failing[group.group_id]} if first and group.group_id in failing else {}
            yield {"group": group.group_id, "sites": 1, "skipped": group.group_id in there, **failure}

    names = sorted({*"abcd", *there})
    groups = [(SiteGroup(name, (SITE,), YEAR), {}) for name in reversed(names)]
    told = []
    outcomes = outcomes_of(groups, read, lambda done, planned: told.append((done, planned)))
    assert asked == [names[::-1]] + [asked_again] * bool(asked_again) and told[-1] == (len(names), len(names))
    assert [row["group"] for row in outcomes] == names
    left = {row["group"] for row in outcomes if "error" in row}
    assert left == set(failing) - set(asked_again)


class Planned:
    """A plan of two Sentinel-2 scenes, whose files are broken where the test wants it."""

    def __init__(self, folder, broken):
        self.found = []
        for day, name in enumerate(("a", "b")):
            files = {band: folder / f"{name}_{band}.tif" for band in ("red", "nir")}
            for seed, path in enumerate(files.values()):
                write_raster(path, noise((64, 64), seed + 1), LEFT, TOP, 10)
            time_ms = YEAR.start_ms + (100 + day) * 86_400_000
            self.found.append(scene_of("sentinel2", name, files, time_ms=time_ms, facts={"platform": "sentinel-2a"}))
            if name in broken:
                files["red"].write_bytes(files["red"].read_bytes()[:300])

    def scenes(self, _window, _period) -> dict[str, list[Scene]]:
        return {"sentinel2": self.found}


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads the group or the tile of a root: (figures, what a reader would embed)."""

    def _read(what, broken=(), sign=lambda href: href):
        settings = config(tmp_path / "root", ingest={"text_encoder": None}, embed={"margin_px": 0})
        plan = Planned(tmp_path / f"files{len(broken)}", broken)
        for stage in (ingest, embed):
            monkeypatch.setattr(stage, "signers", lambda _: {"test": sign})
        if what == "group":
            figures = GroupReader(settings, plan, None).outcome(GROUP)
            return figures, Storage(settings.root).list("shards", ".parquet")
        inputs = {name: found for name, found in SOURCES.items() if found.is_input}
        out = TileReader(settings, plan, Recipe(inputs, "m", "d", "c")).outcome(TILE)
        return json.loads(out["facts"]), out["window"]

    return _read


def refuse(_):
    raise ConnectionError("no access token")


@pytest.mark.parametrize("what", ["group", "tile"])
def test_work_that_was_refused_its_inputs_is_failed_and_done_by_the_next_run(read, what):
    figures, made = read(what, sign=refuse)
    assert "sentinel2: 2 scenes not read, the first (refused) by" in figures["error"] and not made
    assert "\n" not in figures["error"] and "no access token" in figures["error"]
    assert not figures["ends_stage"]
    figures, made = read(what)
    assert "error" not in figures and figures["failures"] == [] and made


@pytest.mark.parametrize("what", ["group", "tile"])
def test_work_of_which_one_scene_was_not_answered_is_failed_and_done_by_the_next_run(read, what):
    nobody = f"http://127.0.0.1:{free_port()}/a.tif"
    figures, made = read(what, sign=lambda href: nobody if "/a_" in href else href)
    assert "sentinel2: 1 scene not read, the first (transient) by" in figures["error"] and not made
    figures, made = read(what)
    assert "error" not in figures and figures["failures"] == [] and made


@pytest.mark.parametrize("what", ["group", "tile"])
def test_a_broken_file_is_recorded_and_the_work_goes_on(read, what):
    figures, made = read(what, broken=("a",))
    assert [failure["scene_id"] for failure in figures["failures"]] == ["a"] and made


def test_a_tile_that_lacks_a_scene_is_read_again_where_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "signers", lambda _: None)
    away = tmp_path / "a_red.tif"
    plan = Planned(tmp_path, ())
    away.rename(tmp_path / "elsewhere")
    storage = Storage(str(tmp_path / "root"))
    recipe = Recipe({"sentinel2": SOURCES["sentinel2"]}, "m", "d", "c")

    def read(retry):
        settings = config(tmp_path / "root", embed={"margin_px": 0, "zarr": False, "retry_unread": retry})
        window, made_from, facts = TileReader(settings, plan, recipe).read(TILE)
        if window:
            failed = {failure["scene_id"]: failure["reason"] for failure in facts["failures"]}
            vectors = np.tile(np.eye(64, dtype=np.float32)[0], (*TILE.tile.window.shape, 1))
            product = TileProduct.from_vectors(TILE.tile, TILE.period, vectors, {})
            commit_tile(storage, product, made_from, Cost(failed_inputs=failed), zarr=False)
            return sorted(failed)
        return "skipped"

    assert [read(False), read(False), read(True)] == [["a"], "skipped", ["a"]]
    with monkeypatch.context() as down:
        down.setattr(embed, "signers", lambda _: {"test": refuse})
        with pytest.raises(OutageError):
            read(True)
    assert read(False) == "skipped"  # what was there is kept while nothing better can be had
    (tmp_path / "elsewhere").rename(away)
    assert [read(False), read(True), read(True)] == ["skipped", [], "skipped"]


def test_status_tells_failed_by_reason_and_then_done(read, tmp_path, monkeypatch, capsys):
    settings = config(tmp_path / "root")
    storage = Storage(settings.root)
    counts = {"scenes": {"sentinel2": 2}, "sites": {"train": 1}, "sequences": 1, "tiles": 0}
    write_counts(storage, counts)
    monkeypatch.setattr(ingest, "planned_sites", lambda _: [SITE])
    monkeypatch.setattr(ingest, "groups_of", lambda *_: [GROUP])
    nobody = f"http://127.0.0.1:{free_port()}/a.tif"

    def told(**answers):
        figures, _ = read("group", **answers)
        result = ingest._book(settings, storage, StageResult("ingest", "sequences", planned=1), [figures])
        write_summary(storage, result)
        status(settings, argparse.Namespace())
        return capsys.readouterr().out

    before = told(sign=lambda href: nobody if "/a_" in href else href)
    assert "ingest: 0 of 1 planned sequences done, 1 left" in before
    reason = r"1 x sentinel2: 1 scene not read, the first \(transient\) .*the next run tries again"
    assert re.search(rf"last ingest: .* written 0, skipped 0, failed 1; {reason}$", before, re.MULTILINE), before
    after = told()
    assert "ingest: 1 of 1 planned sequences done, 0 left" in after
    assert re.search(r"last ingest: .* written 1, skipped 0, failed 0$", after, re.MULTILINE), after
