"""The four terms of eq. 3 as functions of tensors.

Everything runs without waiting for the device: random offsets are tensors, shapes never depend on data. A term with
nothing to compare is 0 with a zero gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aef_model.distributed import gather


class ErrorSum(NamedTuple):
    """What makes a mean: processes of one training add theirs up before they divide.

    Attributes:
        error: sum of errors times their weights, a scalar.
        weight: sum of the weights.
    """

    error: Tensor
    weight: Tensor

    def mean(self) -> Tensor:
        """Weighted mean; 0 of nothing."""
        return self.error / self.weight.clamp_min(1e-6)


def _weighted_l1(prediction: Tensor, values: Tensor, weight: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Sums of weighted errors and of weights; a value whose weight is 0 may be NaN."""
    error = torch.where(weight > 0, (prediction - values).abs(), 0.0)
    return (error * weight).sum(dim=dims), weight.sum(dim=dims)


def absolute_error(prediction: Tensor, values: Tensor, weight: Tensor) -> ErrorSum:
    """Weighted absolute error over everything."""
    return ErrorSum(*_weighted_l1(prediction, values, weight, tuple(range(values.ndim))))


def shift_invariant_error(prediction: Tensor, values: Tensor, weight: Tensor, shift_px: int) -> ErrorSum:
    """Absolute error after moving each sequence's target by the planar shift that fits best.

    The shift is chosen, without gradient, on the inner ``H - 2 shift`` by ``W - 2 shift`` pixels of the prediction, so
    that every shift sees the same ones; it must keep half of the weight of the best-covered one, else a few lucky
    pixels would win. The error is then that of all pixels that the moved target reaches: in a small crop the inner
    part alone would leave out half of what was measured.

    Args:
        prediction: ``(B, C, H, W)``, as are the others.
        values: target.
        weight: 0 where it is unknown.
        shift_px: largest shift on each axis.
    """
    rows, cols = values.shape[-2:]
    assert rows > 2 * shift_px and cols > 2 * shift_px, "patch too small for the shift"
    height, width = rows - 2 * shift_px, cols - 2 * shift_px
    inner = prediction[..., shift_px : shift_px + height, shift_px : shift_px + width]
    offsets = 2 * shift_px + 1
    with torch.no_grad():
        # (B, C, shifts, shifts, height, width), views only
        windows, counted = (x.unfold(2, height, 1).unfold(3, width, 1) for x in (values, weight.expand(values.shape)))
        error, amount = _weighted_l1(inner[:, :, None, None], windows, counted, (1, 4, 5))
        error, amount = (x.flatten(1).T for x in (error, amount))  # (shifts * shifts, B)
        score = error / amount.clamp_min(1e-6)
        score = score.masked_fill(amount < 0.5 * amount.max(dim=0).values, float("inf"))
        best = score.argmin(dim=0)  # (B,)
        # The chosen shift holds for the whole patch: the border counts wherever the moved target reaches it.
        row = (best // offsets - shift_px)[:, None] + torch.arange(rows, device=best.device)
        col = (best % offsets - shift_px)[:, None] + torch.arange(cols, device=best.device)
        inside = ((row >= 0) & (row < rows))[:, None, :, None] & ((col >= 0) & (col < cols))[:, None, None, :]
        row, col = row.clamp(0, rows - 1)[:, :, None], col.clamp(0, cols - 1)[:, None, :]
        sequence = torch.arange(best.shape[0], device=best.device)[:, None, None]
        moved = values.movedim(1, -1)[sequence, row, col].movedim(-1, 1)
        moved_weight = weight.movedim(1, -1)[sequence, row, col].movedim(-1, 1) * inside
    return absolute_error(prediction, moved, moved_weight)


def random_phase(cell_px: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Where the nominal grid starts, ``(2,)`` int64 in ``[0, cell_px)``: v2.1 draws it anew every time."""
    return torch.randint(cell_px, (2,), device=device, generator=generator)


def cell_means(x: Tensor, weight: Tensor, cell_px: int, phase: Tensor) -> tuple[Tensor, Tensor]:
    """Area-weighted means over the cells of a coarser grid.

    Args:
        x: ``(..., H, W)``; anything where the weight is 0.
        weight: broadcastable to ``x``.
        cell_px: side of a cell.
        phase: ``(2,)`` rows and columns by which the first cell sticks out of the patch.

    Returns:
        Means and the share of each cell's area (times weight) that was known, ``(..., ceil((H + cell - 1) / cell),
        ...)``.
    """
    weight = weight.expand(x.shape)
    total, known = torch.where(weight > 0, x * weight, 0.0), weight
    for axis, start in ((-2, phase[0]), (-1, phase[1])):
        index, inside = _cell_index(x.shape[axis], cell_px, start)
        total, known = (
            (y.index_select(axis, index).movedim(axis, -1) * inside)
            .unflatten(-1, (-1, cell_px))
            .sum(-1)
            .movedim(-1, axis)
            for y in (total, known)
        )
    return total / known.clamp_min(1e-6), known / cell_px**2


def regridded_error(prediction: Tensor, values: Tensor, weight: Tensor, cell_px: int, phase: Tensor) -> ErrorSum:
    """Absolute error of cell means, each cell with its known area; ``(B, C, H, W)``."""
    predicted, known = cell_means(prediction, weight, cell_px, phase)
    target, _ = cell_means(torch.where(weight > 0, values, 0.0), weight, cell_px, phase)
    return absolute_error(predicted, target, known)


def class_error(logits: Tensor, classes: Tensor, weight: Tensor, cell_px: int, phase: Tensor | None) -> ErrorSum:
    """Cross-entropy, of the shares of classes in each cell if there are cells.

    Args:
        logits: ``(B, K, H, W)``.
        classes: ``(B, H, W)`` int64, -1 unknown.
        weight: ``(B, H, W)``.
        cell_px: side of a cell, 0 or 1 for none.
        phase: as :func:`cell_means`; needed with cells.
    """
    known = weight * (classes >= 0)
    if cell_px <= 1 or phase is None:
        each = F.cross_entropy(logits, classes.clamp_min(0), reduction="none")
        return ErrorSum((each * known).sum(), known.sum())
    kinds = torch.arange(logits.shape[1], device=classes.device)[:, None, None]
    shares = (classes.clamp_min(0)[:, None] == kinds).to(logits.dtype)  # one-hot; torch's would look at the values
    target, area = cell_means(shares, known[:, None], cell_px, phase)
    each = -(target * _log_cell_means(logits.log_softmax(dim=1), known[:, None], cell_px, phase)).sum(dim=1)
    return ErrorSum((each * area[:, 0]).sum(), area[:, 0].sum())


def _log_cell_means(logs: Tensor, weight: Tensor, cell_px: int, phase: Tensor) -> Tensor:
    """Logarithm of the means that :func:`cell_means` gives of ``exp(logs)``.

    Never leaves the logarithm: a share that is next to nothing where it should be all keeps its gradient.
    """
    nothing = -1e4  # not infinite: the gradient of a cell without any pixel must be a number
    total = torch.where(weight > 0, logs + weight.clamp_min(1e-30).log(), nothing)
    amount = torch.where(weight > 0, weight.clamp_min(1e-30).log(), nothing)
    for axis, start in ((-2, phase[0]), (-1, phase[1])):
        total, amount = (
            torch.where(inside, y.index_select(axis, index).movedim(axis, -1), nothing)
            .unflatten(-1, (-1, cell_px))
            .logsumexp(-1)
            .movedim(-1, axis)
            for y in (total, amount)
            for index, inside in (_cell_index(y.shape[axis], cell_px, start),)
        )
    return total - amount


def _cell_index(size: int, cell_px: int, start: Tensor) -> tuple[Tensor, Tensor]:
    """Which pixel of an axis each place of its cells is, and whether there is one."""
    cells = (size + cell_px - 1 + cell_px - 1) // cell_px
    index = torch.arange(cells * cell_px, device=start.device) - start
    return index.clamp(0, size - 1), (index >= 0) & (index < size)


def uniformity(code: Tensor, site: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Mean ``|u . u'|`` of the same pixel at two different places.

    The batch axis, never the pixels, is rolled by a random amount; pairs of one site do not count. Uniform vectors in
    64 dimensions give 0.100. With ``torch.distributed`` the batch is the global one (see
    :func:`aef_model.distributed.gather`), so every process must call this with the same shapes.

    Args:
        code: ``(B, ..., D)`` unit vectors.
        site: ``(B,)`` int64.
        generator: for the roll.
    """
    everyone, sites = gather(code), gather(site)
    total = sites.shape[0]
    if total < 2:
        return code.sum() * 0.0
    # One roll for all processes: each computes the whole.
    roll = gather(torch.randint(1, total, (1,), device=code.device, generator=generator))[0]
    partner = (torch.arange(total, device=code.device) + roll) % total
    apart = (sites[partner] != sites).to(code.dtype)
    each = (everyone * everyone[partner]).sum(dim=-1).abs().reshape(total, -1).mean(dim=1)
    return (each * apart).sum() / apart.sum().clamp_min(1.0)


def consistency(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean ``(1 - mu . mu_s) / 2``; gradients flow to both."""
    return ((1 - (teacher * student).sum(dim=-1)) / 2).mean()


def contrast(place: Tensor, text: Tensor, present: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy between codes and texts.

    With ``torch.distributed`` the batch is the global one (see :func:`aef_model.distributed.gather`), so every process
    must call this with the same shapes, and marks rows without a text as absent.

    Args:
        place: ``(B, D)`` unit vectors.
        text: the same.
        present: ``(B,)`` bool, rows that have a text; fewer than two of them in the global batch give 0.
        scale: factor on cosines.
    """
    places, texts, there = gather(place), gather(text), gather(present.to(torch.int64)) > 0
    logits = (scale * places @ texts.T).masked_fill(~there[None, :] | ~there[:, None], -1e4)
    label = torch.arange(len(there), device=place.device)
    each = F.cross_entropy(logits, label, reduction="none") + F.cross_entropy(logits.T, label, reduction="none")
    count = there.sum()
    return torch.where(there & (count > 1), each, 0.0).sum() / (2 * count.clamp_min(1))
