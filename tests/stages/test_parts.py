"""A group that is read in parts, for want of memory, gives the sequences of one that is read at once."""

import dataclasses

import numpy as np
import pytest

from pipelines.grid import Site
from pipelines.scenes import Scene
from pipelines.shards import read_shard
from pipelines.stages import ingest
from pipelines.stages.groups import SiteGroup
from pipelines.stages.ingest import GroupReader
from pipelines.storage import Storage
from tests.coregister.files import LEFT, TOP, noise, scene_of, window, write_raster
from tests.stages.worlds import YEAR, config

SITES = tuple(sorted(Site.at(window(16 * i, 16 * j, 16, 16), "train") for i in range(3) for j in range(3)))
GROUP = SiteGroup("group", SITES, YEAR)


class Planned:
    """Three acquisitions with gaps, one of them of two tiles."""

    def __init__(self, folder):
        self.found = []
        for index, (name, orbit, left) in enumerate((("a", 1, 0), ("b", 1, 200), ("c", 2, 0), ("d", 3, 130))):
            files = {band: folder / f"{name}_{band}.tif" for band in ("red", "nir")}
            for seed, path in enumerate(files.values()):
                write_raster(path, noise((64, 64), seed + 10 * index, holes=0.2), LEFT + left, TOP, 10)
            time_ms = YEAR.start_ms + orbit * 86_400_000
            self.found.append(scene_of("sentinel2", name, files, time_ms=time_ms, facts={"datatake": f"GS2A_{orbit}"}))

    def scenes(self, _window, _period) -> dict[str, list[Scene]]:
        return {"sentinel2": self.found}


def sequences(root, plan, monkeypatch, budget):
    settings = config(root, ingest={"text_encoder": None, "sequences_per_shard": 4})
    monkeypatch.setattr(ingest, "signers", lambda _: None)
    monkeypatch.setattr(ingest, "block_budget", lambda _: budget)
    reads = []

    def counted(scenes, area, *rest, **more):
        reads.append(area)
        return read_block(scenes, area, *rest, **more)

    read_block = ingest.read_block
    monkeypatch.setattr(ingest, "read_block", counted)
    outcome = GroupReader(settings, plan, None).outcome(GROUP)
    monkeypatch.undo()
    assert "error" not in outcome, outcome
    storage = Storage(settings.root)
    found = {s.sequence_id: s for path in storage.list("shards", ".parquet") for s in read_shard(storage, path)}
    return found, outcome, reads


def test_sequences_do_not_depend_on_the_parts(tmp_path, monkeypatch):
    plan = Planned(tmp_path / "files")
    whole, _, one = sequences(tmp_path / "whole", plan, monkeypatch, 1e12)
    parts, outcome, several = sequences(tmp_path / "parts", plan, monkeypatch, 16 * 40 * 3 * 5)
    assert len(one) == 1 and len(several) > 2
    assert whole.keys() == parts.keys() and len(whole) == len(SITES)
    assert sum(shard["sequences"] for shard in outcome["shards"]) == len(SITES)
    for key, sequence in whole.items():
        for field in dataclasses.fields(sequence.rasters["sentinel2"]):
            if field.name != "scene_ids":  # of a block they may name a piece that counted beside the site
                mine, other = (getattr(s.rasters["sentinel2"], field.name) for s in (sequence, parts[key]))
                np.testing.assert_array_equal(mine, other, err_msg=field.name)


@pytest.mark.parametrize("budget", [1e12, 1.0])
def test_failures_of_several_parts_are_told_once(tmp_path, monkeypatch, budget):
    plan = Planned(tmp_path / "files")
    path = tmp_path / "files" / "c_red.tif"
    path.write_bytes(path.read_bytes()[:300])
    _, outcome, _ = sequences(tmp_path / "root", plan, monkeypatch, budget)
    assert [failure["scene_id"] for failure in outcome["failures"]] == ["c"]
