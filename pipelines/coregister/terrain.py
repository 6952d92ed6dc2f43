"""Elevation on the target grid, with slope and aspect computed there, after projection (SPEC 1.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.coregister.engines import Engine
from pipelines.coregister.fetch import Failure, FailureKind, Request, Signers, fetch, signer_of
from pipelines.coregister.frames import Frame, ReadFailure, group, to_dtype
from pipelines.coregister.masks import is_nodata
from pipelines.coregister.mosaic import with_neighbours
from pipelines.coregister.warp import warp
from pipelines.grid import Window
from pipelines.scenes import Scene
from pipelines.sequence import RasterFrames
from pipelines.sources.base import Source
from pipelines.sources.elevation import FILE_BAND

MARGIN_PX = 1
# Files are read this much around, so that every pixel finds the same neighbours: more than a pixel of 100 m.
REACH_PX = 16


def read_terrain(
    scenes: Sequence[Scene], window: Window, source: Source, engine: Engine, sign: Signers, threads: int
) -> tuple[RasterFrames | None, list[ReadFailure]]:
    """One frame of elevation and its derivatives, None where no elevation is known."""
    stored = replace(source, bands=tuple(band for band in source.bands if band.name == FILE_BAND))
    if not stored.bands:
        raise ValueError(f"source {source.name} must keep its band {FILE_BAND!r}: the others are computed from it")
    wide = window.pad(MARGIN_PX)
    failures: list[ReadFailure] = []
    for frame in group(scenes, wide.pad(REACH_PX), stored).frames:
        height, used, lost = _surface(frame, wide, source, engine, sign, threads)
        failures += lost
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
                scene_ids=("+".join(used),),
            ),
            failures,
        )
    return None, failures


def _surface(
    frame: Frame, window: Window, source: Source, engine: Engine, sign: Signers, threads: int
) -> tuple[NDArray[np.float64], list[str], list[ReadFailure]]:
    """Metres from all tiles of a frame, NaN where none knows; the tiles that they are from, and those not read."""
    around = window.pad(REACH_PX)

    def wanted_of(piece: Scene) -> Request:
        signer, footprint = signer_of(sign, piece), piece.footprint
        return Request(piece.assets[FILE_BAND], around, source.dtype, source.nodata, signer, footprint=footprint)

    wanted = [(piece, wanted_of(piece)) for piece in frame.pieces if FILE_BAND in piece.assets]
    requests = [request for _, request in wanted]
    fetch(requests, engine, threads=threads)
    read: list[tuple[str, NDArray[np.float64], NDArray[np.bool_]]] = []
    lost: list[tuple[int, ReadFailure]] = []
    for rank, (piece, request) in enumerate(wanted):
        failure = request.failure
        if failure is None and request.pixels is not None:
            try:
                read.append((piece.scene_id, *_metres(request, requests, window, source)))
            except ValueError as error:  # numbers that the source cannot hold: this tile is of no use
                failure = Failure(FailureKind.UNUSABLE, str(error))
        if failure is not None:
            name = source.name, piece.scene_id, request.asset.href
            lost.append((rank, ReadFailure(*name, failure.kind, failure.reason)))
    height_m = np.full(window.shape, np.nan)
    used: set[str] = set()
    # Beyond its edge a tile counts for half a pixel, and only where no other has the place within its own.
    for edges in (True, False):
        for scene_id, metres, inside in read:
            new = ~np.isnan(metres) & np.isnan(height_m) & (inside if edges else True)
            height_m[new] = metres[new]
            used |= {scene_id} if new.any() else set()
    order = [piece.scene_id for piece, _ in wanted]
    failures = [
        replace(failure, fallback="+".join(name for name in order[rank + 1 :] if name in used))
        for rank, failure in lost
    ]
    return height_m, [name for name in order if name in used], failures


def _metres(
    request: Request, requests: Sequence[Request], window: Window, source: Source
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What a tile says of every pixel, NaN where nothing, and which pixels lie within its edges.

    Raises:
        ValueError: stored numbers that the source's dtype cannot hold.
    """
    assert request.pixels is not None, "a tile that was not read says nothing"
    crop, origin = with_neighbours(request, (other for other in requests if other is not request))
    stored = warp(crop, origin, request.grid, window, request.file_nodata)
    values = to_dtype(stored, request.file_nodata, source, request.asset).astype(np.float64)
    metres = np.where(is_nodata(values, source.nodata), np.nan, values * request.asset.scale + request.asset.offset)
    own = np.ones(request.pixels.shape, np.uint8)
    return metres, warp(own, request.origin, request.grid, window, 0, nearest=True) == 1


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
