"""Files of one grid that abut, as the tiles of an elevation model do: each crop with its neighbours' edge pixels.

Warped alone, a tile is extrapolated over the half pixel beyond its last centres, which makes a step of every seam.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isclose

import numpy as np
from numpy.typing import NDArray

from pipelines.coregister.engines.base import FileGrid, same_nodata
from pipelines.coregister.fetch import Request
from pipelines.coregister.masks import is_measured
from pipelines.grid import is_geographic


def with_neighbours(request: Request, others: Iterable[Request]) -> tuple[NDArray, tuple[int, int]]:
    """The pixels of a request with a ring of one pixel around, and the ring's first column and row in the file.

    Beyond the file's edge the ring holds what the first of the others that is stored in the same way has there: its
    pixels where they fall together with the ring's, else (tiles of an elevation model are wider spaced towards the
    poles) what lies between them; nodata where none has any.
    """
    pixels, (col, row), grid = request.pixels, request.origin, request.grid
    assert pixels is not None, "a request without pixels has no neighbours"
    ringed = np.pad(pixels, 1, constant_values=pixels.dtype.type(request.file_nodata))
    rows, cols = (np.arange(first - 1, first + size + 1) for first, size in zip((row, col), pixels.shape, strict=True))
    beyond = ~((rows >= 0) & (rows < grid.height))[:, None] | ~((cols >= 0) & (cols < grid.width))
    for other in others:
        if other.pixels is None or grid.epsg != other.grid.epsg or not _stored_alike(request, other):
            continue
        if (shift := _shift(grid, other.grid)) is None:
            i, j = np.nonzero(beyond)
            found, there = _between(other, *_positions(grid, other.grid, i + row - 1, j + col - 1))
            ringed[i[there], j[there]] = found[there]
            beyond[i[there], j[there]] = False
            continue
        place, part = zip(
            *(
                _overlap(first + moved - (own - 1), size, length)
                for first, moved, own, size, length in zip(
                    reversed(other.origin), shift, (row, col), other.pixels.shape, ringed.shape, strict=True
                )
            ),
            strict=True,
        )
        free = beyond[place]
        ringed[place][free] = other.pixels[part][free]
        beyond[place] = False
    return ringed, (col - 1, row - 1)


def _overlap(start: int, size: int, length: int) -> tuple[slice, slice]:
    """Where ``size`` pixels that begin at ``start`` lie in a row of ``length``, and which of them do."""
    first, last = min(max(start, 0), length), min(max(start + size, 0), length)
    return slice(first, max(first, last)), slice(first - start, max(first, last) - start)


def _stored_alike(one: Request, other: Request) -> bool:
    assert one.pixels is not None and other.pixels is not None
    scaling = (one.asset.scale, one.asset.offset) == (other.asset.scale, other.asset.offset)
    return scaling and one.pixels.dtype == other.pixels.dtype and same_nodata(one.file_nodata, other.file_nodata)


def _shift(grid: FileGrid, other: FileGrid) -> tuple[int, int] | None:
    """Rows and columns from a grid's first pixel to another's; None where their pixels do not fall together."""
    alike = isclose(grid.step_x, other.step_x, rel_tol=1e-9) and isclose(grid.step_y, other.step_y, rel_tol=1e-9)
    if not alike:
        return None
    rows, cols = (other.top - grid.top) / grid.step_y, _east(grid, other) / grid.step_x
    if abs(rows - round(rows)) > 1e-3 or abs(cols - round(cols)) > 1e-3:
        return None
    return round(rows), round(cols)


def _east(grid: FileGrid, other: FileGrid) -> float:
    """From one grid's left edge to another's; the tile beyond the antimeridian is the next one."""
    east = other.left - grid.left
    return east - 360 * round(east / 360) if is_geographic(grid.epsg) else east


def _positions(
    grid: FileGrid, other: FileGrid, rows: NDArray[np.intp], cols: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows and columns of a grid's pixel centres, counted from the centre of another grid's first pixel."""
    down = (rows.astype(np.float64) + 0.5) * grid.step_y - (other.top - grid.top)
    right = (cols.astype(np.float64) + 0.5) * grid.step_x - _east(grid, other)
    return down / other.step_y - 0.5, right / other.step_x - 0.5


def _between(other: Request, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> tuple[NDArray, NDArray[np.bool_]]:
    """Bilinear values at positions in a file, and where there are any: within its edges, between measured pixels."""
    pixels, grid = other.pixels, other.grid
    assert pixels is not None, "a request without pixels has nothing between them"
    known = (rows > -0.5) & (rows < grid.height - 0.5) & (cols > -0.5) & (cols < grid.width - 0.5)
    total, weights = np.zeros(rows.shape), np.zeros(rows.shape)
    for down in (0, 1):
        for right in (0, 1):
            i, j = np.floor(rows).astype(np.intp) + down, np.floor(cols).astype(np.intp) + right
            share = (1 - np.abs(rows - i)) * (1 - np.abs(cols - j))
            used = known & (share > 1e-6) & (i >= 0) & (i < grid.height) & (j >= 0) & (j < grid.width)
            i, j = i - other.origin[1], j - other.origin[0]
            known &= ~used | ((i >= 0) & (i < pixels.shape[0]) & (j >= 0) & (j < pixels.shape[1]))
            used &= known
            value = pixels[np.where(used, i, 0), np.where(used, j, 0)]
            known &= ~used | is_measured(value, other.file_nodata)
            total += np.where(used, share * value, 0.0)
            weights += np.where(used, share, 0.0)
    found = total / np.where(weights > 0, weights, 1.0)
    return (found if pixels.dtype.kind == "f" else np.round(found)).astype(pixels.dtype), known & (weights > 0)
