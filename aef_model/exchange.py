"""Learned resampling between the three grids: the Laplacian-pyramid exchange at the end of every block.

All maps are ``(M, h, w, C)``; grids are precision L/2, time L/8, space L/16.
"""

from __future__ import annotations

from typing import NamedTuple

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


class Down(nn.Sequential):
    """Strided convolutions (kernel = stride), one a step: widths ``dims[0] -> dims[1] -> ...`` by ``factors``.

    In steps because a direct 8x8 kernel from precision to space alone would have 8.4 M parameters a block at base width.
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

    "bilinear": a learned 3x3 convolution on the coarse grid, then bilinear interpolation, which cannot give the cells of one
    coarse cell different codes of their own. "transposed": stride = kernel, started with equal weights for
    all cells of a coarse cell.
    """

    def __init__(self, dim_in: int, dim_out: int, factor: int, kind: str, gain: float) -> None:
        super().__init__()
        self.factor = factor
        self.kernel: nn.Conv2d | nn.ConvTranspose2d
        if kind == "bilinear":
            convolution = nn.Conv2d(dim_in, dim_out, kernel_size=3, padding=1)
            keep_variance(convolution, gain)
            self.kernel = convolution
        else:
            self.kernel = nn.ConvTranspose2d(dim_in, dim_out, kernel_size=factor, stride=factor)
            with torch.no_grad():
                one = torch.randn(dim_in, dim_out, 1, 1) * 1.4 * gain / dim_in**0.5
                self.kernel.weight.copy_(one.expand_as(self.kernel.weight))
                nn.init.zeros_(self.kernel.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.kernel(x.permute(0, 3, 1, 2))
        if isinstance(self.kernel, nn.Conv2d):
            y = F.interpolate(y, scale_factor=float(self.factor), mode="bilinear", align_corners=False)
        return y.permute(0, 2, 3, 1)


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
        self.time_to_precision = Up(t, p, 4, kind, gain)
        if self.space_on:
            self.space_to_precision = Up(s, p, 8, kind, gain)
        if last:
            return
        self.time_to_time = Stay(t)
        self.precision_to_time = Down((p, t), (4,), gain)
        if self.space_on:
            self.space_to_time = Up(s, t, 2, kind, gain)
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
