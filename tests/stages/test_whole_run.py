"""The whole chain on the smallest synthetic Earth: what it leaves behind, and that it does nothing twice."""

import json
import re
from collections import Counter

import pytest

from tests.stages.running import content, stamps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STAGES = ["sandbox", "plan", "ingest", "train", "embed", "evaluate"]


@pytest.fixture(scope="module")
def again(finished):
    """The same command a second time: its books before and after, and what it wrote."""
    aef, _ = finished
    patterns = ("plan/**/*", "shards/**/*.parquet", "checkpoints/**/*.pt", "embeddings/**/*.tiff", "reports/s*.json")
    first = {name: json.loads((aef.root / f"reports/{name}.json").read_text()) for name in ("summary", "scores")}
    before = [stamps(aef.root, pattern) for pattern in patterns[:4]], content(aef.root, "reports/scores.json")
    done = aef.run("run")
    after = [stamps(aef.root, pattern) for pattern in patterns[:4]], content(aef.root, "reports/scores.json")
    return first, done, before, after


def test_every_stage_says_what_it_did(finished, again):
    _, done = finished
    stages = again[0]["summary"]["stages"]
    assert sorted(stages) == sorted(STAGES)
    for name, row in stages.items():
        assert row["planned"] == row["written"] + row["skipped"] + row["failed"] > 0, name
        assert row["failed"] == 0 and row["written"] > 0, name
        assert row["seconds"] >= 0 and 50 * 2**20 < row["peak_memory_bytes"] < 8 * 2**30, name
        assert row["unit"] and isinstance(row["reasons"], dict)
        assert f"== {name}\n" in done.out
        assert re.search(rf"^{name}: {row['written']} {row['unit']} written", done.out, re.M)
    for name in ("ingest", "train", "embed", "evaluate"):
        assert re.search(rf"^\[{name}\] [\d.]+/[\d.]+ .*/s, \d+ s left", done.out, re.M), name
    assert re.search(r"^Report: .*report\.html$", done.out, re.M)


def test_scores_have_every_column_and_every_feature_set_beside_the_embedding(again):
    scores = again[0]["scores"]
    columns = {"task", "split", "shots", "head", "features", "metric", "mean", "low", "high", "n"}
    for row in scores:
        assert columns <= row.keys()
        assert row["n"] > 0
        if row["task"] not in ("mean", "quality"):  # a mean over tasks, and checks of the maps, have no interval
            assert row["low"] <= row["mean"] <= row["high"]
    assert {row["task"] for row in scores} >= {"land_cover", "crop_type", "canopy_height", "change", "mean", "quality"}
    baselines = {"seasonal_composite", "annual_composite", "harmonics", "random_conv", "xy", "xyz"}
    for task in ("land_cover", "crop_type", "canopy_height"):
        rows = [row for row in scores if row["task"] == task]
        assert {row["features"] for row in rows} >= {"embedding", "untrained"} | baselines
        main = "r2" if task == "canopy_height" else "balanced_accuracy"
        counted = Counter(row["features"] for row in rows if row["metric"] == main)
        assert {counted[name] for name in baselines} == {counted["embedding"]}  # the same rows for all of them
    assert {row["shots"] for row in scores} >= {1, 10, "max"}
    assert {row["head"] for row in scores} >= {"knn1", "knn3"}


def test_the_report_is_one_file_with_everything_in_it(finished, again):
    aef, _ = finished
    page = (aef.root / "reports/report.html").read_text()
    references = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)["']|url\(([^)]*)\)""", page)
    for one, other in references:
        assert (one or other).strip("'\"").startswith(("data:", "#")), one or other
    assert "<script src" not in page and "@import" not in page
    assert page.count("data:image/png;base64,") >= 6
    for words in ("Land cover", "embedding", "harmonics", "untrained"):
        assert words in page


def test_the_model_has_learnt_something_and_the_map_covers_the_plan(finished, again):
    aef, _ = finished
    train = again[0]["summary"]["stages"]["train"]["details"]
    assert train["last_loss"] < train["first_loss"]
    plan = json.loads((aef.root / "plan/plan.json").read_text())["counts"]
    tiles = [path for path in content(aef.root, "embeddings/v1/*/*/*.tiff") if not path.endswith("_counts.tiff")]
    assert len(tiles) == plan["tiles"]
    assert {path.split("/")[2] for path in tiles} == {"2021", "2022"}
    assert {path.split("/")[3] for path in tiles} == {"31N", "32N"}
    shards = json.loads((aef.root / "shards/current.json").read_text())["shards"]
    assert set(shards) == set(content(aef.root, "shards/*/*.shard.parquet"))


def test_a_second_run_writes_nothing_and_says_so(finished, again):
    aef, _ = finished
    first, done, before, after = again
    assert done.status == 0, done.err
    assert before == after
    stages = json.loads((aef.root / "reports/summary.json").read_text())["stages"]
    for name in STAGES:
        row = stages[name]
        assert row.pop("checked") and row == first["summary"]["stages"][name], name  # figures of who did the work
        said = re.search(rf"^{name}: 0 {row['unit']} written, (\d+) already done or skipped of (\d+);", done.out, re.M)
        assert said and int(said[1]) == int(said[2]) > 0, name


def test_status_and_verify_agree_with_what_is_there(finished, again):
    aef, _ = finished
    plan = json.loads((aef.root / "plan/plan.json").read_text())["counts"]
    status = aef.run("status")
    assert status.status == 0
    assert f"ingest: {plan['sequences']} of {plan['sequences']} planned sequences done, 0 left" in status.out
    assert "train: step 24 of 24" in status.out
    assert f"embed: {plan['tiles']} of {plan['tiles']} tiles committed" in status.out
    verify = aef.run("verify")
    assert verify.status == 0 and verify.out.endswith("0 problems\n")
    view = aef.run("view")
    assert view.status == 0 and "not there yet" not in view.out


def test_a_dry_run_of_what_is_done_asks_for_nothing(finished, again):
    aef, _ = finished
    dry = aef.run("run", flags=("--dry-run",))
    assert dry.status == 0, dry.err
    for stage, done in (("ingest", "done"), ("train", "on storage"), ("embed", "committed")):
        assert re.search(rf"\[{stage}\] .*\(\d+ {done}\).*; nothing left to do\n", dry.out), dry.out
    assert "[all] nothing left to do\n" in dry.out


def test_verify_finds_a_shard_that_was_changed(continued):
    aef = continued("plan", "shards")
    assert aef.run("verify").status == 0
    changed, cut, gone, *_ = sorted(aef.root.glob("shards/train/*.shard.parquet"))
    data = bytearray(changed.read_bytes())
    data[len(data) // 2] ^= 1
    changed.write_bytes(data)
    whole = cut.stat().st_size
    cut.write_bytes(cut.read_bytes()[:1000])
    gone.unlink()
    verify = aef.run("verify")
    assert verify.status == 1
    lines = verify.out.splitlines()
    assert lines[-1] == "3 problems" and re.fullmatch(r"\d+ shards checked", lines[0])
    again = "run `aef ingest`, which makes it again"
    told = {
        f"shards/train/{changed.name}: checksum differs; delete it and {again}",
        f"shards/train/{cut.name}: damaged (1000 bytes, not {whole}); {again}",
        f"shards/train/{gone.name}: missing; {again}",
    }
    assert set(lines[1:-1]) == told
    status = aef.run("status")
    assert f"{cut.name} damaged (1000 bytes, not {whole})" in status.out and f"{gone.name} missing" in status.out


def test_verify_finds_a_tile_that_was_changed(continued):
    aef = continued("embeddings", "plan")
    tile = next(path for path in sorted(aef.root.glob("embeddings/v1/*/*/*.tiff")) if "_counts" not in path.name)
    data = bytearray(tile.read_bytes())
    data[-1] ^= 1
    tile.write_bytes(data)
    verify = aef.run("verify")
    assert verify.status == 1
    lines = verify.out.splitlines()
    assert all(tile.name in line for line in lines[1:-1])  # and of no other tile
    assert "checksum differs" in verify.out and lines[-1] == f"{len(lines) - 2} problems"
