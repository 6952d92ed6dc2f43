"""Two processes on the CPU against one."""

import pytest
import torch
from conftest import make_batch
from torch import distributed as dist
from torch import multiprocessing as mp

from aef_model import AlphaEarth, ModelConfig
from aef_model.losses import contrast, uniformity
from aef_model.summary import CodeNorm


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


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = codes()[2 * rank : 2 * rank + 2].requires_grad_()
    loss = uniformity(mine, torch.arange(2) + 2 * rank, torch.Generator().manual_seed(5))
    loss.backward()

    norm = CodeNorm(64)
    skewed = (codes()[2 * rank : 2 * rank + 2] * 3 + 1).requires_grad_()
    normed = norm(skewed)
    normed.square().sin().sum().backward()

    torch.manual_seed(0)
    model = AlphaEarth(ModelConfig.named("tiny"))
    parallel = torch.nn.parallel.DistributedDataParallel(model)  # without a search for unused parameters
    for step in range(3):
        batch = make_batch(model.cfg, 2, (16, 16), seed=rank)
        batch.site = torch.arange(2) + 2 * rank
        if rank == 1 and step > 0:  # the processes' batches hold different sources
            del batch.targets["gedi"]
            batch.text = None
            for part in vars(batch.frames).values():
                del part["landsat"]
        parallel(batch, torch.Generator().manual_seed(rank), step=step).total.backward()
    gradients = [p.grad for p in model.parameters()]
    found = {"loss": loss.detach(), "grad": mine.grad / 2, "model": gradients}
    found["contrast"] = contrasted(slice(4 * rank, 4 * rank + 4))
    found |= {"normed": normed.detach(), "norm_grad": skewed.grad, "mean": norm.mean, "variance": norm.variance}
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
    norm = CodeNorm(64)
    skewed = (codes() * 3 + 1).requires_grad_()
    normed = norm(skewed)
    normed.square().sin().sum().backward()
    torch.testing.assert_close(torch.cat([a["normed"], b["normed"]]), normed.detach())
    torch.testing.assert_close(torch.cat([a["norm_grad"], b["norm_grad"]]), skewed.grad, atol=1e-4, rtol=1e-4)
    assert all((part[name] == a[name]).all() for part in (a, b) for name in ("mean", "variance"))
    torch.testing.assert_close(a["variance"], norm.variance)
    for x, y in zip(a["model"], b["model"], strict=True):
        torch.testing.assert_close(x, y)
