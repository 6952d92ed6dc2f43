"""A plain Space-Time-Precision model: the opponent of benchmarks/model.py.

What one gets by writing the description down as it stands: maps in ``(frames, C, h, w)``, GroupNorm, a convolution that
widens fourfold, direct strided kernels between every pair of grids, all frames of a year at once, a code at half the
resolution. Sentinel-2 only. Widths and depth are set so that it has about 100 M parameters and, for 16 frames of
128 x 128 pixels, about the 532 GFLOP of the public implementation of that size. Nothing of `aef_model` is used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Pre-norm self-attention and MLP over the tokens of ``(sequences, tokens, dim)``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class PlainBlock(nn.Module):
    """Three operators and six directed resamplers."""

    def __init__(self, precision: int, time: int, space: int) -> None:
        super().__init__()
        self.space = Attention(space, 8)
        self.time = Attention(time, 8)
        self.precision = nn.Sequential(
            nn.GroupNorm(8, precision),
            nn.Conv2d(precision, 4 * precision, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(4 * precision, precision, 3, padding=1),
        )
        self.space_to_time = nn.ConvTranspose2d(space, time, 2, stride=2)
        self.space_to_precision = nn.ConvTranspose2d(space, precision, 8, stride=8)
        self.time_to_space = nn.Conv2d(time, space, 2, stride=2)
        self.time_to_precision = nn.ConvTranspose2d(time, precision, 4, stride=4)
        self.precision_to_space = nn.Conv2d(precision, space, 8, stride=8)
        self.precision_to_time = nn.Conv2d(precision, time, 4, stride=4)

    def forward(self, p: Tensor, t: Tensor, s: Tensor, code: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """``(B*N, C, h, w)`` of each grid; ``code`` ``(B*N, time)``."""
        _, dim, rows, cols = s.shape
        s = self.space(s.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(-1, dim, rows, cols)
        _, dim, rows, cols = t.shape
        x = (t + code[:, :, None, None]).view(batch, -1, dim, rows * cols).permute(0, 3, 1, 2)  # (B, cells, N, C)
        x = self.time(x.reshape(batch * rows * cols, -1, dim)).view(batch, rows * cols, -1, dim)
        t = x.permute(0, 2, 3, 1).reshape(-1, dim, rows, cols)
        p = p + self.precision(p)
        return (
            p + self.space_to_precision(s) + self.time_to_precision(t),
            t + self.space_to_time(s) + self.precision_to_time(p),
            s + self.time_to_space(t) + self.precision_to_space(p),
        )


class PlainSTP(nn.Module):
    """Frames of one source to one unit vector a pixel of half the resolution.

    Args:
        precision, time, space: widths at L/2, L/8, L/16.
        blocks: how many.
        bands: of the source.
    """

    def __init__(
        self, precision: int = 48, time: int = 256, space: int = 512, blocks: int = 11, bands: int = 5
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(bands, precision, 3, stride=2, padding=1), nn.GELU())
        self.to_time = nn.Conv2d(precision, time, 4, stride=4)
        self.to_space = nn.Conv2d(precision, space, 8, stride=8)
        self.code = nn.Linear(time, time)
        self.blocks = nn.ModuleList(PlainBlock(precision, time, space) for _ in range(blocks))
        self.period = nn.Linear(2, precision)
        self.pool = nn.MultiheadAttention(precision, 4, batch_first=True)
        self.out = nn.Linear(precision, 64)
        self.decoder = nn.Sequential(
            nn.Linear(65, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, bands)
        )
        self.time = time

    def embed(self, pixels: Tensor, days: Tensor) -> Tensor:
        """``(B, N, C, H, W)`` and ``(B, N)`` days of the year to ``(B, H/2, W/2, 64)``."""
        batch, frames = days.shape
        rate = torch.exp(-math.log(1e4) * torch.arange(self.time // 2, device=days.device) / (self.time // 2))
        phase = days.flatten()[:, None] * rate
        code = self.code(torch.cat([phase.sin(), phase.cos()], dim=-1))
        p = self.stem(pixels.flatten(0, 1))
        t, s = self.to_time(p), self.to_space(p)
        for block in self.blocks:
            p, t, s = block(p, t, s, code, batch)
        dim, rows, cols = p.shape[1:]
        x = p.view(batch, frames, dim, rows * cols).permute(0, 3, 1, 2).reshape(-1, frames, dim)
        query = self.period(days.new_tensor([0.0, 1.0])).expand(len(x), 1, dim)
        pooled = self.pool(query, x, x, need_weights=False)[0][:, 0]
        return F.normalize(self.out(pooled), dim=-1).view(batch, rows, cols, 64)

    def forward(self, pixels: Tensor, days: Tensor, target: Tensor) -> Tensor:
        """A teacher, a student that lost half of its frames, and one decoded frame: the loss."""
        teacher = self.embed(pixels, days)
        keep = torch.arange(days.shape[1], device=days.device) % 2 == 0
        student = self.embed(pixels * keep[:, None, None, None], days)
        when = torch.full_like(teacher[..., :1], 0.5)
        decoded = self.decoder(torch.cat([teacher, when], dim=-1)).permute(0, 3, 1, 2)
        decoded = F.interpolate(decoded, scale_factor=2.0, mode="bilinear")
        alike = (1 - (teacher * student).sum(-1)).mean() / 2
        other = teacher.flatten(0, 2)
        return (decoded - target).abs().mean() + 0.02 * alike + 0.05 * (other * other.roll(1, 0)).sum(-1).abs().mean()
