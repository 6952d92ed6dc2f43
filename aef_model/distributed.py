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


def _all(x: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world()[1])]
    dist.all_gather(parts, x.detach().contiguous())
    return parts


class _Exchange(torch.autograd.Function):
    """All processes' tensors, one after the other; gradients of all processes come back to where they belong."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        first = world()[0] * len(x)
        ctx.rows = slice(first, first + len(x))  # type: ignore[attr-defined]
        return torch.cat(_all(x))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad[ctx.rows]  # type: ignore[attr-defined]


def exchange(x: Tensor) -> Tensor:
    """``(B, ...)`` of every process as ``(B * processes, ...)``, for what each process goes on with in its own way.

    The backward pass exchanges too, so this is for what all decoders come after and all projectors before: whatever
    sources a batch lacks, the gradients of the ones are done by then on every process, and of the others not begun.
    Losses take :func:`gather`.
    """
    if world()[1] == 1:
        return x
    exchanged: Tensor = _Exchange.apply(x)
    return exchanged


class _Times(torch.autograd.Function):
    """A tensor as it is, its gradient times a factor."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, factor: int) -> Tensor:
        ctx.factor = factor  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.factor, None  # type: ignore[attr-defined]


def gather(x: Tensor) -> Tensor:
    """``(B, ...)`` of every process as ``(B * processes, ...)``; shapes must be equal everywhere.

    Every process then computes the loss of the whole, with its own rows as the only variables: that is the whole
    gradient of its rows, times the number of processes so that DistributedDataParallel's average is a sum.
    Nothing is exchanged in the backward pass, where processes that lack a source reach their buckets in another order.
    """
    rank, size = world()
    if size == 1:
        return x
    parts = _all(x)
    if x.requires_grad:
        own: Tensor = _Times.apply(x, size)
        parts[rank] = own
    return torch.cat(parts)


def total(x: Tensor) -> Tensor:
    """Sum of a tensor over processes; of equal shape everywhere.

    The gradient is that of the whole loss to this process's own part, as :func:`gather` has it: nothing is exchanged in
    the backward pass.
    """
    size = world()[1]
    if size == 1:
        return x
    everyone = x.detach().clone()
    dist.all_reduce(everyone)
    if not x.requires_grad:
        return everyone
    own: Tensor = _Times.apply(x, size)
    return own + (everyone - x.detach())
