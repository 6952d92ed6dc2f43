"""The benchmark of reading runs, and what it counts (never what it times) holds."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from benchmarks.reading import table

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ours_asks_for_least_and_no_pixel_depends_on_the_cut(tmp_path):
    path = tmp_path / "rows.json"
    words = ["--small", "--repeats", "1", "--delay", "0.002", "--only", "read", "area", "dense", "warp"]
    command = [sys.executable, "-m", "benchmarks.reading", *words, "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = defaultdict(dict)
    for row in json.loads(path.read_text()):
        rows[row["part"]][row["method"]] = row
        assert row["method"] in done.stdout
    for part in ("read", "area"):
        ours = rows[part].pop("ours, cog")
        assert len({row["checksum"] for row in rows[part].values() if row["checksum"]} | {ours["checksum"]}) == 1
        # Headers are read with one request more by some; all fetch whole blocks.
        for rival in rows[part].values():
            assert ours["requests"] <= rival["requests"] and ours["bytes"] <= 1.01 * rival["bytes"]
    assert 1.3 * rows["dense"]["ours, memory and disk"]["bytes"] < rows["dense"]["ours, memory alone"]["bytes"]
    assert rows["warp"]["ours"]["differ_when_cut"] == 0 < rows["warp"]["GDAL"]["differ_when_cut"]


def test_the_table_compares_with_the_best_of_the_others():
    row = {"part": "read", "requests": 1, "fetched_over_needed": 1.0, "cpu_s": 1.0, "wall_s": 1.0, "peak_mb": 1.0}
    speeds = {"ours, cog": 300, "odc-stac": 100, "rasterio windows": 200}
    rows = [{**row, "method": method, "pfb_per_cpu_s": speed} for method, speed in speeds.items()]
    assert "one window: 1.50 (asked: 1.3)" in table(rows)
