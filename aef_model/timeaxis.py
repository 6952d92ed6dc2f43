"""The one time axis: frames of all sources of a batch, side by side, and which of them measured what.

Operators within a frame work on a flat list of frames ``(M, h, w, C)``; operators over time on ``(B, N, h, w, C)``.
Elsewhere than on a CPU the list is the padded array itself: counting present frames would make the host wait. On a CPU
only present frames are in the list where that saves much: a list of another length every step makes oneDNN build its
kernels anew (a training step of `tiny` with 3 % padding took 0.194 s with a list, 0.156 s without).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FULL_SHARE = 0.75  # of the slots; above it padding is cheaper than a list


class Measured(NamedTuple):
    """Which cells measured anything, on the grids L/2, L/8, L/16; ``(..., h, w)`` bool."""

    precision: Tensor
    time: Tensor
    space: Tensor

    @classmethod
    def of(cls, precision: Tensor) -> Measured:
        """From the finest grid."""
        time = _any_of_cells(precision, 4)
        return cls(precision, time, _any_of_cells(time, 2))


def _any_of_cells(x: Tensor, factor: int) -> Tensor:
    return x.unflatten(-2, (-1, factor)).unflatten(-1, (-1, factor)).any(dim=-1).any(dim=-2)


@dataclass(frozen=True)
class TimeAxis:
    """Where each frame of the flat list stands.

    Attributes:
        time_ms: ``(B, N)`` int64, 0 where absent.
        present: ``(B, N)`` bool.
        slots: ``(M,)`` int64, position of each listed frame in the flattened ``(B, N)``; None when all are listed in
            order.
        measured: per listed frame ``(M, h, w)`` bool on each grid, cells in which it measured anything; None before
            the frames were looked at. At the edge of a swath a frame is there for some cells and absent for others,
            and what a cell is told must not depend on how much of the swath lies in the rest of the patch.
    """

    time_ms: Tensor
    present: Tensor
    slots: Tensor | None
    measured: Measured | None = None

    def spread(self, x: Tensor) -> Tensor:
        """From the list ``(M, ...)`` to the padded axis ``(B, N, ...)``, zero where absent."""
        batch, slots = self.present.shape
        if self.slots is None:
            return x.unflatten(0, (batch, slots))
        padded = x.new_zeros((batch * slots, *x.shape[1:]))
        return padded.index_copy(0, self.slots, x).unflatten(0, (batch, slots))

    def gather(self, x: Tensor) -> Tensor:
        """From the padded axis ``(B, N, ...)`` to the list ``(M, ...)``."""
        flat = x.flatten(0, 1)
        return flat if self.slots is None else flat.index_select(0, self.slots)

    @property
    def listed_time_ms(self) -> Tensor:
        """``(M,)`` acquisition time of the listed frames."""
        return self.gather(self.time_ms)


def pack_sources(pixels: list[Tensor], time_ms: list[Tensor], present: list[Tensor]) -> tuple[TimeAxis, list[Tensor]]:
    """Put the frames of several sources on one time axis.

    Args:
        pixels: per source ``(B, N_s, C_s, H, W)``.
        time_ms: per source ``(B, N_s)``.
        present: the same.

    Returns:
        The axis and, per source, its listed frames ``(M_s, C_s, H, W)``: projected source by source and joined by
        :func:`join_sources` they are the flat list.
    """
    there = torch.cat(present, dim=1)
    times = torch.where(there, torch.cat(time_ms, dim=1), 0)
    if there.device.type != "cpu" or torch.compiler.is_compiling() or int(there.sum()) >= FULL_SHARE * there.numel():
        return TimeAxis(times, there, None), [frames.flatten(0, 1) for frames in pixels]
    batch = there.shape[0]
    position = there.long().cumsum(dim=1) - 1
    length = max(int(there.sum(dim=1).max()), 1)
    slot = torch.arange(batch)[:, None] * length + position
    listed, slots, start = [], [], 0
    for frames, here in zip(pixels, present, strict=True):
        listed.append(frames.flatten(0, 1)[here.flatten()])
        slots.append(slot[:, start : start + here.shape[1]][here])
        start += here.shape[1]
    index = torch.cat(slots)
    packed_time = times.new_zeros(batch * length).index_copy(
        0, index, torch.cat([t[p] for t, p in zip(time_ms, present, strict=True)])
    )
    packed_there = there.new_zeros(batch * length).index_fill(0, index, True)
    axis = TimeAxis(packed_time.view(batch, length), packed_there.view(batch, length), index)
    return axis, listed


def join_sources(axis: TimeAxis, listed: list[Tensor]) -> Tensor:
    """The flat list ``(M, ...)`` from each source's projected frames ``(M_s, ...)``."""
    if axis.slots is not None:
        return torch.cat(listed, dim=0)
    batch = axis.present.shape[0]
    return torch.cat([x.unflatten(0, (batch, -1)) for x in listed], dim=1).flatten(0, 1)
