"""From a crop on a file's own grid to the 10 m UTM grid, so that the pixels do not depend on how work was cut.

Same zone and aligned: the crop itself. Same zone, other grid: coordinates are affine, evaluated from the file's origin.
Other CRS: pyproj at nodes 16 pixels apart, anchored to the zone's own pixel grid and not to the window, linear between.
GDAL's warp is not used: its pixels change with the chunk that they are read in (notes on raster reading: 45 % of them).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, hypot
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipelines.coregister.engines.base import FileGrid
from pipelines.grid import Window, is_geographic, transformer, unwrap, zone_wedge

# Error of linear interpolation between nodes, which falls with the square of their spacing: 1.2e-6 px of a 20 m grid of
# the next zone, 1.7e-5 px of one of arc seconds at 50 degrees north (64 px: 2e-5 and 2.7e-4, or 3 of 10 000 numbers).
NODE_PX = 16
# A file pixel smaller than this share of a target pixel is averaged over the target pixel rather than interpolated.
FINE = 0.75


@dataclass(frozen=True)
class Nodes:
    """File pixel coordinates (centre of the first pixel = 0) at the corners of a window's cells, or along its axes.

    Attributes:
        x, y: ``(rows + 1, columns + 1)`` at nodes; for an affine relation ``(W,)`` and ``(H,)`` at pixel centres.
        col, row: of the window's first pixel, counted from the first node.
        affine: whether ``x`` and ``y`` are per axis.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    col: int
    row: int
    affine: bool


@lru_cache(maxsize=32)
def nodes(grid: FileGrid, window: Window) -> Nodes:
    """Where the pixels of a window lie in a file. Kept, as all bands and dates of a tile share few grids."""
    if grid.epsg == window.epsg:
        x, y = window.centres()
        return Nodes((x - grid.left) / grid.step_x - 0.5, (y - grid.top) / grid.step_y - 0.5, 0, 0, True)
    res = window.resolution_m
    first_col, first_row = window.left_m // res, -(window.top_m // res)
    cols = np.arange(first_col // NODE_PX, (first_col + window.width_px - 1) // NODE_PX + 2)
    rows = np.arange(first_row // NODE_PX, (first_row + window.height_px - 1) // NODE_PX + 2)
    x_m, y_m = np.meshgrid((cols * NODE_PX + 0.5) * res, -(rows * NODE_PX + 0.5) * res)
    x, y = transformer(window.epsg, grid.epsg).transform(x_m, y_m, errcheck=True)
    x = np.asarray(x)
    if is_geographic(grid.epsg):
        # One turn of longitudes for all nodes, that of the file: a cell across 180 degrees must not span the Earth.
        meridian = sum(zone_wedge(window.epsg)) / 2
        turns = round((grid.left + grid.step_x * grid.width / 2 - meridian) / 360)
        x = unwrap(x, meridian) + 360 * turns
    return Nodes(
        (x - grid.left) / grid.step_x - 0.5,
        (np.asarray(y) - grid.top) / grid.step_y - 0.5,
        first_col - int(cols[0]) * NODE_PX,
        first_row - int(rows[0]) * NODE_PX,
        False,
    )


@lru_cache(maxsize=4096)
def extent(grid: FileGrid, window: Window) -> tuple[int, int, int, int] | None:
    """The file pixels that a window needs: first column, first row, width, height; None where it misses the file."""
    # A pixel at (i, j) lies between its cell's nodes, so a window's extremes lie at its cells' edges.
    at = nodes(grid, window.pad(1))
    if at.affine:
        x, y = at.x, at.y
    else:
        size = window.pad(1).shape
        x, y = _positions(at, _edges(at.row, size[0]), _edges(at.col, size[1]))
    col, row = max(0, floor(float(x.min())) - 1), max(0, floor(float(y.min())) - 1)
    end_col, end_row = min(grid.width, ceil(float(x.max())) + 2), min(grid.height, ceil(float(y.max())) + 2)
    # Beyond half a pixel outside the file nothing is taken from it.
    if x.max() < -0.5 or y.max() < -0.5 or x.min() > grid.width - 0.5 or y.min() > grid.height - 0.5:
        return None
    return (col, row, end_col - col, end_row - row) if end_col > col and end_row > row else None


def warp(
    crop: NDArray[Any],
    origin: tuple[int, int],
    grid: FileGrid,
    window: Window,
    nodata: float,
    *,
    nearest: bool = False,
) -> NDArray[Any]:
    """A crop on a window's grid.

    Args:
        crop: ``(h, w)`` pixels of the file.
        origin: column and row of the crop's first pixel in the file.
        grid: of the whole file.
        window: target.
        nodata: of the file; also fills what the file does not cover. NaN is never data.
        nearest: for classes and masks.

    Returns:
        ``(H, W)`` in the crop's dtype. A pixel is measured where at least half of its bilinear weight is.
    """
    exact = _aligned_offset(grid, window)
    if exact is not None:
        return _paste(crop, exact[0] - origin[0], exact[1] - origin[1], window.shape, nodata)
    at = nodes(grid, window)
    out = np.empty(window.shape, crop.dtype)
    crop = np.ascontiguousarray(crop)
    integer = crop.dtype.kind in "iu"
    span_x, span_y = _file_pixels_per_target(grid, window.epsg, window.resolution_m)
    if nearest or max(span_x, span_y) <= 1 / FINE:
        if at.affine:
            _sample_affine(crop, *origin, at.x, at.y, float(nodata), integer, nearest, out)
        else:
            _sample_nodes(crop, *origin, at.x, at.y, at.col, at.row, float(nodata), integer, nearest, out)
    elif at.affine:
        _average_affine(crop, *origin, at.x, at.y, span_x, span_y, float(nodata), integer, out)
    else:
        _average_nodes(crop, *origin, at.x, at.y, at.col, at.row, float(nodata), integer, out)
    return out


def _aligned_offset(grid: FileGrid, window: Window) -> tuple[int, int] | None:
    """Column and row in the file of the window's first pixel, when the two grids are the same."""
    if grid.epsg != window.epsg or grid.step_x != window.resolution_m or grid.step_y != -window.resolution_m:
        return None
    col, row = (window.left_m - grid.left) / grid.step_x, (window.top_m - grid.top) / grid.step_y
    if abs(col - round(col)) > 1e-6 or abs(row - round(row)) > 1e-6:
        return None
    return round(col), round(row)


def _paste(crop: NDArray, col: int, row: int, shape: tuple[int, int], nodata: float) -> NDArray:
    """The part of a crop that starts at a (possibly negative) column and row."""
    height, width = shape
    if 0 <= col and 0 <= row and col + width <= crop.shape[1] and row + height <= crop.shape[0]:
        return crop[row : row + height, col : col + width]
    out = np.full(shape, crop.dtype.type(nodata), crop.dtype)
    top, left = max(0, -row), max(0, -col)
    bottom, right = min(height, crop.shape[0] - row), min(width, crop.shape[1] - col)
    if bottom > top and right > left:
        out[top:bottom, left:right] = crop[row + top : row + bottom, col + left : col + right]
    return out


@lru_cache(maxsize=4096)
def _file_pixels_per_target(grid: FileGrid, epsg: int, resolution_m: int) -> tuple[float, float]:
    """How many file pixels one target pixel spans along the file's axes.

    Taken at the centre of the file, so that the choice of method is the same for every window.
    """
    if grid.epsg == epsg:
        return resolution_m / grid.step_x, resolution_m / -grid.step_y
    x = grid.left + grid.step_x * (grid.width / 2 + np.array([0.0, 1.0, 0.0]))
    y = grid.top + grid.step_y * (grid.height / 2 + np.array([0.0, 0.0, 1.0]))
    x_m, y_m = transformer(grid.epsg, epsg).transform(x, y)
    width_m, height_m = hypot(x_m[1] - x_m[0], y_m[1] - y_m[0]), hypot(x_m[2] - x_m[0], y_m[2] - y_m[0])
    return resolution_m / width_m, resolution_m / height_m


def _edges(first: int, count: int) -> NDArray[np.int64]:
    """Offsets from the first node of a window's first and last pixel and of those beside every node line."""
    last = first + count - 1
    lines = np.arange(first // NODE_PX + 1, last // NODE_PX + 1) * NODE_PX
    return np.unique(np.concatenate([[first, last], lines, lines - 1]))


def _positions(at: Nodes, rows: NDArray, cols: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """File coordinates at some rows and columns counted from the first node."""
    j, i = np.meshgrid(cols, rows)
    # The last node line itself belongs to the cell before it.
    cj, ci = np.minimum(j // NODE_PX, at.x.shape[1] - 2), np.minimum(i // NODE_PX, at.x.shape[0] - 2)
    fx, fy = j / NODE_PX - cj, i / NODE_PX - ci
    out = []
    for grid in (at.x, at.y):
        top = grid[ci, cj] * (1 - fx) + grid[ci, cj + 1] * fx
        bottom = grid[ci + 1, cj] * (1 - fx) + grid[ci + 1, cj + 1] * fx
        out.append(top * (1 - fy) + bottom * fy)
    return out[0], out[1]


@njit(inline="always")
def _is_data(value: float, nodata: float) -> bool:
    return value == value and value != nodata


@njit(nogil=True, cache=True)
def _nearest(crop: NDArray[Any], col: int, row: int, x: float, y: float, nodata: float) -> float:
    j, i = int(np.floor(x + 0.5)) - col, int(np.floor(y + 0.5)) - row
    if i < 0 or j < 0 or i >= crop.shape[0] or j >= crop.shape[1]:
        return nodata
    return float(crop[i, j])


@njit(nogil=True, cache=True)
def _bilinear(crop: NDArray[Any], col: int, row: int, x: float, y: float, nodata: float) -> float:
    left, top = np.floor(x), np.floor(y)
    fx, fy = x - left, y - top
    j, i = int(left) - col, int(top) - row
    total, weight = 0.0, 0.0
    for di in range(2):
        if i + di < 0 or i + di >= crop.shape[0]:
            continue
        wy = fy if di else 1.0 - fy
        for dj in range(2):
            if j + dj < 0 or j + dj >= crop.shape[1]:
                continue
            value = float(crop[i + di, j + dj])
            w = wy * (fx if dj else 1.0 - fx)
            if w > 0.0 and _is_data(value, nodata):
                total += w * value
                weight += w
    if weight < 0.5 - 1e-9:
        return np.nan
    return total / weight


@njit(nogil=True, cache=True)
def _store(out: NDArray[Any], i: int, j: int, value: float, nodata: float, integer: bool) -> None:
    """Puts a mean where it belongs; NaN is none. What was measured never becomes nodata: it moves by one number."""
    if value != value:
        out[i, j] = nodata
        return
    if integer:
        rounded = np.floor(value + 0.5)
        if rounded == nodata:
            rounded += 1.0 if value >= nodata else -1.0
        out[i, j] = rounded
    else:
        out[i, j] = value
        if out[i, j] == nodata:
            out[i, j] = nodata + max(abs(nodata) * 2.0**-22, 2.0**-120)


@njit(nogil=True, cache=True)
def _sample_affine(
    crop: NDArray[Any],
    col: int,
    row: int,
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    nodata: float,
    integer: bool,
    nearest: bool,
    out: NDArray[Any],
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            if nearest:
                out[i, j] = _nearest(crop, col, row, xs[j], ys[i], nodata)
            else:
                _store(out, i, j, _bilinear(crop, col, row, xs[j], ys[i], nodata), nodata, integer)


@njit(nogil=True, cache=True)
def _at(grid: NDArray[np.float64], v: float, u: float) -> float:
    """Linear between nodes, at a position counted in target pixels from the first node."""
    ci, cj = int(np.floor(v / NODE_PX)), int(np.floor(u / NODE_PX))
    ci, cj = min(max(ci, 0), grid.shape[0] - 2), min(max(cj, 0), grid.shape[1] - 2)
    fy, fx = v / NODE_PX - ci, u / NODE_PX - cj
    top = grid[ci, cj] * (1 - fx) + grid[ci, cj + 1] * fx
    bottom = grid[ci + 1, cj] * (1 - fx) + grid[ci + 1, cj + 1] * fx
    return top * (1 - fy) + bottom * fy


@njit(nogil=True, cache=True)
def _sample_nodes(
    crop: NDArray[Any],
    col: int,
    row: int,
    gx: NDArray[np.float64],
    gy: NDArray[np.float64],
    first_col: int,
    first_row: int,
    nodata: float,
    integer: bool,
    nearest: bool,
    out: NDArray[Any],
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x, y = _at(gx, first_row + i, first_col + j), _at(gy, first_row + i, first_col + j)
            if nearest:
                out[i, j] = _nearest(crop, col, row, x, y, nodata)
            else:
                _store(out, i, j, _bilinear(crop, col, row, x, y, nodata), nodata, integer)


@njit(nogil=True, cache=True)
def _average_affine(
    crop: NDArray[Any],
    col: int,
    row: int,
    xs: NDArray[np.float64],
    ys: NDArray[np.float64],
    span_x: float,
    span_y: float,
    nodata: float,
    integer: bool,
    out: NDArray[Any],
) -> None:
    """Mean weighted by the area that each file pixel shares with the target pixel."""
    for i in range(out.shape[0]):
        top, bottom = ys[i] - span_y / 2 + 0.5, ys[i] + span_y / 2 + 0.5
        for j in range(out.shape[1]):
            left, right = xs[j] - span_x / 2 + 0.5, xs[j] + span_x / 2 + 0.5
            total, weight = 0.0, 0.0
            for r in range(max(int(np.floor(top)), row), min(int(np.ceil(bottom)), row + crop.shape[0])):
                wy = min(bottom, r + 1.0) - max(top, float(r))
                for c in range(max(int(np.floor(left)), col), min(int(np.ceil(right)), col + crop.shape[1])):
                    value = float(crop[r - row, c - col])
                    w = wy * (min(right, c + 1.0) - max(left, float(c)))
                    if w > 0.0 and _is_data(value, nodata):
                        total += w * value
                        weight += w
            value = total / weight if weight >= (0.5 - 1e-9) * span_x * span_y else np.nan
            _store(out, i, j, value, nodata, integer)


@njit(nogil=True, cache=True)
def _average_nodes(
    crop: NDArray[Any],
    col: int,
    row: int,
    gx: NDArray[np.float64],
    gy: NDArray[np.float64],
    first_col: int,
    first_row: int,
    nodata: float,
    integer: bool,
    out: NDArray[Any],
) -> None:
    """Mean weighted by the area that each file pixel shares with the target pixel, a quadrilateral in the file."""
    pixel, strip, part = np.empty((4, 2)), np.empty((12, 2)), np.empty((12, 2))
    spare = np.empty((12, 2))
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            _corners(gx, gy, first_row + i, first_col + j, pixel)
            whole, total, weight = _area(pixel, 4), 0.0, 0.0
            top, bottom = max(int(np.floor(pixel[:, 1].min())), row), int(np.ceil(pixel[:, 1].max()))
            left, right = max(int(np.floor(pixel[:, 0].min())), col), int(np.ceil(pixel[:, 0].max()))
            for r in range(top, min(bottom, row + crop.shape[0])):
                size = _cut(pixel, 4, 1, float(r), spare, strip)
                for c in range(left, min(right, col + crop.shape[1])):
                    value = float(crop[r - row, c - col])
                    if _is_data(value, nodata):
                        w = _area(part, _cut(strip, size, 0, float(c), spare, part))
                        total += w * value
                        weight += w
            value = total / weight if weight > 0.0 and weight >= (0.5 - 1e-9) * whole else np.nan
            _store(out, i, j, value, nodata, integer)


@njit(nogil=True, cache=True)
def _corners(gx: NDArray[np.float64], gy: NDArray[np.float64], i: int, j: int, pixel: NDArray[np.float64]) -> None:
    """The corners (x, y) of a target pixel counted from the first node, in the file's pixel edges.

    All by the cell that the pixel lies in, also those beyond its last node, so that no other cell has to be known.
    """
    ci, cj = min(i // NODE_PX, gx.shape[0] - 2), min(j // NODE_PX, gx.shape[1] - 2)
    for k in range(4):
        v = (i + (0.5 if k >= 2 else -0.5)) / NODE_PX - ci
        u = (j + (0.5 if k in (1, 2) else -0.5)) / NODE_PX - cj
        for axis in range(2):
            grid = gy if axis else gx
            upper = grid[ci, cj] * (1 - u) + grid[ci, cj + 1] * u
            lower = grid[ci + 1, cj] * (1 - u) + grid[ci + 1, cj + 1] * u
            pixel[k, axis] = upper * (1 - v) + lower * v + 0.5


@njit(nogil=True, cache=True)
def _cut(
    polygon: NDArray[np.float64],
    size: int,
    axis: int,
    first: float,
    spare: NDArray[np.float64],
    out: NDArray[np.float64],
) -> int:
    """The part of a convex polygon whose coordinate lies in [first, first + 1]: how many corners of ``out`` it has.

    Sutherland and Hodgman 1974, one limit after the other.
    """
    found = _cut_at(polygon, size, axis, first, 1.0, spare)
    return _cut_at(spare, found, axis, first + 1.0, -1.0, out)


@njit(nogil=True, cache=True)
def _cut_at(
    polygon: NDArray[np.float64], size: int, axis: int, limit: float, sign: float, out: NDArray[np.float64]
) -> int:
    found = 0
    for k in range(size):
        ahead = (k + 1) % size
        here, there = sign * (polygon[k, axis] - limit), sign * (polygon[ahead, axis] - limit)
        if here >= 0.0:
            out[found, 0], out[found, 1] = polygon[k, 0], polygon[k, 1]
            found += 1
        if (here > 0.0 and there < 0.0) or (here < 0.0 and there > 0.0):
            share = here / (here - there)
            for a in range(2):
                out[found, a] = polygon[k, a] + share * (polygon[ahead, a] - polygon[k, a])
            found += 1
    return found


@njit(nogil=True, cache=True)
def _area(polygon: NDArray[np.float64], size: int) -> float:
    total = 0.0
    for k in range(size):
        ahead = (k + 1) % size
        total += polygon[k, 0] * polygon[ahead, 1] - polygon[ahead, 0] * polygon[k, 1]
    return abs(total) / 2
