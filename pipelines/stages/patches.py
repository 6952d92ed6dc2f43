"""Cutting a tile into model inputs and laying their middles side by side again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from aef_model.config import GRID_PX


@dataclass(frozen=True)
class Patch:
    """One model input and the part of its output that is kept, in pixels of the window with its margin.

    Attributes:
        row, col: of the patch in the padded window.
        height, width: of the patch.
        keep_row, keep_col: of the kept middle within the *tile* (without margin).
        keep_height, keep_width: of the kept middle.
        inner_row, inner_col: of the kept middle within the patch.
    """

    row: int
    col: int
    height: int
    width: int
    keep_row: int
    keep_col: int
    keep_height: int
    keep_width: int
    inner_row: int
    inner_col: int


def lay_out(height_px: int, width_px: int, patch_px: int, margin_px: int) -> Iterator[Patch]:
    """Patches whose middles cover a tile once, in row order.

    All patches of a tile have one size, and start at multiples of the model's coarsest cell when the tile does, so
    that the embedding of a pixel does not depend on how the map was cut into tiles.

    Args:
        height_px: of the tile, a multiple of 16.
        width_px: of the tile, a multiple of 16.
        patch_px: side of a model input, at most; a small tile gets a smaller one.
        margin_px: discarded on each side, a multiple of 16; the padded window has this margin too.

    Raises:
        ValueError: for sizes off the model's grid.
    """
    for name, size in (
        ("height_px", height_px),
        ("width_px", width_px),
        ("patch_px", patch_px),
        ("margin_px", margin_px),
    ):
        if size % GRID_PX:
            raise ValueError(f"{name} must be a multiple of {GRID_PX}, not {size}")
    core = patch_px - 2 * margin_px
    for top, keep_top, keep_height, tall in _starts(height_px, core):
        for left, keep_left, keep_width, wide in _starts(width_px, core):
            yield Patch(
                row=top,
                col=left,
                height=tall + 2 * margin_px,
                width=wide + 2 * margin_px,
                keep_row=keep_top,
                keep_col=keep_left,
                keep_height=keep_height,
                keep_width=keep_width,
                inner_row=keep_top - top + margin_px,
                inner_col=keep_left - left + margin_px,
            )


def _starts(size: int, core: int) -> Iterator[tuple[int, int, int, int]]:
    """(start of the core, first kept, number kept, core length) along one side."""
    core = min(core, size)
    done = 0
    for index in range(ceil(size / core)):
        start = min(index * core, size - core)
        yield start, done, start + core - done, core
        done = start + core
