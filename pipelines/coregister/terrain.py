"""Elevation on the target grid, with slope and aspect computed there, after projection (SPEC 1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.coregister.engines import Engine
from pipelines.coregister.fetch import Signers
from pipelines.coregister.frames import ReadFailure, fill, group
from pipelines.coregister.masks import is_nodata
from pipelines.grid import Window
from pipelines.scenes import Scene
from pipelines.sequence import RasterFrames
from pipelines.sources.base import Source
from pipelines.sources.elevation import FILE_BAND

MARGIN_PX = 1


def read_terrain(
    scenes: Sequence[Scene], window: Window, source: Source, engine: Engine, sign: Signers, threads: int
) -> tuple[RasterFrames | None, list[ReadFailure]]:
    """One frame of elevation and its derivatives, None where no elevation is known."""
    stored = replace(source, bands=tuple(band for band in source.bands if band.name == FILE_BAND))
    if not stored.bands:
        raise ValueError(f"source {source.name} must keep its band {FILE_BAND!r}: the others are computed from it")
    wide = window.pad(MARGIN_PX)
    frames = group(scenes, wide, stored)
    failures = fill(frames, wide, stored, engine, sign, threads)
    for frame in frames:
        height = np.full(wide.shape, np.nan)
        for layer in frame.layers:
            stored_height = layer.values[0].astype(np.float64)
            known = ~is_nodata(stored_height, source.nodata)
            height[known] = stored_height[known] * layer.scale[0] + layer.offset[0]
        fields = derivatives(height, window.resolution_m)
        inner = slice(MARGIN_PX, -MARGIN_PX)
        values = np.stack([fields[name][inner, inner] for name in source.band_names]).astype(np.float32)
        missing = np.isnan(values[source.band_names.index(FILE_BAND)])
        if missing.all():
            continue
        values[:, missing] = source.nodata
        bands = len(source.bands)
        return (
            RasterFrames(
                values=values[None],
                nodata=float(source.nodata),
                weight=np.where(missing, np.uint8(0), np.uint8(255))[None],
                time_ms=np.array([frame.time_ms], np.int64),
                valid_ms=np.array([frame.valid_ms], np.int64),
                scale=np.ones((1, bands)),
                offset=np.zeros((1, bands)),
                geometry=np.empty((1, 0), np.float32),
                scene_ids=("+".join(name for layer in frame.layers for name in layer.used),),
            ),
            failures,
        )
    return None, failures


def derivatives(height_m: NDArray[np.float64], spacing_m: float) -> dict[str, NDArray[np.float64]]:
    """Slope and aspect as sine and cosine, from a height field with north up.

    Central differences, one-sided beside a gap. Aspect is the compass direction that the slope faces; on flat ground,
    where there is none, both of its components are 0.
    """
    east = _difference(height_m, 1) / spacing_m
    north = -_difference(height_m, 0) / spacing_m
    steep = np.hypot(east, north)
    slope = np.arctan(steep)
    with np.errstate(invalid="ignore", divide="ignore"):
        aspect_sin, aspect_cos = np.where(steep > 0, -east / steep, 0.0), np.where(steep > 0, -north / steep, 0.0)
    return {
        FILE_BAND: height_m,
        "slope_sin": np.sin(slope),
        "slope_cos": np.cos(slope),
        "aspect_sin": aspect_sin,
        "aspect_cos": aspect_cos,
    }


def _difference(z: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Change per pixel along an axis; a missing neighbour on one side is done without, on both sides gives 0."""
    padded = np.pad(z, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], constant_values=np.nan)
    ahead, behind = np.roll(padded, -1, axis) - padded, padded - np.roll(padded, 1, axis)
    inner = tuple(slice(1, -1) if a == axis else slice(None) for a in (0, 1))
    ahead, behind = ahead[inner], behind[inner]
    known = (~np.isnan(ahead)).astype(float) + ~np.isnan(behind)
    total = np.nan_to_num(ahead) + np.nan_to_num(behind)
    return np.divide(total, known, out=np.zeros_like(z), where=known > 0)
