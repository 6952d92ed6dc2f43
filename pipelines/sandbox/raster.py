"""Rasters on disk: cloud-optimised GeoTIFFs, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray


def write_cog(
    path: Path,
    array: NDArray,
    transform: Affine,
    epsg: int,
    nodata: float | None,
    *,
    categorical: bool = False,
    colormap: dict[int, tuple[int, int, int]] | None = None,
) -> None:
    """One band as a COG with overviews; a half-written file never has the final name.

    Args:
        path: of the file; its folder is made.
        array: ``(H, W)``.
        transform: pixel (column, row) to coordinates.
        epsg: of the coordinates.
        nodata: stored value that means "not measured".
        categorical: class codes: overviews by nearest neighbour, not by mean.
        colormap: palette of class codes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tif")
    floating = np.issubdtype(array.dtype, np.floating)
    profile = {
        "driver": "COG",
        "height": array.shape[0],
        "width": array.shape[1],
        "count": 1,
        "dtype": array.dtype,
        "crs": f"EPSG:{epsg}",
        "transform": transform,
        "nodata": nodata,
        "compress": "DEFLATE",
        "level": 1,
        "predictor": "FLOATING_POINT" if floating else ("NO" if categorical else "STANDARD"),
        "blocksize": 512 if max(array.shape) > 256 else 256,
        "overview_resampling": "NEAREST" if categorical else "AVERAGE",
    }
    with rasterio.open(temporary, "w", **profile) as file:
        file.write(array, 1)
        if colormap:
            file.write_colormap(1, colormap)
    temporary.rename(path)


def trim_mantissa(values: NDArray[np.float32], bits: int = 11) -> NDArray[np.float32]:
    """Round to ``bits`` of mantissa, which halves the size of noisy floats and is far below their noise."""
    drop = 23 - bits
    raw = values.view(np.uint32)
    half = np.uint32(1 << (drop - 1))
    return ((raw + half) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)).view(np.float32)
