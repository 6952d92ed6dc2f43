"""A whole ingest from an archive that misbehaves in every way at once, beside one from a sound archive."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest

from pipelines.config import load_config
from pipelines.sandbox.faults import uniform
from pipelines.shards import open_shards
from pipelines.stages.ingest import FAILURES
from pipelines.stages.plan import Plan
from pipelines.storage import Storage
from tests.stages.running import CONFIG

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARE, SEED = 0.05, 5
# A missing file is missing whenever it is asked for; all other faults strike single requests. Tokens end in mid-ingest.
FAULTS = {
    "seed": SEED,
    "latency": {"probability": SHARE, "seconds": 0.2},
    "throttled": {"probability": SHARE, "seconds": 0.3},
    "unavailable": {"probability": SHARE},
    "missing": {"probability": SHARE},
    "truncated": {"probability": SHARE},
    "expired": {"probability": SHARE},
    "signature": {"probability": 1.0, "seconds": 15.0},
}
RASTERS = ("sentinel2", "sentinel1", "landsat", "landcover", "elevation", "era5")


def frames_of(root):
    """By sequence, source and scene: the frame's numbers, weights and scaling."""
    found = defaultdict(dict)
    shards = open_shards(Storage(str(root)), "shards")
    for sequence in shards.read(shards.rows()):
        for name, raster in sequence.rasters.items():
            for index, scene_id in enumerate(raster.scene_ids):
                key = sequence.sequence_id, name, scene_id, int(raster.time_ms[index])
                found[key] = [getattr(raster, part)[index] for part in ("values", "weight", "scale", "offset")]
        for name, points in sequence.points.items():
            found[sequence.sequence_id, name, "", 0] = [points.row, points.col, points.time_ms, points.values]
        if sequence.texts is not None:
            found[sequence.sequence_id, "text", "", 0] = [sequence.texts.row, sequence.texts.vector]
    return found


def struck(asset):
    """Whether a file is missing for as long as the faults are on."""
    path = "/" + asset.href.split("://", 1)[1].split("/", 1)[1]
    return uniform(SEED, "missing", path, 0) < SHARE


def test_every_readable_scene_is_read_as_from_a_sound_archive_and_every_other_is_accounted_for(finished, continued):
    whole, _ = finished
    aef = continued("plan")
    done = aef.run("ingest", f"sandbox.faults={json.dumps(FAULTS)}", timeout=600)
    assert done.status == 0, done.err + done.out[-2000:]

    settings = [word for word in aef.words("ingest")[5:] if word != "--set"]
    plan = Plan.load(load_config(CONFIG, settings))
    lost = {
        (name, scene.scene_id)
        for name in ("sentinel2", "sentinel1", "landsat", "landcover", "elevation", "gedi", "text")
        for scene in plan.scenes_of(name)
        if any(struck(asset) for asset in scene.assets.values())
    }
    assert {name for name, _ in lost} >= {"sentinel2", "sentinel1"}, "the faults took nothing away"

    failures = json.loads((aef.root / FAILURES).read_text())
    assert {failure["kind"] for failure in failures} == {"missing"}
    unread = {(failure["source"], failure["scene_id"]) for failure in failures}
    assert unread and unread <= lost

    sound, harmed = frames_of(whole.root), frames_of(aef.root)
    compared = Counter()
    for key, frame in sound.items():
        _, source, scene_ids, _ = key
        gone = {scene for name, scene in unread if name == source}
        if source in ("gedi", "text") and gone:
            continue  # points of several files are one list
        if gone & set(scene_ids.split("+")):
            continue
        assert key in harmed, f"{key} was lost and nothing says why"
        for one, other in zip(frame, harmed[key], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=str(key))
        compared[source] += 1
    assert set(RASTERS) <= set(compared) and compared["sentinel2"] > 100
    for _, source, scene_ids, _ in set(harmed) - set(sound):
        # What is new stands in for something that was lost: another piece of the same acquisition.
        assert any(name == source for name, _ in unread), (source, scene_ids)

    row = json.loads((aef.root / "reports/summary.json").read_text())["stages"]["ingest"]
    assert row["details"]["scenes_not_read"] == len(failures)
    assert row["planned"] == row["written"] + row["skipped"] and row["failed"] == 0
    status = aef.run("status")
    for name in {source for source, _ in unread}:
        count = len({scene for source, scene in unread if source == name})
        assert f"{count} scenes of {name} not read, missing" in status.out
