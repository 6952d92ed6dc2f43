"""Nothing in a forward pass makes the host wait for the device.

Seen on the device of shapes without numbers: whatever asks it for a number, or mixes it with the CPU's tensors, is a
wait on an accelerator. Tensors made from Python lists are invisible there and are caught by name.
"""

from dataclasses import fields, is_dataclass

import pytest
import torch
from conftest import make_batch, make_frames, year
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from aef_model import AlphaEarth, ModelConfig

ASKING = ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "bincount")
FROM_LISTS = {"tensor", "new_tensor", "as_tensor", "asarray", "from_numpy", "tolist", "numpy", "cpu"}


class NoWait(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in ASKING:
            raise AssertionError(f"{name} waits for the device")
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if name.startswith("index") and any(x.dtype == torch.bool for x in tensors[1:]):
            raise AssertionError("indexing by a mask waits for the device")
        out = func(*args, **(kwargs or {}))
        tensors += [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        if {x.device.type for x in tensors} == {"cpu", "meta"} or any(
            x.device.type == "cpu" and x.ndim for x in tensors
        ):
            raise AssertionError(f"{name} mixes the CPU and the device")
        return out


class NoLists(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in FROM_LISTS:
            raise AssertionError(f"{func.__name__} carries numbers between host and device")
        return func(*args, **(kwargs or {}))


def moved(x, device):
    if isinstance(x, torch.Tensor):
        return x.to(device)
    if isinstance(x, dict):
        return {key: moved(value, device) for key, value in x.items()}
    if is_dataclass(x):
        return type(x)(**{field.name: moved(getattr(x, field.name), device) for field in fields(x)})
    return x


CONFIGS = [
    {},
    {"code_norm": "half_white", "checkpoint_blocks": True, "exchange_up": "smoothed"},
    {"attention": "fused"},
]


@pytest.mark.parametrize("overrides", CONFIGS)
def test_forward_and_backward_never_wait(overrides):
    cfg = ModelConfig.named("tiny", **overrides)
    model, batch = AlphaEarth(cfg).to("meta"), moved(make_batch(cfg), "meta")
    with NoLists(), NoWait():
        model(batch, step=0).total.backward()
        model.eval().embed(batch.frames, batch.support_ms)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.tensor([1.0, 2.0], device="meta") * 2,
        lambda x: x + torch.ones(3, device="cpu"),
    ],
)
def test_waits_are_seen(wait):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), NoLists(), NoWait():
        wait(torch.empty(3, device="meta"))


@pytest.mark.gpu
@pytest.mark.parametrize("overrides", CONFIGS)
def test_an_accelerator_sees_no_wait(overrides):
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    cfg = ModelConfig.named("tiny", **overrides)
    model, batch = AlphaEarth(cfg).cuda(), moved(make_batch(cfg), "cuda")
    model(batch, step=0).total.backward()  # libraries are loaded, which may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(batch, step=0).total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    frames = make_frames(cfg)
    model.eval()
    there = model.embed(moved(frames, "cuda"), year(2).cuda()).cpu()
    assert (there * model.cpu().embed(frames, year(2))).sum(-1).min() > 0.9999
