"""Losses of a whole batch, gradients, learning."""

from dataclasses import replace

import pytest
import torch
from conftest import make_batch
from torch.utils.flop_counter import FlopCounterMode

from aef_model import AlphaEarth, FrameSequence, ModelConfig


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AlphaEarth(ModelConfig.named("tiny"))


def test_every_term_and_every_source_is_there(model):
    out = model(make_batch(model.cfg), seeded())
    sources = {f"reconstruction/{source.name}" for source in model.cfg.sources}
    assert set(out.losses) == {"reconstruction", "uniformity", "consistency", "text"} | sources
    assert all(value.isfinite() for value in out.losses.values())
    cfg = model.cfg
    weights = {source.name: source.loss_weight for source in cfg.sources}
    mean = sum(w * out.losses[f"reconstruction/{n}"] for n, w in weights.items()) / sum(weights.values())
    torch.testing.assert_close(out.losses["reconstruction"], mean)
    total = mean + 0.1 * out.losses["uniformity"] + 0.02 * 4 * out.losses["consistency"] + 0.001 * out.losses["text"]
    torch.testing.assert_close(out.total, total)


def test_gradients_reach_every_parameter(model):
    # zero-initialised scales pass gradients on only after a first step
    model(make_batch(model.cfg), seeded()).total.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not idle
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_an_absent_source_costs_nothing_and_breaks_nothing(model):
    batch = make_batch(model.cfg)
    full = model(batch, seeded(), step=1)
    del batch.targets["gedi"], batch.targets["era5"]
    for part in vars(batch.frames).values():
        del part["landsat"]
    batch.text = None
    out = model(batch, seeded(), step=1)
    assert "reconstruction/gedi" not in out.losses and "text" not in out.losses and out.total < full.total * 2
    out.total.backward()
    assert all(p.grad is not None for p in model.parameters())  # DistributedDataParallel waits for each
    for idle in (model.decoders["gedi"], model.projectors["landsat"], model.text_head):
        assert all(p.grad.abs().max() == 0 for p in idle.parameters())


def test_a_target_without_a_known_pixel_does_not_count(model):
    model.eval()
    batch = make_batch(model.cfg)
    batch.targets = {name: batch.targets[name] for name in ("sentinel2", "gedi")}
    gedi = batch.targets["gedi"]
    batch.targets["gedi"] = replace(gedi, values=gedi.values * float("nan"), weight=gedi.weight * 0)
    out = model(batch, seeded())
    torch.testing.assert_close(out.losses["reconstruction"], out.losses["reconstruction/sentinel2"])
    out.total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_two_targets_of_a_sequence_count_like_each_alone(model):
    model.eval()
    batch = make_batch(model.cfg)
    first, second = (
        replace(t, values=t.values.nan_to_num(), weight=torch.ones_like(t.weight))
        for t in (make_batch(model.cfg, seed=s).targets["palsar2"] for s in (1, 2))
    )
    assert (first.time_ms != second.time_ms).any()
    pairs = {
        name: torch.stack([getattr(first, name), getattr(second, name)], dim=1).flatten(0, 1)
        for name in ("values", "weight", "time_ms", "geometry")
    }
    errors = []
    for target in (first, second, replace(first, **pairs)):
        batch.targets = {"palsar2": target}
        errors.append(model(batch, seeded()).losses["reconstruction/palsar2"])
    assert errors[0] != errors[1]
    torch.testing.assert_close(errors[2], (errors[0] + errors[1]) / 2)


def test_student_runs_every_kth_step(model):
    batch = make_batch(model.cfg)
    assert ["consistency" in model(batch, seeded()).losses for _ in range(5)] == [True, False, False, False, True]
    assert "consistency" in model(batch, seeded(), step=8).losses


def test_training_is_random_by_generator_only_and_evaluation_not_at_all(model):
    batch = make_batch(model.cfg)
    a, b, c = (model(batch, seeded(s), step=1).total for s in (0, 0, 1))
    assert a == b and a != c
    model.eval()
    batch.targets = {"elevation": batch.targets["elevation"]}  # re-gridded: only its phase is drawn
    batch.targets["elevation"].weight[:] = 1
    one, two = (model(batch, seeded(s)).losses["reconstruction/elevation"] for s in (0, 1))
    torch.testing.assert_close(one, two, rtol=0.05, atol=0)


def test_the_bottleneck_is_noisy_in_training_only(model):
    cfg = replace(model.cfg, teacher_drop=0.0, uniformity_weight=0.0, consistency_weight=0.0)
    noisy = AlphaEarth(cfg)
    quiet = AlphaEarth(replace(cfg, kappa=None))
    quiet.load_state_dict(noisy.state_dict())
    batch = make_batch(cfg)
    batch.targets = {"sentinel1": batch.targets["sentinel1"]}
    batch.text = None
    assert noisy(batch, seeded()).total != quiet(batch, seeded()).total
    torch.testing.assert_close(noisy.eval()(batch, seeded()).total, quiet.eval()(batch, seeded()).total)


def test_gradients_flow_to_teacher_and_student(model, monkeypatch):
    seen = []
    from aef_model import losses

    def watch(teacher, student):
        seen.extend((teacher, student))
        return original(teacher, student)

    original = losses.consistency
    monkeypatch.setattr(losses, "consistency", watch)
    model(make_batch(model.cfg), seeded())
    assert all(x.requires_grad for x in seen) and not torch.equal(*seen)


def test_checkpointing_gives_the_same_gradients(model):
    saving = AlphaEarth(replace(model.cfg, checkpoint_blocks=True))
    saving.load_state_dict(model.state_dict())
    batch = make_batch(model.cfg, batch=2)
    for net in (model, saving):
        net(batch, seeded()).total.backward()
    for (name, a), b in zip(model.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_overfits_one_batch():
    """Three sites' own patterns, seen in the inputs, are reconstructed: the error falls to under a third."""
    torch.manual_seed(0)
    cfg = ModelConfig.named("tiny", targets=("elevation", "landcover"), consistency_every=20)
    model = AlphaEarth(cfg)
    batch = make_batch(cfg, batch=3, size=(16, 16))
    batch.text = None
    blocks = torch.randn(3, 1, 4, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)
    for name, target in batch.targets.items():
        if target.values.is_floating_point():
            batch.targets[name] = replace(
                target, values=blocks.expand_as(target.values), weight=torch.ones_like(target.weight)
            )
        else:
            batch.targets[name] = replace(
                target, values=(blocks[:, 0] > 0).long(), weight=torch.ones_like(target.weight)
            )
    for pixels in batch.frames.pixels.values():
        pixels.mul_(0.1).add_(blocks[:, None])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    first, history = None, []
    for step in range(45):
        out = model(batch, seeded(step))
        optimizer.zero_grad()
        out.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        first = first if first is not None else out.losses["reconstruction"].item()
        history.append(out.losses["reconstruction"].item())
    assert sum(history[-5:]) / 5 < first / 3


def test_base_has_the_papers_size_and_work():
    """480 M parameters; SPEC 2.4 puts a forward of 103 frames at about 14.6 TFLOP."""
    frames = {"sentinel2": 65, "sentinel1": 17, "landsat": 21}
    with torch.device("meta"):
        models = {name: AlphaEarth(ModelConfig.named(name)) for name in ("base", "large")}
        base = models["base"]
        pixels = {s.name: torch.empty(1, frames[s.name], len(s.bands), 128, 128) for s in base.cfg.inputs}
        time_ms = {name: torch.empty(1, n, dtype=torch.int64) for name, n in frames.items()}
        present = {name: torch.empty(1, n, dtype=torch.bool) for name, n in frames.items()}
        with FlopCounterMode(display=False) as counter:
            base.embed(FrameSequence(pixels, time_ms, present), torch.empty(1, 2, dtype=torch.int64))
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert abs(sizes["base"] / 480e6 - 1) < 0.05
    assert abs(sizes["large"] / 1e9 - 1) < 0.1
    assert 10e12 < counter.get_total_flops() < 16e12


WRONG = {
    "sentinel2: 4 bands given, the model has 5": lambda b: cut(b.frames.pixels, "sentinel2", (..., slice(4), ALL, ALL)),
    "'radar' is no input": lambda b: b.frames.pixels.update(radar=b.frames.pixels["sentinel2"]),
    "landsat: 4 patches of 32x16": lambda b: cut(b.frames.pixels, "landsat", (..., slice(16))),
    "sentinel2: patch of 32x20": lambda b: cut(b.frames.pixels, "sentinel2", (..., slice(20))),
    "sentinel2: pixels must be normalised": lambda b: turn(b.frames.pixels, "sentinel2", torch.int16),
    "sentinel2: pixels must be .B, N": lambda b: cut(b.frames.pixels, "sentinel2", 0),
    "time_ms is of .*landsat.*pixels are of": lambda b: b.frames.pixels.pop("landsat"),
    "no frames of any source": lambda b: b.frames.pixels.clear(),
    "sentinel1: time_ms must be torch.int64": lambda b: turn(b.frames.time_ms, "sentinel1", torch.float32),
    "sentinel1: present must be 4x3": lambda b: cut(b.frames.present, "sentinel1", (ALL, slice(1))),
    "sentinel1: time_ms and present": lambda b: b.frames.present.pop("sentinel1"),
    "support_ms ends before it starts": lambda b: setattr(b, "support_ms", b.support_ms.flip(1)),
    "period 'rest' must be int64": lambda b: turn(b.periods_ms, "rest", torch.float32),
    "refers to period 'rest'": lambda b: b.periods_ms.pop("rest"),
    "unknown source 'radar'": lambda b: b.targets.update(radar=b.targets["gedi"]),
    "gedi: target values must be 4x101x32x32": lambda b: b.targets.update(gedi=b.targets["elevation"]),
    "era5: target values must be 4x12x1x1": lambda b: b.targets.update(era5=b.targets["gedi"]),
    "landcover: class indices": lambda b: turn(vars(b.targets["landcover"]), "values", torch.int32),
    "sentinel1: target geometry must be 4x2": lambda b: setattr(b.targets["sentinel1"], "geometry", torch.zeros(4, 3)),
    "text: vector must be 4x384": lambda b: setattr(b.text, "vector", torch.zeros(4, 5)),
}
ALL = slice(None)


def cut(tensors, name, index):
    tensors[name] = tensors[name][index]


def turn(tensors, name, dtype):
    tensors[name] = tensors[name].to(dtype)


@pytest.mark.parametrize("message", WRONG)
def test_what_does_not_fit_is_named(tiny, message):
    batch = make_batch(tiny.cfg)
    WRONG[message](batch)
    with pytest.raises(ValueError, match=message):
        tiny(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "huge"}, "unknown model size 'huge'"),
        ({"name": "tiny", "inputs": ("gedi",)}, "'gedi' is no input source"),
        ({"name": "tiny", "targets": ("modis",)}, "'modis' is no target-only source"),
        ({"name": "tiny", "width": 3}, "unknown model setting width"),
        ({"name": "tiny", "space_heads": 5}, "space_dim 96"),
    ],
)
def test_wrong_configurations_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.named(**arguments)


def test_a_checkpoint_of_another_version_is_refused():
    values = ModelConfig.named("tiny").to_dict()
    with pytest.raises(ValueError, match="unknown model setting colour"):
        ModelConfig.from_dict({**values, "colour": 1})
    with pytest.raises(ValueError, match="kappa 100"):
        AlphaEarth(ModelConfig.named("tiny", kappa=100.0))
