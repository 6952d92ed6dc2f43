"""Pictures of a mapped area: tiles of one or several zones gathered onto one modest grid, area by area."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pipelines.grid import RESOLUTION_M, WGS84, Tile, Window, transformer, utm_epsg, zone_wedge
from pipelines.products import dequantize
from pipelines.products.cog import open_raster
from pipelines.products.tile import data_path
from pipelines.stages.survey import METRES_PER_DEGREE
from pipelines.storage import Storage

LONGER_SIDE_PX = 440
FAR_DEG = 0.15
INSIDE_M = 8.0
"""No point is further from the centre of its 10 m pixel: half a diagonal, 7.07 m, and a margin."""


@dataclass(frozen=True)
class View:
    """A grid for a picture: every n-th pixel of a window, in the zone that owns its middle.

    Attributes:
        name: latitude and longitude of the middle.
        window: what is seen, at the picture's resolution.
        tiles: that lie in it, of any zone.
    """

    name: str
    window: Window
    tiles: tuple[Tile, ...]

    def lonlat(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Longitude and latitude of every picture pixel."""
        lon, lat = transformer(self.window.epsg, WGS84).transform(*np.meshgrid(*self.window.centres()))
        return np.asarray(lon), np.asarray(lat)

    def positions(self, epsg: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """X and y in a zone of every picture pixel, and whether that zone owns it.

        A zone's raster is empty where the centre of its pixel lies beyond the zone. What the zone owns is therefore
        looked up far enough from the boundary that the pixel there has its centre in the zone too.
        """
        lon, lat = self.lonlat()
        west, east = zone_wedge(epsg)
        owned = (lon >= west) & (lon < east)
        aside = INSIDE_M / (METRES_PER_DEGREE * np.cos(np.radians(lat)))
        inner = np.where(owned, np.clip(lon, west + aside, east - aside), lon)
        x, y = np.meshgrid(*self.window.centres())
        there = inner != lon if epsg == self.window.epsg else np.ones(lon.shape, bool)
        x[there], y[there] = transformer(WGS84, epsg).transform(inner[there], lat[there])
        return x, y, owned


def views_of(tiles: list[Tile]) -> list[View]:
    """One view for every cluster of tiles that lie near each other, the largest first."""
    centres = np.array([_middle(tile.window) for tile in tiles])
    pairs = cKDTree(centres).query_pairs(FAR_DEG, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(tiles), len(tiles)))
    count, cluster = connected_components(links, directed=False)
    views = []
    for index in range(count):
        members = [tile for tile, its in zip(tiles, cluster, strict=True) if its == index]
        views.append(_view(members))
    return sorted(views, key=lambda view: (-len(view.tiles), view.name))


def _middle(window: Window) -> tuple[float, float]:
    west, south, east, north = window.bounds_m
    lon, lat = transformer(window.epsg, WGS84).transform((west + east) / 2, (south + north) / 2)
    return float(lon), float(lat)


def _view(tiles: list[Tile]) -> View:
    bounds = np.array([tile.window.footprint().bounds for tile in tiles])
    (west, south), (east, north) = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    lon, lat = (west + east) / 2, (south + north) / 2
    epsg = utm_epsg(lon, lat)
    xs, ys = transformer(WGS84, epsg).transform([west, west, east, east], [south, north, south, north])
    side = max(max(xs) - min(xs), max(ys) - min(ys))
    resolution = RESOLUTION_M * max(1, ceil(side / RESOLUTION_M / LONGER_SIDE_PX))
    left, top = int(min(xs) // resolution) * resolution, ceil(max(ys) / resolution) * resolution
    window = Window(
        epsg, left, top, ceil((max(xs) - left) / resolution), ceil((top - min(ys)) / resolution), resolution
    )
    return View(
        f"{abs(lat):.2f}{'N' if lat >= 0 else 'S'} {abs(lon):.2f}{'E' if lon >= 0 else 'W'}", window, tuple(tiles)
    )


def embedding_view(storage: Storage, view: View, period_label: str) -> NDArray[np.float32]:
    """``(h, w, 64)`` unit vectors of a view, NaN without data; thinned, not averaged."""
    out = np.full((*view.window.shape, 64), np.nan, np.float32)
    for epsg in {tile.window.epsg for tile in view.tiles}:
        x, y, owned = view.positions(epsg)
        for tile in view.tiles:
            path = data_path(tile.tile_id, period_label)
            if tile.window.epsg != epsg or not storage.exists(path):
                continue
            row, col, inside = _pixels(tile.window, x, y, owned)
            if not inside.any():
                continue
            with open_raster(storage, path) as raster:
                codes = raster.read()
            out[inside] = dequantize(codes[:, row[inside], col[inside]], axis=0, renormalise=True).T
    return out


def raster_view(paths: Iterable[Path], view: View) -> NDArray:
    """``(h, w)`` numbers of single-band rasters in UTM zones, each giving what its zone owns; 0 without data."""
    out = np.zeros(view.window.shape, np.float32)
    for path in sorted(paths):
        with rasterio.open(path) as raster:
            x, y, owned = view.positions(raster.crs.to_epsg())
            values = raster.read(1)
            col, row = ~raster.transform * (x, y)
            row, col = np.floor(row).astype(np.int64), np.floor(col).astype(np.int64)
            inside = owned & (row >= 0) & (row < raster.height) & (col >= 0) & (col < raster.width)
            out[inside] = values[row[inside], col[inside]]
    return out


def patchwork(view: View, patches: Iterable[tuple[Window, NDArray]], bands: int) -> NDArray[np.float32]:
    """``(h, w, bands)`` from images ``(bands, H, W)`` of windows anywhere in the view; NaN where there is none."""
    out = np.full((*view.window.shape, bands), np.nan, np.float32)
    cache: dict[int, tuple[NDArray, NDArray, NDArray]] = {}
    for window, image in patches:
        x, y, _ = cache.setdefault(window.epsg, view.positions(window.epsg))
        row, col, inside = _pixels(window, x, y, np.ones(x.shape, bool))
        out[inside] = image[:, row[inside], col[inside]].T
    return out


def _pixels(
    window: Window, x: NDArray, y: NDArray, wanted: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    row = np.floor((window.top_m - y) / window.resolution_m).astype(np.int64)
    col = np.floor((x - window.left_m) / window.resolution_m).astype(np.int64)
    inside = wanted & (row >= 0) & (row < window.height_px) & (col >= 0) & (col < window.width_px)
    return row, col, inside
