"""Every parameter learns from a full batch, and its gradient is that of the loss.

In double precision, where rounding (1e-16 of the whole) and a gradient (1e-5 of the whole at least) cannot be taken for
one another, and where a difference of two losses is exact to eight digits.
"""

from dataclasses import fields, is_dataclass

import pytest
import torch
from conftest import make_batch
from torch.overrides import TorchFunctionMode

from aef_model import AlphaEarth, ModelConfig
from aef_model.config import SENTINEL2_BANDS_13

SIDE = 32
OPTIONS = {
    "tiny": {},
    "smoothed, group norm": {"exchange_up": "smoothed", "blocks": 3, "norm": "group"},
    "sandbox": {"space_operator": False, "code_norm": "half_white"},
    "bilinear": {"code_norm": "batch", "upsampling": "bilinear"},
    "other bands": {"inputs": {"sentinel2": SENTINEL2_BANDS_13, "sentinel1": ("vv", "vh"), "landsat": ("red",)}},
}
# What these add is the same for all pixels, and the code norm takes it off again (docs/decisions.md).
BIASES = {"upsampler.kernel.bias", "upsampler.leave.bias"}
TAKEN_OFF = {"half_white": BIASES, "batch": BIASES, "none": set()}


class InDoublePrecision(TorchFunctionMode):
    """Wherever the model asks for float32 it gets float64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = [torch.float64 if x is torch.float32 else x for x in args]
        return func(*args, **{k: torch.float64 if x is torch.float32 else x for k, x in (kwargs or {}).items()})


def widened(x):
    if isinstance(x, dict):
        return {name: widened(value) for name, value in x.items()}
    if is_dataclass(x):
        return type(x)(**{field.name: widened(getattr(x, field.name)) for field in fields(x)})
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


@pytest.fixture
def step(monkeypatch):
    """A model in double precision, and its loss of a full batch as a function: the same draws at each call."""

    def made(**overrides):
        monkeypatch.setattr("aef_model.model.check_batch", lambda cfg, batch: (len(batch.support_ms), SIDE, SIDE))
        monkeypatch.setattr("aef_model.model.check_frames", lambda cfg, frames: None)  # both insist on float32
        torch.manual_seed(0)
        model = AlphaEarth(ModelConfig.named("tiny", **overrides)).double()
        batch = widened(make_batch(model.cfg, batch=3, size=(SIDE, SIDE)))

        def loss():
            with InDoublePrecision():
                total = model(batch, torch.Generator().manual_seed(0), step=0).total
            assert total.dtype == torch.float64
            return total

        return model, loss

    return made


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_reach_every_parameter(step, options):
    """Each is more than a millionth of the whole gradient; rounding alone leaves 1e-17 of it."""
    model, loss = step(**OPTIONS[options])
    loss().backward()
    missing = {name for name, p in model.named_parameters() if p.grad is None}
    assert not missing
    size = {name: float(p.grad.norm()) for name, p in model.named_parameters()}
    whole = sum(x**2 for x in size.values()) ** 0.5
    assert 0 < whole < float("inf")
    assert {name for name, x in size.items() if not x > 1e-6 * whole} == TAKEN_OFF[model.cfg.code_norm]


def test_gradients_are_the_slope_of_the_loss(step):
    """Along a random direction of each part's parameters: no path from a parameter to the loss is cut or doubled.

    Steps are a millionth of the parameters' own size: what is left of a central difference is rounding, 1e-8.
    """
    model, loss = step(text_weight=1.0)
    loss().backward()
    g, by = torch.Generator().manual_seed(0), 1e-6
    for name, part in model.named_children():
        parameters = list(part.parameters())
        direction = [
            torch.randn(p.shape, generator=g, dtype=torch.float64) * p.detach().square().mean().sqrt().clamp_min(0.02)
            for p in parameters
        ]
        each = [float((p.grad * d).sum()) for p, d in zip(parameters, direction, strict=True)]
        losses = []
        with torch.no_grad():
            for move in (by, -2 * by):
                for p, d in zip(parameters, direction, strict=True):
                    p.add_(d, alpha=move)
                losses.append(float(loss()))
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=by)
        slope = (losses[0] - losses[1]) / (2 * by)
        assert abs(slope - sum(each)) < 1e-5 * sum(x**2 for x in each) ** 0.5, name
