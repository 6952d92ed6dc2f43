"""The global batch, when several processes train one model; otherwise the local one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def world() -> tuple[int, int]:
    """This process's rank and how many there are; 0 and 1 without ``torch.distributed``."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _Gather(torch.autograd.Function):
    """All processes' tensors, one after the other; gradients of all processes come back to where they belong."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        rank, size = world()
        ctx.rows = slice(rank * len(x), (rank + 1) * len(x))  # type: ignore[attr-defined]
        parts = [torch.empty_like(x) for _ in range(size)]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[ctx.rows]  # type: ignore[attr-defined]


def gather(x: Tensor) -> Tensor:
    """``(B, ...)`` of every process as ``(B * processes, ...)``; shapes must be equal everywhere.

    A gradient sums over processes: with each process's loss a mean over its own rows, DistributedDataParallel's average
    makes it that of the global mean.
    """
    if world()[1] == 1:
        return x
    gathered: Tensor = _Gather.apply(x.contiguous())
    return gathered
