"""Attention over one axis with absent keys, in two forms that give the same numbers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["auto", "matmul", "fused"]


def attend(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None, form: Form = "auto", bias: Tensor | None = None
) -> Tensor:
    """Softmax attention.

    ``auto`` takes the fused kernel on accelerators, and on a CPU for float32 without a gradient; else the plain form.
    On a CPU the fused backward pass in bfloat16 is up to seven times slower (docs/decisions.md has the times).

    Args:
        q: ``(..., heads, tokens, depth)``, as are k and v.
        k: keys.
        v: values.
        keys: boolean, broadcastable to ``(..., heads, queries, keys)``; False keys are attended to by nobody. Where no
            key at all is True the result is zero: anything else would depend on how many keys were False.
        form: "auto", "matmul" or "fused".
        bias: ``(heads, queries, keys)``, added to the logits.

    Returns:
        ``(..., heads, tokens, depth)``.
    """
    if keys is not None:
        some = keys.any(dim=-1, keepdim=True)
        return _attend(q, k, v, keys | ~some, form, bias).masked_fill(~some, 0.0)
    return _attend(q, k, v, None, form, bias)


def _attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None, form: Form, bias: Tensor | None) -> Tensor:
    exact = q.dtype == torch.float32 and not torch.is_grad_enabled()
    if form == "fused" or (form == "auto" and (exact or q.device.type != "cpu")):
        lead = q.shape[:-3]
        mask = keys
        if bias is not None:
            mask = bias.to(q.dtype) if keys is None else bias.to(q.dtype).masked_fill(~keys, float("-inf"))
        if mask is not None and mask.ndim > 3:
            mask = mask.expand(*lead, *mask.shape[-3:]).flatten(0, -4)
        fused = F.scaled_dot_product_attention(q.flatten(0, -4), k.flatten(0, -4), v.flatten(0, -4), attn_mask=mask)
        return fused.unflatten(0, lead)
    logits = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    if keys is not None:
        logits = logits.masked_fill(~keys, float("-inf"))
    return torch.softmax(logits, dim=-1).to(v.dtype) @ v


def rotate_2d(x: Tensor, rows: int, cols: int) -> Tensor:
    """Rotary position in two axes: the product of two rotated tokens depends on their offset only.

    Works on a grid of any size and tells nothing of the distance to the tile's edge.

    Args:
        x: ``(..., rows * cols, depth)``, depth a multiple of 4: one half turns with the row, one with the column.
        rows: of the grid.
        cols: of the grid, row-major.
    """
    quarter = x.shape[-1] // 4
    # Wavelengths from 6 to about 100 cells: grids have 1 to 32 cells a side.
    rate = 16.0 ** (-torch.arange(quarter, device=x.device, dtype=torch.float32) / max(quarter, 1))
    row = torch.arange(rows, device=x.device, dtype=torch.float32).repeat_interleave(cols)
    col = torch.arange(cols, device=x.device, dtype=torch.float32).repeat(rows)
    angle = torch.cat([row[:, None] * rate, col[:, None] * rate], dim=-1)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def cell_distances(rows: int, cols: int, device: torch.device) -> Tensor:
    """``(rows * cols, rows * cols)`` Euclidean distances between the cells of a grid, in cells."""
    row = torch.arange(rows, device=device, dtype=torch.float32).repeat_interleave(cols)
    col = torch.arange(cols, device=device, dtype=torch.float32).repeat(rows)
    return torch.hypot(row[:, None] - row, col[:, None] - col)
