"""A whole ingest from an archive that misbehaves in every way at once, beside one from a sound archive."""

import contextlib
import json
import shutil
import time
from collections import Counter, defaultdict

import httpx
import numpy as np
import pytest

from pipelines.sandbox.process import served
from pipelines.shards import open_shards
from pipelines.stages.ingest import FAILURES
from pipelines.storage import Storage
from tests.stages.running import Aef, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARE = 0.05
# Each strikes one request in twenty, whatever else does; tokens end several times during the ingest besides.
FAULTS = {
    "latency": {"probability": SHARE, "seconds": 0.2},
    "throttled": {"probability": SHARE, "seconds": 0.3},
    "unavailable": {"probability": SHARE},
    "missing": {"probability": SHARE, "by": "request"},
    "truncated": {"probability": SHARE},
    "expired": {"probability": SHARE},
    "signature": {"probability": 1.0, "seconds": 15.0},
}
SIGNED = "catalogs.sandbox.options={signed: true}"
RASTERS = ("sentinel2", "sentinel1", "landsat", "landcover", "elevation", "era5")


@pytest.fixture
def roots(tmp_path):
    """Two roots with one plan."""
    first = Aef(tmp_path / "sound", tmp_path / "sandbox", free_port())
    done = first.run("plan", SIGNED)
    assert done.status == 0, done.err + done.out
    second = Aef(tmp_path / "harmed", first.sandbox, first.port)
    shutil.copytree(first.root / "plan", second.root / "plan")
    return first, second


def frames_of(root):
    """By sequence, source, scene and time: the frame's numbers, weights and scaling, or the points or texts."""
    found = {}
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


def ingested_amid_faults(aef, seed):
    """The command that ended, and what the server had done when it was last asked."""
    report = {}
    with aef.started("ingest", SIGNED, f"sandbox.faults={json.dumps({'seed': seed, **FAULTS})}") as process:
        end = time.monotonic() + 600
        while process.poll() is None:
            assert time.monotonic() < end, "it did not end in time"
            with contextlib.suppress(httpx.HTTPError):
                report = served(f"http://127.0.0.1:{aef.port}")
            time.sleep(0.5)
        out, err = process.communicate()
    return process.returncode, out + err, report


def test_every_readable_scene_is_read_as_from_a_sound_archive_and_every_other_is_accounted_for(roots):
    whole, aef = roots
    done = whole.run("ingest", SIGNED)
    assert done.status == 0, done.err + done.out[-2000:]
    # Faults that come in a row may outlast the patience with a scene: its group is left for another run.
    for seed in (5, 6, 7):
        status, said, report = ingested_amid_faults(aef, seed)
        if status == 0:
            break
        assert "the next run tries again" in said, said[-3000:]
    assert status == 0, said[-3000:]
    asked = report["requests"]["assets"]
    for name in ("latency", "throttled", "unavailable", "missing", "truncated", "expired"):
        assert report["struck"][name] > 0.03 * asked, f"{name} struck {report['struck'][name]} of {asked} requests"

    # A 404 that comes twice is taken for a missing file: one range in 400; a row of other refusals is rarer. No file is
    # taken for a broken one.
    failures = json.loads((aef.root / FAILURES).read_text())
    assert {failure["kind"] for failure in failures} <= {"missing", "expired", "throttled", "transient"}
    assert len(failures) < 0.01 * asked, f"{len(failures)} of {asked} requests were given up"
    unread, told_of = defaultdict(set), defaultdict(set)
    for failure in failures:
        unread[failure["source"]].add(failure["scene_id"])
        told_of[failure["source"], failure["kind"]].add(failure["scene_id"])

    sound, harmed = frames_of(whole.root), frames_of(aef.root)
    compared = Counter()
    for key, frame in sound.items():
        _, source, scene_ids, _ = key
        if unread[source] and source in ("gedi", "text"):
            continue  # points of several files are one list
        if key not in harmed and unread[source] & set(scene_ids.split("+")):
            continue  # the scene was lost here; where it was read, it must be the same
        assert key in harmed, f"{key} was lost and nothing says why"
        for one, other in zip(frame, harmed[key], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=str(key))
        compared[source] += 1
    assert compared["sentinel2"] > 0.8 * sum(1 for key in sound if key[1] == "sentinel2")
    assert set(RASTERS) <= set(compared)
    # What is new stands in for something that was lost: another piece of the same acquisition.
    assert {source for _, source, *_ in set(harmed) - set(sound)} <= {source for source in unread if unread[source]}

    row = json.loads((aef.root / "reports/summary.json").read_text())["stages"]["ingest"]
    assert row["details"]["scenes_not_read"] == len(failures)
    assert row["planned"] == row["written"] + row["skipped"] and row["failed"] == 0
    told = aef.run("status").out
    for (name, kind), scenes in told_of.items():
        assert f"{len(scenes)} scenes of {name} not read, {kind}" in told
