"""Losses of a whole batch, what of it may be missing, learning."""

from dataclasses import replace

import pytest
import torch
from conftest import DAY, make_batch
from torch.utils.flop_counter import FlopCounterMode

from aef_model import AlphaEarth, FrameSequence, ModelConfig
from aef_model.config import PAPER_SOURCES, SourceConfig


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


def test_each_source_is_decoded_from_its_own_period(model):
    model.eval()
    batch = make_batch(model.cfg)
    before = model(batch, seeded()).losses
    batch.periods_ms["rest"] = batch.periods_ms["rest"] - 40 * DAY
    after = model(batch, seeded()).losses
    for source in model.cfg.sources:
        name = f"reconstruction/{source.name}"
        assert torch.equal(before[name], after[name]) == source.is_input
    assert torch.equal(before["text"], after["text"])


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


@pytest.mark.parametrize(
    ("setting", "tolerance"), [({"checkpoint_blocks": True}, 0.0), ({"attention": "fused"}, 1e-4)], ids=str
)
def test_recomputing_or_fusing_gives_the_same_gradients(model, setting, tolerance):
    """Recomputed, the same operations; fused, sums in another order."""
    other = AlphaEarth(replace(model.cfg, **setting))
    other.load_state_dict(model.state_dict())
    batch = make_batch(model.cfg, batch=2)
    for net in (model, other):
        net(batch, seeded()).total.backward()
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= tolerance * a.grad.norm() + 1e-6, name


COMPILED = {
    "all of tiny": {},
    "smoothed": {
        "inputs": ("sentinel2",), "targets": ("nlcd",), "exchange_up": "smoothed", "blocks": 1, "kappa": None,
        "teacher_drop": 0.0, "consistency_weight": 0.0, "text_dim": 0,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiling takes minutes on one core
@pytest.mark.parametrize("settings", COMPILED)
def test_compiled_training_agrees_with_eager(settings):
    """Losses to 1e-4 and each parameter's gradient to a cosine of 0.9999, with the same draws.

    The first with all three inputs, both blocks, every decoder, texts, lost frames, noise and the student.
    """
    torch.manual_seed(0)
    cfg = ModelConfig.named("tiny", **COMPILED[settings])
    model, batch = AlphaEarth(cfg), make_batch(cfg, batch=3)
    if not cfg.text_dim:
        batch.text = None
    torch.manual_seed(1)
    eager = model(batch, step=0)
    eager.total.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    encode, summarise = model.encode, model.summarise
    model.encode, model.summarise = torch.compile(encode), torch.compile(summarise)
    torch.manual_seed(1)
    out = model(batch, step=0)
    out.total.backward()
    assert set(out.losses) == set(eager.losses)
    for name, loss in eager.losses.items():
        torch.testing.assert_close(out.losses[name], loss, rtol=1e-4, atol=1e-6)
    for (name, p), grad in zip(model.named_parameters(), expected, strict=True):
        assert torch.nn.functional.cosine_similarity(p.grad.flatten(), grad.flatten(), dim=0) > 0.9999, name


def test_overfits_one_batch():
    """Three sites' own patterns, seen in the inputs, are reconstructed from every source at once: each error falls to
    under two fifths, while teacher and student come to agree, texts find their sites and codes spread over the sphere.
    """
    torch.manual_seed(0)
    cfg = ModelConfig.named("tiny", consistency_every=2, text_weight=0.01)
    model, batch = AlphaEarth(cfg), make_batch(cfg, batch=3, size=(16, 16))
    pattern = torch.randn(3, 1, 4, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)
    for name, target in batch.targets.items():
        source = cfg.source(name)
        if source.classes is None:
            values = (pattern if source.extent else pattern.mean((-2, -1), keepdim=True)).expand_as(target.values)
        else:
            values = (pattern[:, 0] > 0).long()
        batch.targets[name] = replace(target, values=values, weight=torch.ones_like(target.weight))
    for pixels in batch.frames.pixels.values():
        pixels.mul_(0.1).add_(pattern[:, None])
    batch.text.present[:] = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    history = []
    for step in range(60):
        out = model(batch, seeded(step), step=step)
        optimizer.zero_grad()
        out.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append({name: float(loss.detach()) for name, loss in out.losses.items()})
    first, last = history[0], {name: sum(x[name] for x in history[-10::2]) / 5 for name in history[-2]}
    assert (
        set(last)
        == set(first)
        == {"reconstruction", "uniformity", "consistency", "text"}
        | {f"reconstruction/{source.name}" for source in cfg.sources}
    )
    for name, loss in first.items():
        most = {"uniformity": 0.4, "consistency": 0.1, "text": 0.1, "reconstruction": 0.25}.get(name, 0.4)
        assert last[name] < most * loss, (name, loss, last[name])


def test_sizes_and_work():
    """480 M parameters; SPEC 2.4 puts a forward of 103 frames at about 14.6 TFLOP. Ours may do at most 16."""
    frames = {"sentinel2": 65, "sentinel1": 17, "landsat": 21}
    parameters, work = {}, {}
    for name in ("tiny", "small", "base", "large"):
        with torch.device("meta"):
            model = AlphaEarth(ModelConfig.named(name))
            pixels = {s.name: torch.empty(1, frames[s.name], len(s.bands), 128, 128) for s in model.cfg.inputs}
            time_ms = {name: torch.empty(1, n, dtype=torch.int64) for name, n in frames.items()}
            present = {name: torch.empty(1, n, dtype=torch.bool) for name, n in frames.items()}
            with FlopCounterMode(display=False) as counter:
                model.embed(FrameSequence(pixels, time_ms, present), torch.empty(1, 2, dtype=torch.int64))
        parameters[name] = sum(p.numel() for p in model.parameters())
        work[name] = counter.get_total_flops()
    base = ModelConfig.named("base")
    assert (base.precision_dim, base.time_dim, base.space_dim, base.blocks) == (128, 512, 1024, 15)
    assert abs(parameters["base"] / 480e6 - 1) < 0.05
    assert abs(parameters["large"] / 1e9 - 1) < 0.05
    assert 12e12 < work["base"] < 16e12
    assert list(parameters.values()) == sorted(parameters.values()) and list(work.values()) == sorted(work.values())
    assert parameters["tiny"] < 1.5e6 and 20e6 < parameters["small"] < 50e6


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
    "nlcd: class indices": lambda b: turn(vars(b.targets["nlcd"]), "values", torch.int32),
    "sentinel1: target geometry must be 4x3": lambda b: setattr(b.targets["sentinel1"], "geometry", torch.zeros(4, 2)),
    "text: vector must be 4x384": lambda b: setattr(b.text, "vector", torch.zeros(4, 5)),
    "text: row must be 4 torch.int64, not 4 torch.float32": lambda b: turn(vars(b.text), "row", torch.float32),
    "text: present must be 4 torch.bool, not 3": lambda b: cut(vars(b.text), "present", slice(3)),
    "text: a col lies outside the patch of 32x32": lambda b: b.text.col.fill_(32),
    "nlcd: class index 16 given, the model has 16": lambda b: b.targets["nlcd"].values.fill_(16),
    "gedi: 3 target times": lambda b: cut(vars(b.targets["gedi"]), "time_ms", slice(3)),
    "elevation: target weights must be finite": lambda b: b.targets["elevation"].weight[0, 0, 0, 0].fill_(float("nan")),
    "gedi: target weights must be .* not negative": lambda b: b.targets["gedi"].weight.fill_(-1),
    "sentinel2: pixels must be normalised float32, not torch.float64": (
        lambda b: turn(b.frames.pixels, "sentinel2", torch.float64)
    ),
    "elevation: target weight must be float": lambda b: turn(vars(b.targets["elevation"]), "weight", torch.bool),
    "grace: target time_ms must be 4 int64": lambda b: turn(vars(b.targets["grace"]), "time_ms", torch.int32),
    "site must be 4 whole numbers, not 3": lambda b: cut(vars(b), "site", slice(3)),
    "site must be 4 whole numbers, not 4 torch.float32": lambda b: turn(vars(b), "site", torch.float32),
    "gedi: target values must be a tensor, not ndarray": (
        lambda b: setattr(b.targets["gedi"], "values", b.targets["gedi"].values.numpy())
    ),
    "support_ms must be a tensor, not list": lambda b: setattr(b, "support_ms", b.support_ms.tolist()),
    "landsat: time_ms must be a tensor, not NoneType": lambda b: b.frames.time_ms.update(landsat=None),
    "text: a vector that is present must be finite": lambda b: b.text.vector[0].fill_(float("nan")),
}
ALL = slice(None)


def cut(tensors, name, index):
    tensors[name] = tensors[name][index]


def turn(tensors, name, dtype):
    tensors[name] = tensors[name].to(dtype)


def test_wrong_periods_are_named(tiny):
    frames = make_batch(tiny.cfg).frames
    features = tiny.encode(frames)
    for call in (lambda p: tiny.embed(frames, p), lambda p: tiny.summarise(features, p)):
        with pytest.raises(ValueError, match="period_ms must be 4x2"):
            call(torch.zeros(3, 2, dtype=torch.int64))
        with pytest.raises(ValueError, match="period_ms must be int64 epoch milliseconds"):
            call(torch.zeros(4, 2))
        with pytest.raises(ValueError, match="period_ms ends before it starts"):
            call(torch.zeros(4, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"uniformity_stride": 17}, "uniformity_stride 17 is more than a side of 16x16"),
        (
            {"sources": (replace(PAPER_SOURCES[0], shift_px=8),)},
            "sentinel2: patch of 16x16 pixels, too small for shift_px",
        ),
    ],
)
def test_patches_too_small_for_a_setting_are_named(settings, message: str):
    cfg = ModelConfig.named("tiny", **settings)
    with pytest.raises(ValueError, match=message):
        AlphaEarth(cfg)(make_batch(cfg, size=(16, 16)), step=0)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_unknown_geometry_is_no_number_of_any_kind(tiny, value: float):
    batch = make_batch(tiny.cfg)
    batch.targets["sentinel1"].geometry.fill_(value)
    assert torch.isfinite(tiny(batch, seeded()).total)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"loss_weight": -1}, "loss_weight must be a number of at least 0, not -1"),
        ({"loss_weight": float("nan")}, "loss_weight must be a number"),
        ({"drop_frames": 2}, "drop_frames must be a probability"),
        ({"shift_px": -1}, "shift_px must be a whole number"),
        ({"regrid_px": -3}, "regrid_px must be a whole number"),
        ({"geometry_dim": -1}, "geometry_dim must be a whole number"),
        ({"bands": "red"}, "bands must be a list of names"),
        ({"bands": ("red", "red")}, "bands must be a list of names, each once"),
        ({"classes": (), "metric": "cross_entropy"}, "classes must be a list of codes"),
        ({"name": "my.x"}, "a name is a word"),
        ({"name": "pop"}, "a name is a word"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(setting, message: str):
    with pytest.raises(ValueError, match=f"source '.*': .*{message}"):
        SourceConfig(**{"name": "x", "bands": ("red", "nir"), **setting})


def test_nothing_to_embed_is_named(tiny):
    frames, period = make_batch(tiny.cfg).frames, make_batch(tiny.cfg).support_ms
    with pytest.raises(ValueError, match="max_patches must be at least 1, not -1"):
        tiny.embed(frames, period, max_patches=-1)
    none = [{name: x[:0] for name, x in part.items()} for part in (frames.pixels, frames.time_ms, frames.present)]
    with pytest.raises(ValueError, match="no patch is given"):
        tiny.embed(FrameSequence(*none), period[:0])
    empty = [{name: x[:, :0] for name, x in part.items()} for part in (frames.pixels, frames.time_ms, frames.present)]
    with pytest.raises(ValueError, match="no source has any frame"):
        tiny.embed(FrameSequence(*empty), period)


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
        ({"name": "tiny", "norm": "groop"}, "norm must be one of pixel, group, not 'groop'"),
        ({"name": "tiny", "attention": "flash"}, "attention must be one of"),
        ({"name": "tiny", "time_heads": 0}, "time_heads must be a whole number of at least 1, not 0"),
        ({"name": "tiny", "consistency_every": 1.5}, "consistency_every must be a whole number"),
        ({"name": "tiny", "uniformity_weight": -1}, "uniformity_weight must be a number of at least 0"),
        ({"name": "tiny", "text_weight": float("nan")}, "text_weight must be a number of at least 0"),
        ({"name": "tiny", "whole_period": 2}, "whole_period is a probability"),
        ({"name": "tiny", "mlp_ratio": 0.0}, "mlp_ratio 0.0 leaves no hidden channel"),
        ({"name": "tiny", "conv_expansion": 0.001}, "conv_expansion 0.001 leaves no hidden channel"),
        ({"name": "tiny", "inputs": {"landsat": "red"}}, "landsat: bands must be a list, not 'red'"),
    ],
)
def test_wrong_configurations_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.named(**arguments)


def test_a_checkpoint_of_another_version_is_refused():
    values = ModelConfig.named("tiny").to_dict()
    with pytest.raises(ValueError, match="unknown model setting colour"):
        ModelConfig.from_dict({**values, "colour": 1})
    for kappa in (100.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"kappa {kappa}"):
            AlphaEarth(ModelConfig.named("tiny", kappa=kappa))
