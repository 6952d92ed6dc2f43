"""Checkpoints: what comes back, what they are known by, and the schedule that they are taken on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aef_model import AlphaEarth
from pipelines.config import Config, ConfigError
from pipelines.sources.statistics import BandStatistics, Statistics
from pipelines.stages import checkpoint as checkpoints
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.modelling import model_config
from pipelines.stages.train import hash_seed, learning_rate, run_identity
from pipelines.storage import Storage
from tests.stages.worlds import config, sources_of

CONFIG = config(ingest={"text_encoder": None})


def statistics(mean=1.0):
    return Statistics(
        {
            name: BandStatistics(source.band_names, *(np.full(len(source.bands), x) for x in (9, mean, 2.0)))
            for name, source in sources_of(CONFIG).items()
            if name in ("sentinel2", "sentinel1", "era5", "gedi")
        }
    )


@pytest.fixture(scope="module")
def whole():
    torch.manual_seed(3)
    model = AlphaEarth(model_config(CONFIG))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return Checkpoint(
        identity="run",
        step=8,
        steps=24,
        model=model.cfg.to_dict(),
        bands={name: list(source.band_names) for name, source in sources_of(CONFIG).items()},
        statistics=statistics().to_json(),
        state={name: tensor.clone() for name, tensor in model.state_dict().items()},
        optimizer=optimizer.state_dict(),
        history=[{"step": 8.0, "total": 1.5}],
    )


def test_a_checkpoint_comes_back_bit_for_bit_and_builds_its_model(whole, tmp_path):
    storage = Storage(tmp_path)
    path = checkpoints.path_of("run", 8)
    checkpoints.save(storage, path, whole)
    back = checkpoints.load(storage, path)
    assert {name: value for name, value in vars(back).items() if name not in ("state", "optimizer")} == {
        name: value for name, value in vars(whole).items() if name not in ("state", "optimizer")
    }
    assert back.optimizer == whole.optimizer
    assert all(torch.equal(back.state[name], tensor) for name, tensor in whole.state.items())
    assert back.digest() == whole.digest()
    model, found = back.build()
    assert not model.training and found.digest() == statistics().digest()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state[name])
    assert back.sources()["sentinel2"].band_names == ("red", "nir")


def test_a_source_that_was_trained_as_a_target_only_is_none_of_the_checkpoints_inputs(whole):
    tree = CONFIG.model_dump()
    tree["sources"]["sentinel1"]["encoded"] = False
    model = model_config(Config.model_validate(tree))
    encoded = {source.name for source in model.sources if source.is_input}
    assert encoded == {"sentinel2"} and "sentinel1" in {source.name for source in model.sources}
    sources = replace(whole, model=model.to_dict()).sources()
    assert {name for name, source in sources.items() if source.is_input} == encoded and "sentinel1" in sources


def test_the_untrained_control_has_other_weights_and_always_the_same(whole):
    first, again = (whole.build(untrained=True)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], tensor) for name, tensor in whole.state.items())


def test_the_digest_follows_whatever_changes_an_embedding_and_nothing_else(whole):
    later = replace(whole, step=9, optimizer=None, history=[], identity="other")
    assert later.digest() == whole.digest()
    name = next(name for name, tensor in whole.state.items() if tensor.is_floating_point() and tensor.numel())
    nudged = whole.state[name].clone()
    nudged.view(-1)[0] = torch.nextafter(nudged.view(-1)[0], torch.tensor(9.0))
    changed = [
        replace(whole, state={**whole.state, name: nudged}),
        replace(whole, statistics=statistics(mean=1.001).to_json()),
        replace(whole, bands={**whole.bands, "sentinel2": ["nir", "red"]}),
        replace(whole, model={**whole.model, "name": "renamed"}),
    ]
    assert len({whole.digest(), *(one.digest() for one in changed)}) == 5


def test_the_newest_checkpoint_of_the_run_itself_is_found(whole, tmp_path):
    storage = Storage(tmp_path)
    assert checkpoints.latest(storage, "run") is None
    for step in (100, 20):
        checkpoints.save(storage, checkpoints.path_of("run", step), replace(whole, step=step))
    checkpoints.save(storage, checkpoints.path_of("other", 999), replace(whole, step=999))
    assert checkpoints.steps_on_storage(storage, "run") == [20, 100]
    newest = checkpoints.latest(storage, "run")
    assert newest is not None and newest.step == 100


def test_another_format_and_a_missing_model_are_said_with_the_remedy(whole, tmp_path, monkeypatch):
    storage = Storage(tmp_path)
    with pytest.raises(ConfigError, match=r"no trained model under .*; run `aef train` first"):
        checkpoints.trained(config(tmp_path))
    monkeypatch.setattr(checkpoints, "FORMAT", 99)
    checkpoints.save(storage, "checkpoints/x.pt", whole)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="another format version; train again"):
        checkpoints.load(storage, "checkpoints/x.pt")


@pytest.mark.parametrize("kept", [0, 1000, -1000])
def test_a_damaged_checkpoint_is_named_with_the_remedy(whole, tmp_path, kept):
    storage = Storage(tmp_path)
    checkpoints.save(storage, "checkpoints/x.pt", whole)
    storage.write_bytes_atomic("checkpoints/x.pt", storage.read_bytes("checkpoints/x.pt")[:kept])
    with pytest.raises(ConfigError, match=r"root: checkpoint damaged; delete .*x\.pt and run `aef train`"):
        checkpoints.load(storage, "checkpoints/x.pt")
    with pytest.raises(ConfigError, match=r"root: checkpoint .*y\.pt is missing; run `aef train`"):
        checkpoints.load(storage, "checkpoints/y.pt")
    storage.write_json("checkpoints/current.json", {})
    with pytest.raises(ConfigError, match=r"current\.json is damaged; delete it and run `aef train`"):
        checkpoints.trained(config(tmp_path))


def test_the_rate_rises_then_falls_in_straight_lines():
    settings = config(train={"steps": 100, "warmup": 10, "learning_rate": 0.5, "final_rate": 0.1})
    rates = [learning_rate(settings, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.05) and max(rates) == pytest.approx(rates[10]) == pytest.approx(0.5)
    assert np.diff(rates[:10]) == pytest.approx(0.05)
    assert np.diff(rates[10:]) == pytest.approx(-0.45 / 90)
    assert rates[100] == pytest.approx(0.05)
    assert learning_rate(config(train={"warmup": 0, "learning_rate": 0.5}), 0) == 0.5


def test_seeds_of_steps_and_ranks_do_not_meet():
    seeds = {hash_seed(seed, step, rank) for seed in range(3) for step in range(300) for rank in range(4)}
    assert len(seeds) == 3600 and all(0 <= seed < 2**63 for seed in seeds)


def test_a_run_is_known_by_its_data_and_settings_not_by_how_many_workers_it_has():
    def key(stats=1.0, paths=("a", "b"), **train):
        return run_identity(config(ingest={"text_encoder": None}, train=train), list(paths), statistics(stats))

    assert key() == key(workers=4) == key(checkpoint_every=3) == key(threads=2) == key(paths=("b", "a"))
    others = [key(batch=8), key(learning_rate=1e-4), key(steps=9), key(stats=2.0), key(paths=("a",)), key(crop_px=32)]
    assert len({key(), *others}) == len(others) + 1


def test_the_model_is_made_for_the_configured_sources():
    made = model_config(config())
    assert [source.name for source in made.inputs] == ["sentinel2", "sentinel1"]
    assert {source.name: source.classes for source in made.sources}["landcover"] == (1, 4, 9)
    assert made.text_dim > 0 and model_config(CONFIG).text_dim == 0
    with pytest.raises(ConfigError, match=r"train\.overrides\.depth: the model has no such setting; it has "):
        model_config(config(train={"overrides": {"depth": 3}}))
    with pytest.raises(ConfigError, match=r"train\.model: "):
        model_config(config(train={"model": "enormous"}))
