"""What was the place like over a period: attention pooling over time, then learned upsampling to L.

Several periods are pooled from one encoding. The query depends on the period only; no key or value is ever
projected for single frames: the query goes through the key projection, the pooled features through the value
projection, which is the same attention for a fraction of the work (heads * C a cell and frame rather than heads * depth
* C).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aef_model.codenorm import CodeNorm
from aef_model.config import ModelConfig
from aef_model.exchange import enlarge
from aef_model.init import keep_variance
from aef_model.parts import parts
from aef_model.timecode import PERIOD_DIM, RELATIVE_DIM, period_code, relative_code, relative_days

MIN_WIDTH_DAYS = (
    12.0  # no head looks more narrowly than this at first, or a short period would rest on one cloudy frame
)

NEIGHBOURS = 0.1  # the upsampler's first weight of a neighbouring cell, where all nine cells alike would be 1


class PeriodPooling(nn.Module):
    """Attention over time at each cell of the precision grid with one query a period.

    A quarter of the heads start by looking at the whole period, the others each at their part of it: a Gaussian in
    relative time with learned centre and width. Frames outside the period count by their distance, so a period without
    any frame is answered from the nearest ones. With its features a frame hands over where it lies relative to the
    period, never its absolute date, so that years are not told apart by their number.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        dim, heads, depth = cfg.precision_dim, cfg.pool_heads, cfg.pool_dim
        self.norm = nn.LayerNorm(dim)
        self.period = keep_variance(nn.Linear(PERIOD_DIM, 128), 0.7)
        self.query = keep_variance(nn.Linear(128, heads * dim), 0.7)
        self.heads, self.dim = heads, dim
        wide = max(heads // 4, 1)
        narrow = max(heads - wide, 1)
        centres = torch.cat([torch.full((wide,), 0.5), (torch.arange(heads - wide) + 0.5) / narrow])
        widths = torch.cat([torch.full((wide,), 0.7), torch.full((heads - wide,), 0.75 / narrow)])
        self.centre = nn.Parameter(centres)
        self.log_width = nn.Parameter(widths.log())
        self.log_floor_days = nn.Parameter(torch.full((heads,), math.log(MIN_WIDTH_DAYS)))
        self.value = nn.Parameter(torch.randn(heads, dim + RELATIVE_DIM, depth) / math.sqrt(dim + RELATIVE_DIM))
        self.out_norm = nn.LayerNorm(heads * depth)

    def closeness(self, since_days: Tensor, length_days: Tensor) -> Tensor:
        """Each head's preference for instants, ``(B, P, N)`` days since the period's start to ``(B, P, heads, N)``."""
        since, length = since_days[:, :, None, :], length_days[:, :, None, :]
        centre, width = self.centre[:, None] * length, self.log_width.exp()[:, None] * length
        variance = width.square() + self.log_floor_days.exp()[:, None].square()
        return -0.5 * (since - centre).square() / variance

    def forward(self, features: Tensor, time_ms: Tensor, measured: Tensor, period_ms: Tensor) -> Tensor:
        """Pool.

        Args:
            features: ``(B, N, h, w, C)``.
            time_ms: ``(B, N)``.
            measured: ``(B, N, h, w)`` bool; a frame counts only where it measured anything.
            period_ms: ``(B, P, 2)``.

        Returns:
            ``(B, P, h, w, heads * depth)``, normalised; zero evidence (no frame at all) gives a constant.
        """
        cells = features[:, :, :1].numel()
        done = [
            self._pool(features[:, :, rows], time_ms, measured[:, :, rows], period_ms)
            for rows in parts(features, features.shape[2], cells)
        ]
        return done[0] if len(done) == 1 else torch.cat(done, dim=2)

    def _pool(self, features: Tensor, time_ms: Tensor, measured: Tensor, period_ms: Tensor) -> Tensor:
        batch, frames, rows, cols, dim = features.shape
        x = self.norm(features).flatten(2, 3)  # (B, N, S, C)
        periods = period_ms.shape[1]
        query = self.query(F.gelu(self.period(period_code(period_ms)))).view(batch, periods * self.heads, dim)
        since, length = relative_days(time_ms, period_ms)
        logits = (query / math.sqrt(dim)) @ x.flatten(1, 2).transpose(1, 2)  # (B, PH, N*S)
        logits = logits.float().view(batch, periods, self.heads, frames, -1) + self.closeness(since, length)[..., None]
        there = measured.flatten(2)[:, None, None]
        logits = logits.masked_fill(~there, torch.finfo(torch.float32).min)
        weights = torch.softmax(logits, dim=3) * there  # all absent: nothing
        evidence = weights.to(x.dtype).flatten(1, 2).permute(0, 3, 1, 2) @ x.transpose(1, 2)  # (B, S, PH, C)
        evidence = evidence.view(batch, rows, cols, periods, self.heads, dim)
        where = torch.einsum("bphns,bpnr->bsphr", weights, relative_code(since, length))
        where = where.view(batch, rows, cols, periods, self.heads, RELATIVE_DIM).to(evidence.dtype)
        pooled = torch.einsum("byxphc,hcd->bpyxhd", torch.cat([evidence, where], dim=-1), self.value)
        return self.out_norm(pooled.flatten(-2))


class Upsampler(nn.Module):
    """From L/2 to L with a learned kernel, and down to the embedding's width, before the bottleneck.

    A 3x3 convolution gives each of a cell's four pixels its own code. It starts with nearly all of its weight on the
    pixel's own cell: neighbours are often another parcel's, and must earn their say. Nothing in the losses compares the
    four, so left alone they drift apart and maps show a checkerboard. "blurred_shuffle" (default) starts the four
    kernels equal and ends with the fixed binomial filter [1 2 1]/4 on each axis, whose response at a period of 2 pixels
    is exactly zero: whatever the weights, a uniform neighbourhood gets a uniform code. "shuffle" leaves the filter out;
    "bilinear" interpolates instead.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        width, dim = cfg.pool_heads * cfg.pool_dim, cfg.embedding_dim
        hidden = max(width * 2 // 3, dim)
        self.kind = cfg.upsampling
        self.enter = keep_variance(nn.Linear(width, hidden))
        copies = 1 if self.kind == "bilinear" else 4
        self.kernel = nn.Conv2d(hidden, dim * copies, kernel_size=3, padding=1)
        keep_variance(self.kernel)
        _weigh_neighbours(self.kernel.weight)
        if copies == 4:
            with torch.no_grad():  # pixel_shuffle takes channels c*4 .. c*4+3 for the four pixels
                self.kernel.weight.copy_(self.kernel.weight[::4].repeat_interleave(4, dim=0))
        self.leave = keep_variance(nn.Linear(dim, dim), 0.7)
        self.norm = nn.Identity() if cfg.code_norm == "none" else CodeNorm(dim, cfg.code_norm == "half_white")

    def forward(self, x: Tensor) -> Tensor:
        """``(M, h, w, width)`` to ``(M, 2h, 2w, embedding_dim)``, not yet of unit length."""
        y = F.gelu(self.enter(x)).permute(0, 3, 1, 2)
        if self.kind == "bilinear":
            y = enlarge(self.kernel(y), 2)
        else:
            y = F.pixel_shuffle(self.kernel(y), 2)
        if self.kind == "blurred_shuffle":
            y = _binomial(_binomial(y, -1), -2)
        return self.norm(self.leave(y.permute(0, 2, 3, 1)))


@torch.no_grad()
def _weigh_neighbours(kernel: Tensor) -> None:
    """Multiply a kernel's taps ``(..., 3, 3)`` around the middle by ``NEIGHBOURS``, and the middle so that the expected
    sum of squares stays.
    """
    middle = kernel[..., 1, 1] * math.sqrt(9 - 8 * NEIGHBOURS**2)
    kernel.mul_(NEIGHBOURS)
    kernel[..., 1, 1] = middle


def _binomial(x: Tensor, axis: int) -> Tensor:
    """[1 2 1]/4 along one axis. The border pixel leans on its mirror image, its inner neighbour."""
    n = x.shape[axis]
    before = torch.cat([x.narrow(axis, 1, 1), x.narrow(axis, 0, n - 1)], dim=axis)
    after = torch.cat([x.narrow(axis, 1, n - 1), x.narrow(axis, n - 2, 1)], dim=axis)
    return 0.5 * x + 0.25 * (before + after)
