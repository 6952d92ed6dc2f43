"""Where a scene may give pixels: in those cells of a fixed grid that its footprint touches.

Catalogs draw footprints simply, so that a file may hold more than its own. Were the outline of whatever is read to
decide, the scenes of a pixel would depend on what is read with it; the outline of a cell is the same for all windows.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from pipelines.coregister.engines import FileGrid
from pipelines.grid import RESOLUTION_M, WGS84, Window, in_degrees, reproject

CELL_M = 1280
"""Side of a cell; cells are counted from the origin of each UTM zone."""


def reach(footprint: BaseGeometry, window: Window) -> NDArray[np.bool_]:
    """``(H, W)`` pixels of a window whose cell a footprint (WGS 84) touches."""
    touched, row_of, col_of = _touched(footprint, window)
    return touched[row_of][:, col_of]


def reaches(footprint: BaseGeometry, window: Window) -> bool:
    """Whether a footprint (WGS 84) touches the cell of any pixel of a window."""
    return bool(_touched(footprint, window)[0].any())


def beyond_reach(footprint: BaseGeometry, window: Window) -> NDArray[np.bool_] | None:
    """``(H, W)`` the opposite of :func:`reach`; None where every pixel is within reach."""
    touched, row_of, col_of = _touched(footprint, window)
    return None if touched.all() else ~touched[row_of][:, col_of]


def around(window: Window) -> BaseGeometry:
    """An outline (WGS 84) that meets every footprint which reaches into a window."""
    west, south, east, north = window.bounds_m
    left, top = west // CELL_M * CELL_M, -(-north // CELL_M) * CELL_M
    width, height = -(-east // CELL_M) * CELL_M - left, top - south // CELL_M * CELL_M
    cells = Window(window.epsg, left, top, width // RESOLUTION_M, height // RESOLUTION_M)
    return cells.footprint().buffer(_SLACK_DEG)


def lies_under(grid: FileGrid, footprint: BaseGeometry) -> bool:
    """Whether at least half of a scene's footprint (WGS 84) lies in a file's grid."""
    here = _outline_of(grid).intersection(footprint).area
    return bool(here >= 0.5 * footprint.area > 0)


def _touched(footprint: BaseGeometry, window: Window) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Which cells of a window a footprint touches, and the row and column of cells in which its pixels lie."""
    rows = _indices(window.top_m, -window.resolution_m, window.height_px)
    cols = _indices(window.left_m, window.resolution_m, window.width_px)
    first_row, first_col = int(rows[-1]), int(cols[0])
    outlines = _outlines(window.epsg, first_row, first_col, int(rows[0]), int(cols[-1]))
    shapely.prepare(footprint)
    return shapely.intersects(footprint, outlines), rows - first_row, cols - first_col


_SLACK_DEG = 1e-4  # a long edge is drawn with fewer corners than the cells along it


def _indices(edge_m: int, step_m: int, count: int) -> NDArray[np.int64]:
    """Of the cells in which the centres of a row or column of pixels lie."""
    return np.floor((edge_m + step_m * (np.arange(count) + 0.5)) / CELL_M).astype(np.int64)


@lru_cache(maxsize=16)
def _outlines(epsg: int, first_row: int, first_col: int, last_row: int, last_col: int) -> NDArray[np.object_]:
    """Of a rectangle of cells (rows, columns), in WGS 84 degrees. Kept, as all scenes of a window ask for the same."""
    south = np.arange(first_row, last_row + 1)[:, None] * CELL_M
    west = np.arange(first_col, last_col + 1)[None, :] * CELL_M
    return in_degrees(shapely.box(west, south, west + CELL_M, south + CELL_M), epsg, CELL_M / 8)


@lru_cache(maxsize=1024)
def _outline_of(grid: FileGrid) -> BaseGeometry:
    right, bottom = grid.left + grid.width * grid.step_x, grid.top + grid.height * grid.step_y
    box = shapely.box(grid.left, bottom, right, grid.top)
    outline = reproject(shapely.segmentize(box, max(right - grid.left, grid.top - bottom) / 8), grid.epsg, WGS84)
    # Of a CRS that is stated wrong, coordinates may be nowhere on Earth.
    return shapely.make_valid(outline) if np.isfinite(outline.bounds).all() else shapely.Polygon()
