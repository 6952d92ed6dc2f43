"""Monthly mass anomalies of the Earth's gravity field at a window's centre (GRACE and GRACE-FO mascons).

The grid is half a degree, of cells far larger than a window, with steps between mascons: bilinear interpolation smooths
their borders (SPEC 1.2). A Zarr store, or a NetCDF 4 file (which is HDF5).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.coregister.climate import LATITUDE, LONGITUDE, month_bounds
from pipelines.coregister.fetch import Failure, Sign, Signers, retrying, signer_of
from pipelines.coregister.frames import ReadFailure
from pipelines.coregister.lidar import open_hdf5
from pipelines.coregister.zarr_store import open_store
from pipelines.grid import WGS84, Period, Window, transformer
from pipelines.scenes import Scene
from pipelines.sequence import RasterFrames
from pipelines.sources.base import Source

VARIABLE = "lwe_thickness"
TIME = "time"


def read_gravity(
    scenes: Sequence[Scene], window: Window, period: Period, source: Source, sign: Signers = None
) -> tuple[RasterFrames | None, list[ReadFailure]]:
    """The months of a period (those whose middle lies in it), ``(N, 1, 1, 1)`` float32 centimetres."""
    failures: list[ReadFailure] = []
    west, south, east, north = window.bounds_m
    lon, lat = transformer(window.epsg, WGS84).transform((west + east) / 2, (south + north) / 2)
    months: dict[tuple[int, int], tuple[str, float]] = {}
    for scene in sorted(scenes, key=lambda scene: scene.scene_id):
        for asset in scene.assets.values():
            signer = signer_of(sign, scene)
            if _is_file(asset.href):
                found = retrying(partial(_of_file, lon=lon, lat=lat, sign=signer), asset.href, signer)
            else:
                options = json.dumps(asset.extra.get("open_kwargs") or {}, sort_keys=True)
                store = partial(_of_store, lon=lon, lat=lat, options=options, sign=signer)
                found = retrying(store, asset.href, None)  # the store signs its keys itself, as their turn comes
            if isinstance(found, Failure):
                failures.append(ReadFailure(source.name, scene.scene_id, asset.href, found.kind, found.reason))
                continue
            for month, value in found.items():
                months.setdefault(month, (scene.scene_id, value))
    rows = [(*month_bounds(*month), *months[month]) for month in sorted(months)]
    rows = [row for row in rows if period.contains((row[0] + row[1]) // 2)]
    if not rows:
        return None, failures
    frames = RasterFrames(
        values=np.array([row[3] for row in rows], np.float32)[:, None, None, None],
        nodata=float(source.nodata),
        weight=np.full((len(rows), 1, 1), 255, np.uint8),
        time_ms=np.array([(row[0] + row[1]) // 2 for row in rows], np.int64),
        valid_ms=np.array([row[:2] for row in rows], np.int64),
        scale=np.ones((len(rows), 1)),
        offset=np.zeros((len(rows), 1)),
        geometry=np.empty((len(rows), 0), np.float32),
        scene_ids=tuple(row[2] for row in rows),
    )
    return frames, failures


def _is_file(href: str) -> bool:
    return href.split("?")[0].lower().endswith((".nc", ".nc4"))


def _of_file(href: str, lon: float, lat: float, sign: Sign | None) -> dict[tuple[int, int], float]:
    """Thickness by (year, month) at a place, from a NetCDF file."""
    with open_hdf5(href, sign) as file:
        axes = [next((file[name] for name in names if name in file), None) for names in (LATITUDE, LONGITUDE)]
        if VARIABLE not in file or None in axes or TIME not in file:
            raise ValueError(f"{href} lacks {VARIABLE}, {TIME}, latitude or longitude; it has {sorted(file)}")
        unit = file[TIME].attrs["units"]
        moments = _moments(file[TIME][:], unit.decode() if isinstance(unit, bytes) else str(unit))
        rows, cols, weights = corners(axes[0][:], axes[1][:], lat, lon)  # type: ignore[index]
        values = np.stack([file[VARIABLE][:, row, col] for row, col in zip(rows, cols, strict=True)], axis=1)
        fill = file[VARIABLE].attrs.get("_FillValue")
        values = np.where(values == fill, np.nan, values) if fill is not None else values
    return _weighted(values, weights, moments)


def _of_store(href: str, lon: float, lat: float, options: str, sign: Sign | None) -> dict[tuple[int, int], float]:
    """Thickness by (year, month) at a place, from a Zarr store."""
    store = open_store(href, options, sign)
    names = [next((name for name in known if name in store.dims), None) for known in (LATITUDE, LONGITUDE)]
    if VARIABLE not in store or None in names or TIME not in store.dims:
        has = sorted(map(str, store.variables))
        raise ValueError(f"{href} lacks {VARIABLE}, {TIME}, latitude or longitude; it has {has}")
    latitude, longitude = (store[name].to_numpy() for name in names)
    rows, cols, weights = corners(latitude, longitude, lat, lon)
    array = store[VARIABLE].transpose(TIME, *names)
    parts = [array[:, int(row), int(col)].to_numpy() for row, col in zip(rows, cols, strict=True)]
    return _weighted(np.stack(parts, axis=1), weights, pd.DatetimeIndex(store[TIME].to_numpy()))


def _weighted(values: NDArray, weights: NDArray[np.float64], moments: pd.DatetimeIndex) -> dict[tuple[int, int], float]:
    """The mean of the four cells ``(T, 4)`` by month, where at least half of the weight is known."""
    known = ~np.isnan(values)
    weight = (known * weights).sum(axis=1)
    total = (np.where(known, values, 0.0) * weights).sum(axis=1)
    return {
        month: float(total[step] / weight[step]) for step, month in enumerate(months_of(moments)) if weight[step] >= 0.5
    }


def months_of(moments: pd.DatetimeIndex) -> list[tuple[int, int]]:
    """The (year, month) of each solution, in the order given: the month of its middle.

    Where batteries were spared a solution spans parts of two months, and two may have their middles in one (22 and 27
    April 2015): the later is then that of the month after, if no other has its middle there.
    """
    months = [(moment.year, moment.month) for moment in moments]
    taken = set(months)
    for before, step in pairwise(np.argsort(moments.to_numpy(), kind="stable").tolist()):
        year, month = months[step]
        after = (year + month // 12, month % 12 + 1)
        if months[before] == months[step] and after not in taken:
            months[step] = after
            taken.add(after)
    return months


def corners(
    latitude: NDArray, longitude: NDArray, lat: float, lon: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Rows, columns and bilinear weights of the four cells around a place; longitudes wrap around the globe."""
    lats, lons = np.asarray(latitude, float), np.asarray(longitude, float)
    step = abs(float(lons[1] - lons[0]))
    rows = np.argsort(np.abs(lats - lat), kind="stable")[:2]
    gaps = (lons - lon + 180) % 360 - 180
    cols = np.argsort(np.abs(gaps), kind="stable")[:2]
    if abs(lats[rows[0]] - lat) > step or abs(gaps[cols[0]]) > step:
        raise ValueError(f"the grid does not reach {lat:.3f} N, {lon:.3f} E")
    fy = min(abs(lats[rows[0]] - lat) / abs(float(lats[rows[1]] - lats[rows[0]])), 1.0)
    fx = min(abs(gaps[cols[0]]) / step, 1.0)
    # Beyond the outermost centres the second nearest lies behind the first: the nearest alone counts.
    fy = fy if (lats[rows[0]] - lat) * (lats[rows[1]] - lat) <= 0 else 0.0
    fx = fx if gaps[cols[0]] * gaps[cols[1]] <= 0 else 0.0
    weights = np.array([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx])
    return np.repeat(rows, 2), np.tile(cols, 2), weights


def _moments(values: NDArray, unit: str) -> pd.DatetimeIndex:
    """CF times, ``days since 2002-01-01T00:00:00Z``."""
    what, _, since = unit.partition(" since ")
    start = pd.Timestamp(since.replace("Z", "").strip())
    return pd.DatetimeIndex(start + pd.to_timedelta(np.asarray(values, float), unit=what.strip().rstrip("s")))
