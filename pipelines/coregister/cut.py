"""Cutting what was read for a big window down to a smaller one inside it, in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipelines.coregister.masks import present
from pipelines.grid import Window
from pipelines.sequence import PointSamples, RasterFrames, TextSamples
from pipelines.sources.base import Source


def offset_in(parent: Window, child: Window) -> tuple[int, int]:
    """Row and column of a window's first pixel in another.

    Raises:
        ValueError: the child is not inside the parent, or on another grid.
    """
    row, col = (
        (parent.top_m - child.top_m) // parent.resolution_m,
        (child.left_m - parent.left_m) // parent.resolution_m,
    )
    inside = 0 <= row <= parent.height_px - child.height_px and 0 <= col <= parent.width_px - child.width_px
    if (parent.epsg, parent.resolution_m) != (child.epsg, child.resolution_m) or not inside:
        raise ValueError(f"{child} does not lie inside {parent}")
    return row, col


def cut_rasters(
    frames: RasterFrames, parent: Window, child: Window, source: Source | None = None
) -> RasterFrames | None:
    """The frames over a smaller window, without those that measured nothing there; None if none did.

    The pixels equal those of a direct read of the smaller window. ``scene_ids`` may name a piece of the acquisition
    that contributed only outside of it.

    Args:
        frames: over the parent; H = W = 1 (a series) is passed through.
        parent: window that the frames cover.
        child: window inside it.
        source: tells a measuring band from an angle of view; without it any band counts.
    """
    row, col = offset_in(parent, child)
    if frames.values.shape[-2:] == (1, 1) and parent.shape != (1, 1):
        return frames
    rows, cols = slice(row, row + child.height_px), slice(col, col + child.width_px)
    values = frames.values[..., rows, cols]
    keep = np.flatnonzero(present(values, frames.nodata, source).any(axis=(-2, -1)))
    if not keep.size:
        return None
    return RasterFrames(
        values=values[keep],
        nodata=frames.nodata,
        weight=frames.weight[:, rows, cols][keep],
        time_ms=frames.time_ms[keep],
        valid_ms=frames.valid_ms[keep],
        scale=frames.scale[keep],
        offset=frames.offset[keep],
        geometry=frames.geometry[keep],
        scene_ids=tuple(frames.scene_ids[index] for index in keep),
    )


def cut_points(samples: PointSamples, parent: Window, child: Window) -> PointSamples:
    """The footprints inside a smaller window."""
    row, col = offset_in(parent, child)
    moved = replace(samples, row=samples.row - row, col=samples.col - col)
    return moved.where(_inside(moved.row, moved.col, child))


def cut_texts(samples: TextSamples, parent: Window, child: Window) -> TextSamples:
    """The texts inside a smaller window."""
    row, col = offset_in(parent, child)
    keep = _inside(samples.row - row, samples.col - col, child)
    return replace(
        samples,
        row=(samples.row - row)[keep],
        col=(samples.col - col)[keep],
        valid_ms=samples.valid_ms[keep],
        uncertainty_m=samples.uncertainty_m[keep],
        text=tuple(samples.text[index] for index in np.flatnonzero(keep)) if samples.text else (),
        vector=samples.vector[keep],
    )


def _inside(row: np.ndarray, col: np.ndarray, window: Window) -> np.ndarray:
    return (row >= 0) & (row < window.height_px) & (col >= 0) & (col < window.width_px)
