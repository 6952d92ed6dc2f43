import json

import pytest

from benchmarks import ablations
from pipelines.config import load_config
from pipelines.stages.modelling import model_config

CONFIG = "configs/sandbox_tiny.yaml"


@pytest.mark.parametrize("factor", sorted(ablations.FACTORS))
def test_every_factor_is_a_valid_configuration_and_changes_something(factor):
    plain = load_config(CONFIG)
    config = load_config(CONFIG, ablations.FACTORS[factor])
    changed = (config.train, model_config(config)) != (plain.train, model_config(plain))
    same = {"reference", "space_operator_on", "code_norm_half_white"}  # those that the tiny sandbox has anyway
    assert (config.train.overrides != plain.train.overrides or changed) or factor in same


def test_the_table_has_means_over_seeds():
    rows = [
        {"factor": "reference", "seed": seed, "figures": {"crop@10": value, "effective rank": 5}}
        for seed, value in ((0, 0.5), (1, 0.7))
    ]
    lines = ablations.table(rows).splitlines()
    assert lines[0].split() == ["factor", "seeds", "crop@10", "effective", "rank"]
    assert lines[1].split() == ["reference", "2", "0.600", "5.000"]


def test_a_finished_factor_is_not_done_again_and_other_settings_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "_aef", lambda *_: pytest.fail("a stage was run"))
    row = {"config": CONFIG, "extra": [], "factor": "noise_off", "seed": 0, "figures": {"crop@10": 0.5}}
    (tmp_path / "ablations.json").write_text(json.dumps([row]))
    assert ablations.measure(CONFIG, tmp_path, ["noise_off"], [0], []) == [row]
    with pytest.raises(ValueError, match="made with other settings"):
        ablations.measure(CONFIG, tmp_path, ["noise_off"], [0], ["train.steps=2"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_steps_of_one_factor(finished, continued, tmp_path):
    whole, _ = finished
    (tmp_path / "sandbox").symlink_to(whole.sandbox)
    continued("plan", "shards", "texts", root=tmp_path / "base_0")
    extra = [
        "train.steps=2",
        f"sandbox.port={whole.port}",
        f"catalogs.sandbox.url=http://127.0.0.1:{whole.port}",
    ]
    (row,) = ablations.measure(CONFIG, tmp_path, ["targets_among_inputs"], [0], extra)
    assert {"land_cover@1", "change@max", "effective rank"} <= set(row["figures"])
    shard = next(path for path in (tmp_path / "base_0/shards/train").rglob("*") if path.is_file())
    assert shard.samefile(tmp_path / "targets_among_inputs_0" / shard.relative_to(tmp_path / "base_0"))
