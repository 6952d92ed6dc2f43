"""The whole chain on real scenes, labels and weather: the same stages, no special case."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tests.stages.running import PROJECT, free_port

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


def test_real_scenes_become_shards_a_model_tiles_and_scores(tmp_path):
    port = free_port()
    settings = [f"root={tmp_path}", f"sandbox.port={port}", f"catalogs.fixtures.url=http://127.0.0.1:{port}"]
    settings += ["train.steps=12", "evaluate.repeats={1: 8, 10: 4, max: 2}"]
    words = [sys.executable, "-m", "pipelines.cli", "run", "--config", "configs/real_fixtures.yaml"]
    words += [word for setting in settings for word in ("--set", setting)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(words, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    plan = json.loads((tmp_path / "plan/plan.json").read_text())["counts"]
    # Two full Landsat frames lie in Spain, where no window is.
    assert plan["scenes"] == {
        "sentinel2": 406, "sentinel1": 323, "landsat": 106, "elevation": 4, "era5": 4,
    }  # fmt: skip
    stages = json.loads((tmp_path / "reports/summary.json").read_text())["stages"]
    assert stages["ingest"]["written"] == 11 and not any(row["failed"] for row in stages.values())
    scores = json.loads((tmp_path / "reports/scores.json").read_text())
    best = Counter(row["features"] for row in scores if row["task"] == "lpis_label" and row["head"] == "best")
    assert {"embedding", "untrained", "annual_composite", "harmonics"} <= set(best)
    tiles = [path for path in tmp_path.glob("embeddings/v1/*/*/*.tiff") if not path.stem.endswith("_counts")]
    assert {path.parent.name for path in tiles} == {"31N", "36S", "37S"}
    assert (tmp_path / "reports/report.html").stat().st_size > 100_000
