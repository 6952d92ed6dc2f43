"""Learned resampling between the three grids: the Laplacian-pyramid exchange at the end of every block.

All maps are ``(M, h, w, C)``; grids are precision L/2, time L/8, space L/16.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aef_model.config import ModelConfig
from aef_model.init import RESIDUAL_GAIN, keep_variance


class Grids(NamedTuple):
    """The state between blocks; space is None without the space operator."""

    precision: Tensor
    time: Tensor
    space: Tensor | None


def join_grids(frames: list[Grids]) -> Grids:
    """The grids of consecutive frames as one."""
    if len(frames) == 1:
        return frames[0]
    precision, time, space = zip(*frames, strict=True)
    return Grids(torch.cat(precision), torch.cat(time), None if space[0] is None else torch.cat(space))


class Down(nn.Sequential):
    """Strided convolutions (kernel = stride), one a step: widths ``dims[0] -> dims[1] -> ...`` by ``factors``.

    In steps because a direct 8x8 kernel from precision to space alone would have 8.4 M parameters a block at base
    width.
    """

    def __init__(self, dims: tuple[int, ...], factors: tuple[int, ...], gain: float) -> None:
        super().__init__(
            *(
                keep_variance(
                    nn.Conv2d(dims[i], dims[i + 1], kernel_size=f, stride=f), gain if i + 1 == len(factors) else 0.7
                )
                for i, f in enumerate(factors)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Up(nn.Module):
    """To a finer grid.

    "smoothed" (default): transposed convolutions of stride = kernel, one a step, each followed by the fixed tent filter
    of its factor. The tent's response to any pattern that repeats with the coarse cell is exactly zero, so the cells of
    one coarse cell cannot drift apart into blocks; kernels start equal, which is interpolation. "transposed" leaves the
    tent out. "bilinear": a linear map on the coarse grid, then bilinear interpolation; fewest parameters.

    A 3x3 convolution on the coarse grid before interpolation was tried and left out: the same pixel in two overlapping
    patches, 8 px from the edge, then had cosine 0.99 (0.93 with the space operator) against 0.999 (untrained, random
    pixels).
    """

    def __init__(self, dims: tuple[int, ...], factors: tuple[int, ...], kind: str, gain: float) -> None:
        super().__init__()
        self.factors, self.kind = factors, kind
        if kind == "bilinear":
            self.steps = nn.ModuleList([keep_variance(nn.Conv2d(dims[0], dims[-1], kernel_size=1), gain)])
            return
        self.steps = nn.ModuleList()
        for i, factor in enumerate(factors):
            step = nn.ConvTranspose2d(dims[i], dims[i + 1], kernel_size=factor, stride=factor)
            size = 1.4 * (gain if i + 1 == len(factors) else 0.7) / math.sqrt(dims[i])
            nn.init.zeros_(cast(nn.Parameter, step.bias))
            with torch.no_grad():
                step.weight.copy_((torch.randn(dims[i], dims[i + 1], 1, 1) * size).expand_as(step.weight))
            self.steps.append(step)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 3, 1, 2)
        if self.kind == "bilinear":
            y = self.steps[0](y)
            return enlarge(y, math.prod(self.factors)).permute(0, 2, 3, 1)
        for factor, step in zip(self.factors, self.steps, strict=True):
            y = step(y)
            if self.kind == "smoothed":
                y = tent(y, factor)
        return y.permute(0, 2, 3, 1)


def tent(x: Tensor, width: int) -> Tensor:
    """Smooth ``(M, C, H, W)`` on both axes with the tent of half-width ``width``: two box filters, edges repeated."""
    reach = width - 1
    if torch.compiler.is_compiling():  # torch 2.13 compiles a backward of F.pad that stops at its strides
        for axis in (2, 3):
            first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
            x = torch.cat([first] * reach + [x] + [last] * reach, dim=axis)
    else:
        x = F.pad(x, (reach,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(x, width, stride=1), width, stride=1)


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Bilinear interpolation of ``(M, C, h, w)`` by a whole factor, constant beyond the outermost cells' centres."""
    if not torch.compiler.is_compiling():
        return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
    # The backward of F.interpolate that torch 2.13 compiles for a CPU loses gradients without a word.
    for axis in (2, 3):
        cells = torch.arange(x.shape[axis], device=x.device)
        at = ((torch.arange(x.shape[axis] * factor, device=x.device) + 0.5) / factor - 0.5).clamp(0, len(cells) - 1)
        weight = (1 - (at[:, None] - cells).abs()).clamp_min(0).to(x.dtype)
        x = (weight @ x.transpose(axis, -1).transpose(-1, -2)).transpose(-1, -2).transpose(axis, -1)
    return x


class Stay(nn.Linear):
    """A grid's path to itself: a linear map that starts as the identity."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)


class Spread(nn.Module):
    """The first state of the coarser grids, from the projected frames."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        p, t, s = cfg.precision_dim, cfg.time_dim, cfg.space_dim
        self.to_time = Down((p, t), (4,), 0.7)
        self.to_space = Down((p, t, s), (4, 2), 0.7) if cfg.space_operator else None

    def forward(self, precision: Tensor) -> Grids:
        return Grids(
            precision, self.to_time(precision), self.to_space(precision) if self.to_space is not None else None
        )


class Exchange(nn.Module):
    """Nine paths: every grid's next state is the sum of what the three operators send it.

    Args:
        cfg: widths and kinds.
        last: the end of the encoder, where only the precision grid goes on: three paths.
    """

    def __init__(self, cfg: ModelConfig, last: bool = False) -> None:
        super().__init__()
        p, t, s, kind = cfg.precision_dim, cfg.time_dim, cfg.space_dim, cfg.exchange_up
        gain = RESIDUAL_GAIN
        self.last = last
        self.space_on = cfg.space_operator
        self.precision_to_precision = Stay(p)
        self.time_to_precision = Up((t, p), (4,), kind, gain)
        # From the coarsest grid hardly anything is told at first: it averages over 16 px, and what it adds to the finer
        # grids before it has learnt anything slows them (docs/decisions.md).
        if self.space_on:
            self.space_to_precision = Up((s, t, p), (2, 4), kind, gain / 10)
        if last:
            return
        self.time_to_time = Stay(t)
        self.precision_to_time = Down((p, t), (4,), gain)
        if self.space_on:
            self.space_to_time = Up((s, t), (2,), kind, gain / 10)
            self.space_to_space = Stay(s)
            self.precision_to_space = Down((p, t, s), (4, 2), gain)
            self.time_to_space = Down((t, s), (2,), gain)

    def forward(self, state: Grids) -> Grids:
        p, t, s = state
        precision = self.precision_to_precision(p) + self.time_to_precision(t)
        if s is not None:
            precision = precision + self.space_to_precision(s)
        if self.last:
            return Grids(precision, t, s)
        time = self.time_to_time(t) + self.precision_to_time(p)
        if s is None:
            return Grids(precision, time, None)
        time = time + self.space_to_time(s)
        space = self.space_to_space(s) + self.precision_to_space(p) + self.time_to_space(t)
        return Grids(precision, time, space)
