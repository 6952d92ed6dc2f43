"""Tiny rasters and the scenes that describe them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import box

from pipelines.grid import Window, reproject
from pipelines.scenes import Asset, Scene

EPSG = 32631
LEFT, TOP = 500_000, 5_600_000
DAY = 1_590_000_000_000


BLOCKED = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}


def write_raster(
    path: Path,
    values: NDArray,
    left: float,
    top: float,
    step: float,
    epsg: int = EPSG,
    nodata=0,
    layout: dict[str, Any] = BLOCKED,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff",
        "dtype": values.dtype,
        "count": 1,
        "height": values.shape[0],
        "width": values.shape[1],
        "crs": f"EPSG:{epsg}",
        "transform": Affine(step, 0, left, 0, -step, top),
        "nodata": nodata,
        **layout,
    }
    with rasterio.open(path, "w", **profile) as file:
        file.write(values, 1)
    return path


def asset_of(path: Path, key: str = "data", *, described: bool = True, **fields) -> Asset:
    """The asset of a file, with its grid as a catalog would state it, or without."""
    with rasterio.open(path) as file:
        stated = {
            "epsg": file.crs.to_epsg(),
            "transform": tuple(file.transform)[:6],
            "shape": file.shape,
            "dtype": file.dtypes[0],
            "nodata": file.nodata,
        }
    return Asset(href=str(path), key=key, **{**(stated if described else {}), **fields})


def footprint_of(path: Path):
    with rasterio.open(path) as file:
        return reproject(box(*file.bounds), file.crs.to_epsg(), 4326)


def scene_of(source: str, scene_id: str, files: dict[str, Path], *, time_ms: int = DAY, facts=None, **fields) -> Scene:
    """A scene of one file per band; ``fields`` go to every asset."""
    return Scene(
        source=source,
        scene_id=scene_id,
        catalog="test",
        collection=f"{source}-test",
        time_ms=time_ms,
        valid_ms=(time_ms, time_ms + 1),
        footprint=footprint_of(next(iter(files.values()))),
        assets={band: asset_of(path, band, **fields) for band, path in files.items()},
        facts=facts or {},
    )


def window(col: int = 0, row: int = 0, width: int = 48, height: int = 40) -> Window:
    return Window(EPSG, LEFT + col * 10, TOP - row * 10, width, height)


def noise(shape: tuple[int, int], seed: int, holes: float = 0.0) -> NDArray[np.uint16]:
    """Numbers from 1 to 9999 with some zeros."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 10_000, shape).astype(np.uint16)
    values[rng.random(shape) < holes] = 0
    return values
