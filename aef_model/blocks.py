"""The Space-Time-Precision block: three operators side by side, then the exchange between their grids."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aef_model.attention import attend, cell_distances, rotate_2d
from aef_model.config import ModelConfig
from aef_model.exchange import Exchange, Grids, join_grids
from aef_model.init import RESIDUAL_GAIN, keep_variance
from aef_model.parts import parts
from aef_model.timeaxis import TimeAxis


class TileNorm(nn.GroupNorm):
    """GroupNorm over the whole tile, of ``(M, h, w, C)``: the explainer's. A cell depends on all of its tile."""

    def __init__(self, dim: int) -> None:
        super().__init__(8, dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DatedNorm(nn.Module):
    """Normalise each cell over its channels, then scale and shift by the frame's time code.

    The code reaches every operator this way. Scales start at zero effect, shifts at about half a unit.
    """

    def __init__(self, dim: int, code_dim: int, kind: str = "pixel") -> None:
        super().__init__()
        self.norm = TileNorm(dim) if kind == "group" else nn.LayerNorm(dim)
        self.scale = nn.Linear(code_dim, dim)
        self.shift = keep_variance(nn.Linear(code_dim, dim), 0.5)
        nn.init.zeros_(self.scale.weight)
        nn.init.zeros_(self.scale.bias)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.scale(code)[:, None, None, :], self.shift(code)[:, None, None, :]
        return self.norm(x) * (1 + scale) + shift


class Mlp(nn.Module):
    """Norm, widen, GELU, narrow: a residual branch."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.widen = keep_variance(nn.Linear(dim, hidden))
        self.narrow = keep_variance(nn.Linear(hidden, dim), RESIDUAL_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(F.gelu(self.widen(self.norm(x))))


class SpaceOperator(nn.Module):
    """Self-attention within each frame on the L/16 grid: rotary position, and a learned reach for each head.

    Logits fall with the distance between cells, at first by ``FIRST_SLOPES`` a cell. Training crops have fewer cells
    than the patches of a map, down to one; without the fall a cell would suddenly be averaged with all of a patch.
    """

    FIRST_SLOPES = (2.0, 6.0)

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        dim = cfg.space_dim
        self.heads, self.form = cfg.space_heads, cfg.attention
        self.norm = DatedNorm(dim, cfg.time_dim)
        self.qkv = keep_variance(nn.Linear(dim, 3 * dim), 0.7)
        self.out = keep_variance(nn.Linear(dim, dim), RESIDUAL_GAIN)
        self.mlp = Mlp(dim, int(dim * cfg.mlp_ratio))
        self.log_slope = nn.Parameter(torch.linspace(*self.FIRST_SLOPES, cfg.space_heads).log())

    def forward(self, x: Tensor, code: Tensor, measured: Tensor) -> Tensor:
        """``(M, h, w, C)`` to the same; cells outside ``measured`` ``(M, h, w)`` are attended to by none."""
        frames, rows, cols, dim = x.shape
        bias = -self.log_slope.exp()[:, None, None] * cell_distances(rows, cols, x.device)
        qkv = self.qkv(self.norm(x, code)).view(frames, rows * cols, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (M, heads, h*w, depth)
        keys = measured.flatten(1)[:, None, None, :]
        mixed = attend(rotate_2d(q, rows, cols), rotate_2d(k, rows, cols), v, keys, self.form, bias)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.mlp(x)


class TimeOperator(nn.Module):
    """Self-attention over all frames of all sources at each cell of the L/8 grid."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        dim = cfg.time_dim
        self.heads, self.form = cfg.time_heads, cfg.attention
        self.norm = DatedNorm(dim, dim)
        self.qkv = keep_variance(nn.Linear(dim, 3 * dim), 0.7)
        self.out = keep_variance(nn.Linear(dim, dim), RESIDUAL_GAIN)
        self.mlp = Mlp(dim, int(dim * cfg.mlp_ratio))

    def forward(self, x: Tensor, code: Tensor, axis: TimeAxis) -> Tensor:
        """``(M, h, w, C)`` to the same; a cell attends to none of the frames that measured nothing in it."""
        assert axis.measured is not None
        rows, cols, dim = x.shape[1:]
        qkv = axis.spread(self.qkv(self.norm(x, code)).flatten(1, 2))  # (B, N, S, 3C)
        batch, slots, cells, _ = qkv.shape
        q, k, v = qkv.view(batch, slots, cells, 3, self.heads, dim // self.heads).permute(3, 0, 2, 4, 1, 5)
        keys = axis.spread(axis.measured.time.flatten(1)).transpose(1, 2)[:, :, None, None, :]
        mixed = attend(q, k, v, keys, self.form)  # (B, S, heads, N, depth)
        mixed = mixed.permute(0, 3, 1, 2, 4).reshape(batch, slots, rows, cols, dim)
        x = x + self.out(axis.gather(mixed))
        return x + self.mlp(x)


class PrecisionOperator(nn.Module):
    """x + Conv3x3(GELU(Conv3x3(norm(x)))) on the L/2 grid."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        dim, hidden = cfg.precision_dim, int(cfg.precision_dim * cfg.conv_expansion)
        self.norm = DatedNorm(dim, cfg.time_dim, cfg.norm)
        self.widen = keep_variance(nn.Conv2d(dim, hidden, kernel_size=3, padding=1))
        self.narrow = keep_variance(nn.Conv2d(hidden, dim, kernel_size=3, padding=1), RESIDUAL_GAIN)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """``(M, h, w, C)`` to the same."""
        y = self.norm(x, code).permute(0, 3, 1, 2)
        return x + self.narrow(F.gelu(self.widen(y))).permute(0, 2, 3, 1)


class Block(nn.Module):
    """One Space-Time-Precision block.

    Args:
        cfg: widths and kinds.
        last: the last block hands only its precision grid on.
    """

    def __init__(self, cfg: ModelConfig, last: bool) -> None:
        super().__init__()
        self.precision = PrecisionOperator(cfg)
        self.time = TimeOperator(cfg)
        self.space = SpaceOperator(cfg) if cfg.space_operator else None
        self.exchange = Exchange(cfg, last)

    def forward(self, state: Grids, code: Tensor, axis: TimeAxis) -> Grids:
        """Advance the three grids; ``code`` ``(M, time_dim)`` is each frame's embedded time code."""
        space = None
        if self.space is not None and state.space is not None:
            assert axis.measured is not None
            space = self.space(state.space, code, axis.measured.space)
        time = self.time(state.time, code, axis)
        done = []
        for part in parts(code, len(code), state.precision[:1].numel()):
            precision = self.precision(state.precision[part], code[part])
            done.append(self.exchange(Grids(precision, time[part], space[part] if space is not None else None)))
        return join_grids(done)
