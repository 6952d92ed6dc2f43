"""A root holds one plan: what it was made for is known, a change is named, and nothing is mixed or done twice."""

import json

import pytest

from pipelines.cli import main
from tests.catalogs import static_world


@pytest.fixture
def aef(tmp_path, capsys):
    """A command over a static catalog: status, standard output, standard error."""
    path = tmp_path / "region.yaml"
    tree = {
        "root": str(tmp_path / "root"),
        "area": {"bbox": [10.0, 50.0, 10.05, 50.03]},
        "periods": [["2020-01-01", "2021-01-01"]],
        "catalogs": {"here": {"kind": "static", "url": str(static_world.write(tmp_path / "catalog"))}},
        "sources": {"sentinel2": {"catalog": "here", "collections": ["optical"]}},
        "plan": {"tile_px": 64, "site_px": 32},
        "ingest": {"text_encoder": None},
    }
    path.write_text(json.dumps(tree))

    def _aef(*words):
        status = main([words[0], "--config", str(path), *words[1:]])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return _aef


def content(root):
    return {path: path.read_bytes() for path in sorted((root / "plan").rglob("*")) if path.is_file()}


OTHERS = [
    ("area.bbox.2=10.04", "area"),
    ("periods.0.1=2020-12-31", "periods"),
    ("sources.era5={catalog: here, collections: [none], required: false}", "sources"),
    ("seed=3", "seed"),
    ("plan.tile_px=128", "plan settings"),
]


@pytest.mark.parametrize(("change", "name"), OTHERS)
def test_a_plan_of_something_else_is_never_taken_nor_written_over_unasked(aef, tmp_path, change, name):
    change = change.replace("2020-12-31", "'2020-12-31'")
    assert aef("plan")[0] == 0
    before = content(tmp_path / "root")
    for stage in ("plan", "run", "ingest"):
        status, _, err = aef(stage, "--set", change)
        (line,) = err.splitlines()
        assert status == 2
        assert line.startswith(f"aef {stage}: error: {tmp_path}/region.yaml: root: the plan under {tmp_path}/root was ")
        assert f"was made for other {name}; give another root, or run `aef plan --refresh`" in line
    assert content(tmp_path / "root") == before

    assert aef("plan", "--refresh", "--set", change)[0] == 0
    assert "already done" in aef("plan", "--set", change)[1]
    scenes = list((tmp_path / "root/plan/scenes").rglob("*.parquet"))
    assert len({path.parent for path in scenes}) == 1  # none of the plan before is left
    assert aef("plan")[0] == 2


@pytest.mark.parametrize(
    "change",
    [
        "sources.sentinel2.loss_weight=2", "sources.sentinel2.required=false", "train.steps=3", "embed.batch=3",
        "ingest.workers=1", "evaluate={labels: [x], tasks: [{name: a, kind: regression, column: c}]}",
        "catalogs.unused={kind: static, url: nowhere}",
    ],
)  # fmt: skip
def test_what_only_later_stages_go_by_leaves_the_plan_as_it_is(aef, tmp_path, change):
    assert aef("plan")[0] == 0
    before = content(tmp_path / "root")
    status, out, err = aef("plan", "--set", change)
    assert (status, err) == (0, "") and "already done" in out
    assert content(tmp_path / "root") == before


def test_a_search_that_fails_leaves_the_plan_before_it_whole(aef, tmp_path):
    assert aef("plan")[0] == 0
    before = content(tmp_path / "root")
    assert aef("plan", "--refresh", "--set", "area.bbox=[100, 10, 100.1, 10.1]")[0] == 2
    assert content(tmp_path / "root") == before
    assert "already done" in aef("plan")[1]


def test_a_plan_of_another_version_of_the_program_is_made_again_without_being_asked(aef, tmp_path):
    assert aef("plan")[0] == 0
    path = tmp_path / "root/plan/plan.json"
    plan = json.loads(path.read_text())
    plan["parts"]["code"] = "older"
    path.write_text(json.dumps(plan))
    status, out, _ = aef("plan")
    assert status == 0 and "made by another version of the program; searching again" in out
    assert "already done" in aef("plan")[1]


def test_a_damaged_plan_is_named_with_the_remedy(aef, tmp_path):
    assert aef("plan")[0] == 0
    for text in ("{}", "[]", "null", "not json"):
        (tmp_path / "root/plan/plan.json").write_text(text)
        for command in ("plan", "status", "ingest"):
            status, _, err = aef(command)
            (line,) = err.splitlines()
            assert status != 0 and "plan/plan.json is damaged; delete it and run `aef plan`" in line
    assert aef("plan", "--refresh")[0] == 0


def test_a_root_that_is_a_file(aef, tmp_path):
    (tmp_path / "root").write_text("")
    status, _, err = aef("plan")
    (line,) = err.splitlines()
    assert status != 0 and f"root {tmp_path}/root is not writable" in line and "choose another root" in line


def test_a_plan_says_what_memory_reading_takes_and_names_what_it_could_not_use(aef, tmp_path):
    status, out, _ = aef("plan")
    assert status == 0
    assert "[plan] memory: the largest read holds" in out and "stays below 2048 MB (ingest.memory_mb)" in out
    named = json.loads((tmp_path / "root/reports/plan_refused.json").read_text())
    assert named == {"sentinel2: the item has no geometry": ["nowhere"]}
    assert "[plan] items that cannot be used: 1, named in " in out
