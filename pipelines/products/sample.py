"""Embeddings at points, read from committed tiles in few requests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow

from pipelines.grid import WGS84, Period, Window, transformer, utm_epsg, zone_name
from pipelines.products.cog import BLOCK_PX, open_raster
from pipelines.products.commit import RECEIPT_SUFFIX
from pipelines.products.quantise import DIMENSIONS, NODATA, dequantize
from pipelines.products.receipt import window_of
from pipelines.products.tile import data_path, receipt_path
from pipelines.storage import Storage


def sample_points(
    storage: Storage,
    lon: NDArray[np.floating],
    lat: NDArray[np.floating],
    period: Period | str,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The embedding of the pixel that holds each point, in the UTM zone that owns the point.

    Args:
        storage: root of everything.
        lon: ``(P,)`` degrees.
        lat: ``(P,)`` degrees.
        period: the valid period, or its label.

    Returns:
        ``(P, 64)`` float32 vectors of length 1 (NaN where there is none), and ``(P,)`` whether there is one.
    """
    label = period if isinstance(period, str) else period.label
    lon, lat = np.atleast_1d(np.asarray(lon, np.float64)), np.atleast_1d(np.asarray(lat, np.float64))
    if lon.shape != lat.shape or lon.ndim != 1:
        raise ValueError(f"lon has shape {lon.shape}, lat {lat.shape}; both must be (P,)")
    codes = np.full((len(lon), DIMENSIONS), NODATA, np.int8)
    committed = set(storage.list(f"embeddings/v1/{label}", RECEIPT_SUFFIX))
    zones = np.array([utm_epsg(x, y) for x, y in zip(lon, lat, strict=True)], np.int64)
    for epsg in np.unique(zones):
        chosen = np.flatnonzero(zones == epsg)
        east, north = transformer(WGS84, int(epsg)).transform(lon[chosen], lat[chosen])
        side_m = _tile_side_m(storage, committed, label, zone_name(int(epsg)))
        if side_m is None:
            continue
        tiles = np.stack([np.floor(north / side_m), np.floor(east / side_m)], axis=1).astype(np.int64)
        for row, col in np.unique(tiles, axis=0):
            tile_id = f"{zone_name(int(epsg))}_r{row:05d}_c{col:05d}"
            if receipt_path(tile_id, label) not in committed:
                continue
            inside = np.flatnonzero((tiles == (row, col)).all(axis=1))
            px = side_m // 10
            window = Window(int(epsg), int(col) * side_m, (int(row) + 1) * side_m, px, px)
            pixels = [window.pixel(east[i], north[i]) for i in inside]
            codes[chosen[inside]] = _read_pixels(storage, data_path(tile_id, label), np.array(pixels))
    valid = codes[:, 0] != NODATA
    return dequantize(codes, renormalise=True), valid


def _tile_side_m(storage: Storage, committed: set[str], label: str, zone: str) -> int | None:
    """Side of a zone's tiles, from any one receipt: all tiles of a zone share one grid."""
    prefix = f"embeddings/v1/{label}/{zone}/"
    for path in committed:
        if path.startswith(prefix):
            window = window_of(storage.read_json(path))
            return window.width_px * window.resolution_m
    return None


def _read_pixels(storage: Storage, path: str, pixels: NDArray[np.int64]) -> NDArray[np.int8]:
    """Codes ``(K, 64)`` at rows and columns ``(K, 2)``: every block of the file is read at most once."""
    out = np.empty((len(pixels), DIMENSIONS), np.int8)
    with open_raster(storage, path) as dataset:
        blocks = pixels // BLOCK_PX
        for block in np.unique(blocks, axis=0):
            chosen = np.flatnonzero((blocks == block).all(axis=1))
            low, high = pixels[chosen].min(axis=0), pixels[chosen].max(axis=0) + 1
            window = RasterWindow(*(int(n) for n in (low[1], low[0], high[1] - low[1], high[0] - low[0])))
            data = dataset.read(window=window)
            row, col = (pixels[chosen] - low).T
            out[chosen] = data[:, row, col].T
    return out
