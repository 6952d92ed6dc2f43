"""What can go wrong outside: one clear line with the remedy, a status that is not 0, and a next run that continues."""

import json
import os
import re
import subprocess

import pytest

from pipelines.cli import main
from pipelines.sandbox.process import running_server
from tests.stages.running import CONFIG, Aef, content, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def served(finished):
    """The synthetic Earth's catalog at a URL of its own."""
    aef, _ = finished
    with running_server(aef.sandbox / "catalog") as url:
        yield aef, url


@pytest.fixture
def plan(served, tmp_path, capfd):
    """``aef plan`` in this process: status, standard output, lines of standard error."""
    aef, url = served

    def _plan(*overrides, root=tmp_path / "root", stage="plan", area=f"area.geojson={aef.sandbox}/region.geojson"):
        words = [stage, "--config", str(CONFIG)]
        for setting in (f"root={root}", "sandbox=null", f"catalogs.sandbox.url={url}", area, *overrides):
            words += ["--set", setting]
        capfd.readouterr()
        status = main(words)
        captured = capfd.readouterr()
        return status, captured.out, captured.err.splitlines()

    return _plan


def is_one_line(lines, *words):
    """One line from the command itself; loggers may have warned before."""
    (line,) = lines
    assert line.startswith("aef plan: error: "), line
    for word in words:
        assert word in line, line


def test_a_plan_of_a_served_catalog_is_the_plan_of_the_run(served, plan, tmp_path):
    aef, _ = served
    status, _out, err = plan()
    assert status == 0, err
    found = json.loads((tmp_path / "root/plan/plan.json").read_text())["counts"]
    assert found["scenes"] == json.loads((aef.root / "plan/plan.json").read_text())["counts"]["scenes"]
    assert plan()[1].count("already done") >= 1


def test_a_wrong_key_is_named_and_the_mended_configuration_runs(plan):
    status, out, err = plan("train.step=3")
    assert status != 0 and out == ""
    is_one_line(err, "unknown key train.step", "did you mean 'steps'?")
    assert plan("train.steps=3")[0] == 0


def test_an_unreachable_catalog(plan, tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    status, _, err = plan(f"catalogs.sandbox.url={url}")
    assert status != 0
    is_one_line(err, url, "catalogs.sandbox")
    assert not (tmp_path / "root/plan/plan.json").exists()
    assert plan()[0] == 0


def test_an_area_without_scenes(plan, tmp_path):
    status, _, err = plan(area="area.bbox=[100.0, 10.0, 100.1, 10.1]")
    assert status != 0
    is_one_line(err, "area: no scene of any source", "100.0", "check area, periods and collections")
    assert not (tmp_path / "root/plan/plan.json").exists()
    assert plan()[0] == 0


def test_a_source_without_scenes_stops_the_plan_unless_it_may_be_missing(plan, caplog):
    nothing = "sources.palsar2={catalog: sandbox, collections: [land-cover], required: %s}"
    status, _, err = plan(nothing % "true")
    assert status != 0
    is_one_line(err, "sources.palsar2: no scene", "land-cover", "sources.palsar2.required: false")
    assert plan(nothing % "false")[0] == 0
    assert "source palsar2 has no scene here and is left out" in caplog.text


def test_a_collection_that_the_catalog_does_not_have(plan):
    status, _, err = plan("sources.landsat.collections=[landsat-9]")
    assert status != 0
    is_one_line(err, "landsat-9", "sources.landsat", "1 x landsat: the catalog has no such collection")
    assert plan()[0] == 0


def test_a_root_that_cannot_be_written(plan, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = plan(root=tmp_path / "file" / "root")
    assert status != 0
    is_one_line(err, str(tmp_path / "file" / "root"), "not writable", "choose another root")
    assert plan()[0] == 0


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [("ingest", "run `aef plan`"), ("train", "run `aef ingest`")],
)
def test_a_stage_without_what_it_builds_on_names_the_stage_before(continued, stage, remedy, tmp_path):
    aef = Aef(tmp_path / "empty", continued().sandbox, free_port())
    done = aef.run(stage)
    assert done.status != 0
    (line,) = [line for line in done.err.splitlines() if line.startswith("aef ")]
    assert line.startswith(f"aef {stage}: error: ") and remedy in line
    assert "Traceback" not in done.err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_while_ingesting(finished, continued, small_disk):
    whole, _ = finished
    aef = continued("plan", root=small_disk)
    done = aef.run("ingest")
    text = done.out + done.err
    assert done.status != 0
    assert "Traceback" not in text
    lines = {line.strip() for line in text.splitlines() if "no space left" in line}
    assert lines and all(str(small_disk) in line and "free space or choose another root" in line for line in lines)
    assert len({re.sub(r"^\d+ x |^aef ingest: error: ", "", line) for line in lines}) == 1, lines
    kept = content(small_disk, "shards/**/*.shard.parquet")
    assert not (small_disk / "shards/current.json").exists()

    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    assert aef.run("ingest").status == 0
    shards = content(small_disk, "shards/**/*.shard.parquet")
    assert shards == content(whole.root, "shards/**/*.shard.parquet")
    assert kept.items() <= shards.items()


def test_a_training_that_leaves_all_bounds_says_so_and_keeps_no_damaged_checkpoint(continued):
    aef = continued("plan", "shards")
    settings = ("train.learning_rate=1e30", "train.warmup=1", "train.steps=10", "train.checkpoint_every=5")
    done = aef.run("train", *settings, "train.max_failures=0")
    assert done.status != 0
    assert "lower train.learning_rate" in done.out + done.err
    assert list(aef.root.glob("checkpoints/**/*.pt")) == []
