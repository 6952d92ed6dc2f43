"""GEDI L2A footprints of a window: only the beams, columns and rows that are needed, good shots only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import fsspec
import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.coregister.engines.logs import hide_queries
from pipelines.coregister.fetch import Failure, Signers, renewed, retrying, signer_of
from pipelines.coregister.frames import ReadFailure
from pipelines.coregister.ranged import BLOCK_BYTES, Authorization, RangedFile
from pipelines.grid import WGS84, Period, Window, parse_time_ms, transformer
from pipelines.patience import Renew
from pipelines.scenes import Scene
from pipelines.sequence import PointSamples
from pipelines.sources.base import Source

# ``delta_time`` counts seconds from here (GEDI L2A data dictionary).
EPOCH_MS = parse_time_ms("2018-01-01")
MIN_SENSITIVITY = 0.9


def read_points(
    scenes: Sequence[Scene], window: Window, period: Period, source: Source, sign: Signers = None
) -> tuple[PointSamples, list[ReadFailure]]:
    """The good footprints whose centre lies in a window, within a period, with every relative height.

    Good: ``quality_flag == 1``, ``degrade_flag == 0`` (where the release has it), ``sensitivity >= 0.9``.
    """
    failures: list[ReadFailure] = []
    parts: list[PointSamples] = []
    for scene in sorted(scenes, key=lambda scene: (scene.time_ms, scene.scene_id)):
        if scene.footprint is not None and not scene.footprint.intersects(window.footprint()):
            continue
        for asset in scene.assets.values():
            signer = signer_of(sign, scene)
            read = partial(
                _granule,
                window=window,
                source=source,
                authorization=getattr(signer, "authorization", None),
                renew=partial(renewed, signer, asset.href) if signer else None,
            )
            found = retrying(read, asset.href, signer)
            if isinstance(found, Failure):
                failures.append(ReadFailure(source.name, scene.scene_id, asset.href, found.kind, found.reason))
            else:
                parts += found
    row, col, time_ms, values = (
        np.concatenate([getattr(part, name) for part in parts]) if parts else None
        for name in ("row", "col", "time_ms", "values")
    )
    if row is None or col is None or time_ms is None or values is None:
        empty = np.empty(0, np.int32)
        return PointSamples(empty, empty, np.empty(0, np.int64), np.empty((0, len(source.bands)), np.float32)), failures
    keep = (time_ms >= period.start_ms) & (time_ms < period.end_ms)
    order = np.flatnonzero(keep)[np.lexsort((col[keep], row[keep], time_ms[keep]))]
    return PointSamples(row[order], col[order], time_ms[order], values[order]), failures


def _granule(
    href: str,
    window: Window,
    source: Source,
    authorization: Authorization | None = None,
    renew: Renew | None = None,
) -> list[PointSamples]:
    """The good footprints of every beam."""
    with open_hdf5(href, authorization, renew) as file:
        return [_beam(file[name], window, source) for name in sorted(file) if name.startswith("BEAM")]


@contextmanager
def open_hdf5(href: str, authorization: Authorization | None = None, renew: Renew | None = None) -> Iterator[h5py.File]:
    """An HDF5 file, of whose remote ones only the ranges that are read are fetched."""
    if href.startswith(("http://", "https://")):
        hide_queries()
        with RangedFile(href, authorization, renew) as handle, h5py.File(handle, "r") as file:
            yield file
    elif "://" in href:
        with fsspec.open(href, "rb", block_size=BLOCK_BYTES) as handle, h5py.File(handle, "r") as file:
            yield file
    else:
        with h5py.File(href, "r") as file:
            yield file


def _beam(group: h5py.Group, window: Window, source: Source) -> PointSamples:
    """One beam's good footprints; the heights are read for the rows from the first to the last of them."""
    empty = np.empty(0, np.int32)
    nothing = PointSamples(empty, empty, np.empty(0, np.int64), np.empty((0, len(source.bands)), np.float32))
    if "lat_lowestmode" not in group:
        return nothing
    lat, lon = group["lat_lowestmode"][:], group["lon_lowestmode"][:]
    west, south, east, north = window.footprint().bounds
    near = np.flatnonzero((lat >= south) & (lat <= north) & (lon >= west) & (lon <= east))
    if not near.size:
        return nothing
    rows = slice(int(near[0]), int(near[-1]) + 1)
    near = near - rows.start
    lat, lon = lat[rows][near], lon[rows][near]
    x, y = transformer(WGS84, window.epsg).transform(lon, lat)
    row = np.floor((window.top_m - np.asarray(y)) / window.resolution_m).astype(np.int32)
    col = np.floor((np.asarray(x) - window.left_m) / window.resolution_m).astype(np.int32)
    good = (row >= 0) & (row < window.height_px) & (col >= 0) & (col < window.width_px)
    good &= _column(group, "quality_flag", rows)[near] == 1
    if "degrade_flag" in group:
        good &= _column(group, "degrade_flag", rows)[near] == 0
    if "sensitivity" in group:
        good &= _column(group, "sensitivity", rows)[near] >= MIN_SENSITIVITY
    if not good.any():
        return nothing
    time_ms = EPOCH_MS + np.round(_column(group, "delta_time", rows)[near][good] * 1000).astype(np.int64)
    heights = _column(group, "rh", rows)[near][good]
    columns = [int(name.removeprefix("rh")) for name in source.band_names]
    return PointSamples(row[good], col[good], time_ms, heights[:, columns].astype(np.float32))


def _column(group: h5py.Group, name: str, rows: slice) -> NDArray:
    if name not in group:
        raise ValueError(f"{group.file.filename} {group.name} lacks {name}, which a GEDI L2A granule has")
    return group[name][rows]
