"""``configs/paper.yaml`` says what SPEC says of the paper's training, and leaves none of it to defaults."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from aef_model import ModelConfig
from pipelines.catalogs import open_catalog
from pipelines.config import TrainConfig, load_config
from pipelines.sources import source
from pipelines.stages.modelling import model_config
from pipelines.stages.train import learning_rate

PATH = Path(__file__).parent.parent / "configs/paper.yaml"
CONFIG = load_config(PATH)


def test_the_model_is_base_with_all_of_the_papers_sources_and_losses():
    """Nothing differs from the named size but what is recomputed; SPEC 3 and 5.4 for v2.1."""
    cfg = model_config(CONFIG)
    assert cfg == ModelConfig.named("base", checkpoint_blocks=True)
    terms = (cfg.reconstruction_weight, cfg.uniformity_weight, cfg.consistency_weight, cfg.text_weight)
    assert terms == (1.0, 0.05, 0.02, 0.001)
    assert (cfg.kappa, cfg.consistency_every, cfg.teacher_drop, cfg.whole_period) == (8000.0, 1, 1.0, 0.0)
    assert {name: cfg.source(name).loss_weight for name in ("grace", "nlcd", "cdl")} == {
        "grace": 0.5,
        "nlcd": 0.25,
        "cdl": 0.25,
    }
    assert "text" in CONFIG.sources and CONFIG.ingest.text_encoder is not None
    assert not any(part.required for part in CONFIG.sources.values())  # v2.1


def test_training_is_that_of_section_4():
    train = CONFIG.train
    assert (train.batch, train.steps, train.crop_px) == (256, 100_000, 128)
    assert train.max_frames == {"sentinel2": 65, "sentinel1": 17, "landsat": 21}
    assert (train.max_targets, train.hold_out, train.shared_periods, train.whole_period) == (1, True, False, 0.0)
    assert train.weight_decay == 0.0 and train.steps_per_draw == 1
    rates = [learning_rate(CONFIG, step) for step in (0, 499, 999, 1000, 50_500, 100_000)]
    assert rates == pytest.approx([1e-7, 5e-5, 1e-4, 1e-4, 5e-5, 0.0])
    steps = np.array([learning_rate(CONFIG, step) for step in range(1000)])
    assert np.diff(steps) == pytest.approx(1e-7)


def test_sites_are_those_of_section_4():
    plan = CONFIG.plan
    assert (plan.sites, plan.site_px, plan.spacing_m, plan.periods_per_site) == (5_145_244, 128, 1280, 2)
    assert [(part.sites, part.limits) for part in plan.strata] == [(10_000, {"0": 500}), (4141, {}), (2968, {})]
    assert plan.texts_first and plan.land is not None
    kept = CONFIG.embed.patch_px - 2 * CONFIG.embed.margin_px
    assert (10 * kept, 10 * CONFIG.embed.patch_px) == (960, 1280)


def test_no_setting_of_training_is_left_to_the_defaults_of_a_smaller_model():
    """A size sets none of them: ``train.model: base`` alone would train with tiny's rate, batch and crops."""
    given = set(yaml.safe_load(PATH.read_text())["train"])
    assert given == set(TrainConfig.model_fields) - {"max_failures"}


def test_its_catalogs_open_and_its_sources_have_the_papers_bands():
    for name, part in CONFIG.catalogs.items():
        assert open_catalog(name, part.kind, part.url, **part.options).name == name
    assert all(CONFIG.source(name) == source(name) for name in CONFIG.sources)


def test_the_configuration_says_that_it_was_not_run_and_which_addresses_are_missing():
    text = PATH.read_text()
    assert "NOT RUN" in text.split("root:")[0]
    assert text.count("BUCKET") > 1 and "HOST" in text
