"""How a training step is put together, from parts that are tested elsewhere: what goes where, with which settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_batch
from torch.nn import functional as F

from aef_model import AlphaEarth, ModelConfig
from aef_model.losses import shift_invariant_error
from aef_model.model import source_error
from aef_model.perturb import drop_frames, student_view


@pytest.fixture(scope="module")
def step():
    """A step of two sequences without bottleneck noise, what went into it, and the draws that it made first."""
    torch.manual_seed(5)
    cfg = ModelConfig.named("tiny", kappa=None, teacher_drop=0.7, whole_period=0.5, consistency_every=1)
    model, batch = AlphaEarth(cfg).train(), make_batch(cfg, batch=2)
    batch.text = replace(batch.text, present=torch.tensor([True, True]))
    generator = torch.Generator().manual_seed(5)
    found = model(batch, torch.Generator().manual_seed(5), step=0)
    rates = {"sentinel2": 0.5 * 0.7, "sentinel1": 0.3 * 0.7, "landsat": 0.3 * 0.7}
    seen_by_teacher = drop_frames(batch.frames, rates, generator)
    seen_by_student, asked = student_view(
        batch.frames,
        batch.support_ms,
        {"sentinel2": 0.0, "sentinel1": 0.3, "landsat": 0.3},
        {"sentinel2": 0.5, "sentinel1": 0.3, "landsat": 0.3},
        generator,
        0.5,
    )
    with torch.no_grad():
        teacher, student = model.encode(seen_by_teacher), model.encode(seen_by_student)
        means = {name: model.summarise(teacher, period) for name, period in batch.periods_ms.items()}
        pair = model.summarise(teacher, asked), model.summarise(student, asked)
    assert any((seen_by_teacher.present[name] != x).any() for name, x in batch.frames.present.items())
    return model, batch, found, means, pair


def test_the_student_is_compared_with_the_teacher_over_its_own_period(step):
    _, _, found, _, (teacher, student) = step
    expected = (1 - (teacher * student).sum(-1)).mean() / 2
    torch.testing.assert_close(found.losses["consistency"], expected, rtol=1e-4, atol=1e-6)
    assert expected > 1e-3


@pytest.mark.parametrize("name", ["sentinel2", "sentinel1"])
def test_a_source_is_decoded_from_its_period_at_its_time_with_its_geometry(step, name):
    model, batch, found, means, _ = step
    target = batch.targets[name]
    decoded = model.decoders[name](
        means[target.period], target.time_ms, batch.periods_ms[target.period], target.geometry
    ).permute(0, 3, 1, 2)
    expected = shift_invariant_error(decoded, target.values, target.weight, 2).mean()
    torch.testing.assert_close(found.losses[f"reconstruction/{name}"], expected, rtol=1e-4, atol=1e-6)
    other = shift_invariant_error(decoded, target.values, target.weight, 1).mean()
    assert abs(float(other - expected)) > 1e-4


def test_uniformity_compares_one_period_of_the_two_places(step):
    _, _, found, means, _ = step
    candidates = [(u[0] * u[1]).sum(-1).abs().mean() for u in means.values()]
    assert min(abs(float(found.losses["uniformity"] - x)) for x in candidates) < 1e-5


def test_texts_are_compared_with_the_code_of_their_pixel(step):
    model, batch, found, means, _ = step
    text = batch.text
    place = means[text.period][torch.arange(2), text.row, text.col]
    there = model.text_head(text.vector, batch.periods_ms[text.period])
    logits = model.text_head.temperature() * place @ there.T
    label = torch.arange(2)
    expected = (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2
    torch.testing.assert_close(found.losses["text"], expected, rtol=1e-4, atol=1e-6)


def test_the_total_is_the_weighted_sum_of_the_terms(step):
    model, batch, found, _, _ = step
    weights = {name: model.cfg.source(name).loss_weight for name in batch.targets}
    mean = sum(w * found.losses[f"reconstruction/{name}"] for name, w in weights.items()) / sum(weights.values())
    torch.testing.assert_close(found.losses["reconstruction"], mean)
    cfg = model.cfg
    total = (
        cfg.reconstruction_weight * mean
        + cfg.uniformity_weight * found.losses["uniformity"]
        + cfg.consistency_weight * found.losses["consistency"]
        + cfg.text_weight * found.losses["text"]
    )
    torch.testing.assert_close(found.total, total)


def test_places_of_one_site_are_not_driven_apart():
    cfg = ModelConfig.named("tiny", kappa=None, teacher_drop=0.0)
    batch = make_batch(cfg, batch=2)
    batch.site = torch.tensor([4, 4])
    torch.manual_seed(0)
    assert float(AlphaEarth(cfg)(batch, step=1).losses["uniformity"]) == 0.0


def test_the_vector_of_an_absent_text_may_be_anything():
    cfg = ModelConfig.named("tiny")
    batch = make_batch(cfg)
    batch.text.present[-1] = False
    batch.text.vector[-1] = float("nan")
    model = AlphaEarth(cfg)
    model(batch, torch.Generator().manual_seed(0), step=0).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_target_of_which_nothing_is_known_does_not_count_whatever_its_weight():
    cfg = ModelConfig.named("tiny", targets=("elevation", "nlcd"))
    model, batch = AlphaEarth(cfg).eval(), make_batch(cfg)
    batch.targets = {name: batch.targets[name] for name in ("sentinel2", "elevation", "nlcd")}
    batch.targets["elevation"].values.fill_(float("nan"))
    batch.targets["nlcd"].values.fill_(-1)
    with torch.no_grad():
        found = model(batch, torch.Generator().manual_seed(0)).losses
    torch.testing.assert_close(found["reconstruction"], found["reconstruction/sentinel2"])


def test_embedding_with_a_model_in_training_is_that_of_evaluation_and_teaches_it_nothing():
    cfg = ModelConfig.named("tiny", code_norm="batch")
    torch.manual_seed(0)
    model, batch = AlphaEarth(cfg).train(), make_batch(cfg)
    before = model.upsampler.norm.mean.clone()
    whole = model.embed(batch.frames, batch.support_ms)
    assert model.training and torch.equal(model.upsampler.norm.mean, before)
    torch.testing.assert_close(model.embed(batch.frames, batch.support_ms, max_patches=1), whole)


def moved(mean, kappa, generator):
    """In place of a sample: somewhere that tells it from the mean."""
    return F.normalize(mean + 0.5 * (torch.arange(mean.shape[-1]) == 3), dim=-1)


def test_decoders_and_uniformity_see_samples_and_texts_the_mean(step, monkeypatch):
    model, batch, _, means, _ = step
    monkeypatch.setattr("aef_model.model.sample_von_mises_fisher", moved)
    noisy = AlphaEarth(replace(model.cfg, kappa=8000.0)).train()
    noisy.load_state_dict(model.state_dict())
    with torch.no_grad():
        found = noisy(batch, torch.Generator().manual_seed(5), step=0).losses
    samples = {name: moved(mean, None, None) for name, mean in means.items()}
    target = batch.targets["sentinel2"]
    decoded = model.decoders["sentinel2"](
        samples[target.period], target.time_ms, batch.periods_ms[target.period], target.geometry
    ).permute(0, 3, 1, 2)
    expected = shift_invariant_error(decoded, target.values, target.weight, 2).mean()
    torch.testing.assert_close(found["reconstruction/sentinel2"], expected, rtol=1e-4, atol=1e-6)
    candidates = [(u[0] * u[1]).sum(-1).abs().mean() for u in samples.values()]
    assert min(abs(float(found["uniformity"] - x)) for x in candidates) < 1e-5
    torch.testing.assert_close(found["text"], step[2].losses["text"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["consistency"], step[2].losses["consistency"], rtol=1e-4, atol=1e-6)


def by_cells(values, weight, size, phase):
    """``(cells)`` sums of values times weights, and of weights, of a grid that begins ``phase`` before the patch."""
    cells = {}
    for i, j in np.ndindex(values.shape[-2:]):
        total, known = cells.setdefault(((i + phase[0]) // size, (j + phase[1]) // size), [0.0, 0.0])
        w = weight[..., i, j]
        cells[(i + phase[0]) // size, (j + phase[1]) // size] = [total + w * values[..., i, j], known + w]
    return np.stack([total for total, _ in cells.values()], -1), np.stack([known for _, known in cells.values()], -1)


@pytest.mark.parametrize("name", ["landsat", "palsar2", "gedi", "elevation"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sources_are_compared_on_their_nominal_grid_from_a_random_phase_on(name: str, seed: int):
    source = ModelConfig.named("tiny").source(name)
    g = torch.Generator().manual_seed(seed)
    prediction, values = torch.randn(2, 2, len(source.bands), 13, 11, generator=g)
    weight = (torch.rand(values.shape, generator=g) < 0.7).float()
    found = source_error(source, prediction, values, weight, torch.Generator().manual_seed(seed))
    size = source.regrid_px
    phase = torch.randint(size, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    (p, known), (v, _) = (
        by_cells(x.double().numpy(), weight.double().numpy(), size, phase) for x in (prediction, values)
    )
    error = np.abs(p - v).sum() / size**2  # each cell counts with the area that is known of it
    assert float(found.error) == pytest.approx(error, rel=1e-4)
    assert float(found.weight) == pytest.approx(known.sum() / size**2, rel=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_classes_are_compared_by_their_shares_of_the_nominal_grids_cells(seed: int):
    source = ModelConfig.named("tiny").source("nlcd")
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, source.outputs, 13, 11, generator=g)
    classes = torch.randint(-1, source.outputs, (2, 13, 11), generator=g)
    found = source_error(source, logits, classes, (classes >= 0).float(), torch.Generator().manual_seed(seed))
    phase = torch.randint(3, (2,), generator=torch.Generator().manual_seed(seed)).tolist()
    known = (classes >= 0).double()[:, None].expand(-1, source.outputs, -1, -1).numpy()
    shares = F.one_hot(classes.clamp_min(0), source.outputs).movedim(-1, 1).double().numpy()
    (p, area), (t, _) = (by_cells(x, known, 3, phase) for x in (logits.double().softmax(1).numpy(), shares))
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(area[:, 0] > 0, -(t / area * np.log(p / area)).sum(axis=1), 0.0)
    assert float(found.error) == pytest.approx((each * area[:, 0]).sum() / 9, rel=1e-4)
    assert float(found.weight) == pytest.approx(area[:, 0].sum() / 9, rel=1e-5)


def test_a_damaged_weight_is_seen_in_the_loss_and_in_the_embedding():
    cfg = ModelConfig.named("tiny")
    model, batch = AlphaEarth(cfg), make_batch(cfg)
    with torch.no_grad():
        model.blocks[0].precision.widen.weight[0, 0] = float("nan")
    assert not torch.isfinite(model(batch, torch.Generator().manual_seed(0), step=0).total)
    assert not torch.isfinite(model.embed(batch.frames, batch.support_ms)).any()


def test_a_batch_without_anything_to_learn_gives_every_parameter_a_gradient_of_zero():
    cfg = ModelConfig.named("tiny", uniformity_weight=0.0, consistency_weight=0.0)
    model, batch = AlphaEarth(cfg), make_batch(cfg)
    batch.targets, batch.text = {}, None
    model(batch, torch.Generator().manual_seed(0), step=0).total.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_the_temperature_comes_back_from_its_limit():
    head = AlphaEarth(ModelConfig.named("tiny")).text_head
    with torch.no_grad():
        head.log_scale.fill_(9.0)
    head.temperature().backward()
    assert float(head.temperature()) == pytest.approx(100.0) and float(head.log_scale.grad) == pytest.approx(100.0)
