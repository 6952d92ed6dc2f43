"""Two processes on the CPU against one."""

from dataclasses import fields, is_dataclass

import pytest
import torch
from conftest import make_batch
from torch import distributed as dist
from torch import multiprocessing as mp

from aef_model import AlphaEarth, ModelConfig
from aef_model.codenorm import CodeNorm
from aef_model.losses import contrast, uniformity


def codes():
    g = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(4, 3, 64, generator=g), dim=-1)


def texts():
    """Codes, their texts and which there are: three in the first process's half, one in the second's."""
    g = torch.Generator().manual_seed(2)
    place, text = torch.nn.functional.normalize(torch.randn(2, 8, 16, generator=g), dim=-1)
    present = torch.tensor([True, True, False, True, False, False, True, False])
    return place, text, present, torch.tensor(10.0)


def contrasted(rows=slice(None)):
    """The loss of some rows, and its gradients to places, texts and scale."""
    place, text, present, scale = texts()
    place, text = (x[rows].clone().requires_grad_() for x in (place, text))
    scale.requires_grad_()
    loss = contrast(place, text, present[rows], scale)
    loss.backward()
    return loss.detach(), place.grad, text.grad, scale.grad


def whole_batch(cfg):
    """Four sequences; the second process's half has one footprint's worth of lidar, and no land cover at all."""
    batch = make_batch(cfg, 4, (16, 16), seed=3)
    batch.targets["gedi"].weight[2:] = 0
    batch.targets["gedi"].weight[3, :, 5, 6] = 1
    batch.targets["gedi"].values[3, :, 5, 6] = 2.0
    batch.targets["nlcd"].weight[2:] = 0
    return batch


def rows_of(batch, rows):
    def cut(x):
        if isinstance(x, dict):
            return {name: cut(value) for name, value in x.items()}
        if is_dataclass(x):
            return type(x)(**{field.name: cut(getattr(x, field.name)) for field in fields(x)})
        return x[rows] if isinstance(x, torch.Tensor) else x

    return cut(batch)


def trained(wrap=lambda model: model, rows=slice(None)):
    """Losses and gradients of a step without draws of a sequence's own: no noise, no lost frames, no student."""
    torch.manual_seed(0)
    cfg = ModelConfig.named("tiny", kappa=None, teacher_drop=0.0, consistency_weight=0.0)
    model = AlphaEarth(cfg)
    wrapped = wrap(model)  # must live until the backward pass is over
    found = wrapped(rows_of(whole_batch(cfg), rows), torch.Generator().manual_seed(7), step=0)
    found.total.backward()
    losses = {name: loss.detach() for name, loss in found.losses.items()}
    return losses | {"total": found.total.detach()}, {name: p.grad for name, p in model.named_parameters()}


# Which process lacks sources, from which step on, and the code norm, whose backward pass exchanges too.
LACKING = [(1, 1, "none"), (1, 0, "batch"), (0, 0, "none"), (0, 0, "batch"), (0, 1, "half_white")]


def lacking(rank, who, since, code_norm):
    """Gradients of three steps of processes whose batches hold different sources."""
    torch.manual_seed(0)
    model = AlphaEarth(ModelConfig.named("tiny", code_norm=code_norm))
    parallel = torch.nn.parallel.DistributedDataParallel(model)  # without a search for unused parameters
    for step in range(3):
        batch = make_batch(model.cfg, 2, (16, 16), seed=rank)
        batch.site = torch.arange(2) + 2 * rank
        if rank == who and step >= since:
            del batch.targets["gedi"], batch.targets["sentinel1"]
            batch.text = None
            for part in vars(batch.frames).values():
                del part["landsat"]
        parallel(batch, torch.Generator().manual_seed(rank), step=step).total.backward()
    return [p.grad for p in model.parameters()]


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = codes()[2 * rank : 2 * rank + 2].requires_grad_()
    loss = uniformity(mine, torch.arange(2) + 2 * rank, torch.Generator().manual_seed(5))
    loss.backward()

    norm = CodeNorm(64, half_white=True)
    skewed = (codes()[2 * rank : 2 * rank + 2] * 3 + 1).requires_grad_()
    normed = norm(skewed)
    normed.square().sin().sum().backward()

    gradients = [lacking(rank, *case) for case in LACKING]
    found = {"loss": loss.detach(), "grad": mine.grad / 2, "lacking": gradients}
    found["trained"] = trained(torch.nn.parallel.DistributedDataParallel, slice(2 * rank, 2 * rank + 2))
    found["contrast"] = contrasted(slice(4 * rank, 4 * rank + 4))
    found |= {"normed": normed.detach(), "norm_grad": skewed.grad, "norm": norm.state_dict()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_act_as_one_batch_and_miss_no_source(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    a, b = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    together = codes().requires_grad_()
    loss = uniformity(together, torch.arange(4), torch.Generator().manual_seed(5))
    loss.backward()
    torch.testing.assert_close((a["loss"] + b["loss"]) / 2, loss.detach())
    torch.testing.assert_close(torch.cat([a["grad"], b["grad"]]), together.grad)
    whole, halves = contrasted(), zip(a["contrast"], b["contrast"], strict=True)
    (la, lb), (pa, pb), (ta, tb), (sa, sb) = halves
    assert whole[0] > 0.5
    torch.testing.assert_close((la + lb) / 2, whole[0])
    torch.testing.assert_close(torch.cat([pa, pb]) / 2, whole[1])
    torch.testing.assert_close(torch.cat([ta, tb]) / 2, whole[2])
    torch.testing.assert_close((sa + sb) / 2, whole[3])
    norm = CodeNorm(64, half_white=True)
    skewed = (codes() * 3 + 1).requires_grad_()
    normed = norm(skewed)
    normed.square().sin().sum().backward()
    torch.testing.assert_close(torch.cat([a["normed"], b["normed"]]), normed.detach())
    torch.testing.assert_close(torch.cat([a["norm_grad"], b["norm_grad"]]), skewed.grad, atol=1e-4, rtol=1e-4)
    for name, value in norm.state_dict().items():
        assert torch.equal(a["norm"][name], b["norm"][name])
        torch.testing.assert_close(a["norm"][name], value, msg=name)
    for case in range(len(LACKING)):
        for x, y in zip(a["lacking"][case], b["lacking"][case], strict=True):
            torch.testing.assert_close(x, y)
    losses, gradients = trained()
    for part in (a, b):
        for name, loss in losses.items():
            torch.testing.assert_close(part["trained"][0][name], loss, rtol=1e-4, atol=1e-5, msg=name)
        for name, gradient in gradients.items():
            found = part["trained"][1][name]
            assert (found - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, name
