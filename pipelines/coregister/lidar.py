"""GEDI L2A footprints of a window: only the beams, columns and rows that are needed, good shots only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import h5py
import numpy as np
from numpy.typing import NDArray

from pipelines.coregister.engines import CorruptBlock
from pipelines.coregister.engines.logs import hide_queries
from pipelines.coregister.fetch import Failure, Sign, Signers, renewed, retrying, signer_of, storage_options
from pipelines.coregister.frames import ReadFailure
from pipelines.coregister.ranged import BLOCK_BYTES, RangedFile
from pipelines.coregister.reach import reach
from pipelines.grid import WGS84, Period, Window, parse_time_ms, transformer
from pipelines.patience import Renew
from pipelines.scenes import Scene
from pipelines.sequence import PointSamples
from pipelines.sources.base import Source

# ``delta_time`` counts seconds from here (GEDI L2A data dictionary).
EPOCH_MS = parse_time_ms("2018-01-01")
MIN_SENSITIVITY = 0.9
FILL_M = -9999.0  # in place of a height that was not found
STRETCH = 2048  # footprints: some 120 km


def read_points(
    scenes: Sequence[Scene], window: Window, period: Period, source: Source, sign: Signers = None
) -> tuple[PointSamples, list[ReadFailure]]:
    """The good footprints whose centre lies in a window, within a period, with every relative height.

    Good: ``quality_flag == 1``, ``degrade_flag == 0`` (where the release has it), ``sensitivity >= 0.9``, every height
    a number.
    """
    failures: list[ReadFailure] = []
    parts: list[PointSamples] = []
    for scene in sorted(scenes, key=lambda scene: (scene.time_ms, scene.scene_id)):
        inside = None if scene.footprint is None else reach(scene.footprint, window)
        if inside is not None and not inside.any():
            continue
        for asset in scene.assets.values():
            signer = signer_of(sign, scene)
            read = partial(
                _granule,
                name=asset.href,
                window=window,
                source=source,
                sign=signer,
                renew=partial(renewed, signer, asset.href) if signer else None,
            )
            found = retrying(read, asset.href, signer)
            if isinstance(found, Failure):
                failures.append(ReadFailure(source.name, scene.scene_id, asset.href, found.kind, found.reason))
            else:
                parts += found if inside is None else [part.where(inside[part.row, part.col]) for part in found]
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
    name: str,
    window: Window,
    source: Source,
    sign: Sign | None = None,
    renew: Renew | None = None,
) -> list[PointSamples]:
    """The good footprints of every beam of a granule, known by a name whatever its signature."""
    with open_hdf5(href, sign, renew) as file:
        beams = [file[key] for key in sorted(file) if key.startswith("BEAM")]
        return [_beam(beam, rows, window, source) for beam in beams if (rows := _rows_near(beam, name, window))]


@contextmanager
def open_hdf5(href: str, sign: Sign | None = None, renew: Renew | None = None) -> Iterator[h5py.File]:
    """An HDF5 file, of whose remote ones only the ranges that are read are fetched.

    Args:
        href: path or address, signed.
        sign: knows what else its host wants: an ``Authorization`` header, or keywords of its file system.
        renew: a refused address to a fresh one.
    """
    if href.startswith(("http://", "https://")):
        hide_queries()
        with RangedFile(href, getattr(sign, "authorization", None), renew) as handle, _hdf5(handle) as file:
            yield file
    elif "://" in href:
        files, path = fsspec.core.url_to_fs(href, **storage_options(sign, href))
        with files.open(path, "rb", block_size=BLOCK_BYTES) as handle, _hdf5(handle) as file:
            yield file
    else:
        with _hdf5(href) as file:
            yield file


def _hdf5(handle: Any) -> h5py.File:
    try:
        return h5py.File(handle, "r")
    except OSError as error:
        # HDF5 says "file signature not found", which is not that there is no file.
        raise CorruptBlock("no HDF5 file") if "signature" in str(error) else error from error


@dataclass(frozen=True)
class Track:
    """Where a beam went: the bounds of each stretch of ``STRETCH`` footprints, ``(K,)`` degrees.

    Latitudes and longitudes of a granule are megabytes. Neighbouring windows ask for the same granule, of which the
    second fetches the stretches that it needs.
    """

    west: NDArray[np.float64]
    south: NDArray[np.float64]
    east: NDArray[np.float64]
    north: NDArray[np.float64]

    @classmethod
    def of(cls, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> Track:
        starts = np.arange(0, len(lat), STRETCH)
        least, most = np.fmin.reduceat, np.fmax.reduceat  # which pass over what is not a number
        return cls(least(lon, starts), least(lat, starts), most(lon, starts), most(lat, starts))

    def rows(self, bounds: tuple[float, float, float, float]) -> slice | None:
        """Footprints from the first stretch that may meet the bounds (west, south, east, north) to the last."""
        west, south, east, north = bounds
        meets = (self.west <= east) & (self.east >= west) & (self.south <= north) & (self.north >= south)
        found = np.flatnonzero(meets)
        return slice(int(found[0]) * STRETCH, (int(found[-1]) + 1) * STRETCH) if found.size else None


class Tracks:
    """Tracks of the latest remote beams that this process has read."""

    def __init__(self, limit: int) -> None:
        self._lock, self._limit = threading.Lock(), limit
        self._kept: OrderedDict[tuple[str, str, int], Track] = OrderedDict()

    def of(self, beam: h5py.Group, granule: str) -> Track:
        """A beam's track; files of this machine are looked at anew, as they may have been written over."""
        count = beam["lat_lowestmode"].shape[0]
        key = granule, str(beam.name), count
        with self._lock:
            track = self._kept.get(key)
        if track is None:
            track = Track.of(beam["lon_lowestmode"][:], beam["lat_lowestmode"][:])
            if "://" in granule:
                with self._lock:
                    self._kept[key] = track
                    while len(self._kept) > self._limit:
                        self._kept.popitem(last=False)
        return track


TRACKS = Tracks(limit=4096)  # of 512 granules, some 10 MB


def _rows_near(beam: h5py.Group, granule: str, window: Window) -> slice | None:
    """The rows of a beam among which a window's footprints are; None: there are none."""
    if "lat_lowestmode" not in beam or not beam["lat_lowestmode"].shape[0]:
        return None
    return TRACKS.of(beam, granule).rows(window.footprint().bounds)


def _beam(group: h5py.Group, rows: slice, window: Window, source: Source) -> PointSamples:
    """The good footprints among some rows of a beam; the heights are read from the first to the last of them."""
    empty = np.empty(0, np.int32)
    nothing = PointSamples(empty, empty, np.empty(0, np.int64), np.empty((0, len(source.bands)), np.float32))
    lat, lon = group["lat_lowestmode"][rows], group["lon_lowestmode"][rows]
    west, south, east, north = window.footprint().bounds
    near = np.flatnonzero((lat >= south) & (lat <= north) & (lon >= west) & (lon <= east))
    if not near.size:
        return nothing
    first, last = int(near[0]), int(near[-1])
    lat, lon = lat[near], lon[near]
    rows, near = slice(rows.start + first, rows.start + last + 1), near - first
    x, y = transformer(WGS84, window.epsg).transform(lon, lat)
    row = np.floor((window.top_m - np.asarray(y)) / window.resolution_m).astype(np.int32)
    col = np.floor((np.asarray(x) - window.left_m) / window.resolution_m).astype(np.int32)
    good = (row >= 0) & (row < window.height_px) & (col >= 0) & (col < window.width_px)
    good &= _column(group, "quality_flag", rows)[near] == 1
    if "degrade_flag" in group:
        good &= _column(group, "degrade_flag", rows)[near] == 0
    good &= _column(group, "sensitivity", rows)[near] >= MIN_SENSITIVITY
    if not good.any():
        return nothing
    time_ms = EPOCH_MS + np.round(_column(group, "delta_time", rows)[near][good] * 1000).astype(np.int64)
    heights = _column(group, "rh", rows)[near][good].astype(np.float32)
    columns = [int(name.removeprefix("rh")) for name in source.band_names]
    known = (np.isfinite(heights) & (heights != FILL_M)).all(axis=1)
    return PointSamples(row[good][known], col[good][known], time_ms[known], heights[known][:, columns])


def _column(group: h5py.Group, name: str, rows: slice) -> NDArray:
    if name not in group:
        raise ValueError(f"{group.file.filename} {group.name} lacks {name}, which a GEDI L2A granule has")
    return group[name][rows]
