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
from pipelines.grid import is_geographic


def with_neighbours(request: Request, others: Iterable[Request]) -> tuple[NDArray, tuple[int, int]]:
    """The pixels of a request with a ring of one pixel around, and the ring's first column and row in the file.

    Beyond the file's edge the ring holds what the first of the others has there that is on the same grid, stored in
    the same way; nodata where none has.
    """
    pixels, (col, row), grid = request.pixels, request.origin, request.grid
    assert pixels is not None, "a request without pixels has no neighbours"
    ringed = np.pad(pixels, 1, constant_values=pixels.dtype.type(request.file_nodata))
    rows, cols = (np.arange(first - 1, first + size + 1) for first, size in zip((row, col), pixels.shape, strict=True))
    beyond = ~((rows >= 0) & (rows < grid.height))[:, None] | ~((cols >= 0) & (cols < grid.width))
    for other in others:
        if other.pixels is None or not _stored_alike(request, other) or (shift := _shift(grid, other.grid)) is None:
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
    if grid.epsg != other.epsg or not alike:
        return None
    east = other.left - grid.left
    if is_geographic(grid.epsg):  # the tile beyond the antimeridian is the next one
        east -= 360 * round(east / 360)
    rows, cols = (other.top - grid.top) / grid.step_y, east / grid.step_x
    if abs(rows - round(rows)) > 1e-3 or abs(cols - round(cols)) > 1e-3:
        return None
    return round(rows), round(cols)
