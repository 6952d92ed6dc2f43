"""The grids on which sensors see the world, and the layers of truth evaluated on them once.

A layer set is a folder of ``.npy`` files so that worker processes map them instead of computing them again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import zoom
from shapely import box, segmentize
from shapely.geometry.base import BaseGeometry
from shapely.ops import transform as transform_geometry

from pipelines.grid import WGS84
from pipelines.sandbox.noise import NoiseField
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.world import World, world_of

ZONES = (32631, 32632)


@dataclass(frozen=True)
class Grid:
    """A north-up raster grid: ``left_m`` and ``top_m`` are edges in metres of ``epsg``."""

    epsg: int
    left_m: float
    top_m: float
    width_px: int
    height_px: int
    resolution_m: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.height_px, self.width_px

    @property
    def transform(self) -> Affine:
        return Affine(self.resolution_m, 0, self.left_m, 0, -self.resolution_m, self.top_m)

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """west, south, east, north."""
        return (
            self.left_m,
            self.top_m - self.height_px * self.resolution_m,
            self.left_m + self.width_px * self.resolution_m,
            self.top_m,
        )

    def at(self, resolution_m: float) -> Grid:
        """The same rectangle at another resolution, which must divide it."""
        factor = self.resolution_m / resolution_m
        width, height = self.width_px * factor, self.height_px * factor
        if width != int(width) or height != int(height):
            raise ValueError(
                f"a grid of {self.shape} px at {self.resolution_m} m does not divide into {resolution_m} m"
            )
        return Grid(self.epsg, self.left_m, self.top_m, int(width), int(height), resolution_m)

    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``(H, W)`` easting and northing of the pixel centres."""
        x = self.left_m + (np.arange(self.width_px) + 0.5) * self.resolution_m
        y = self.top_m - (np.arange(self.height_px) + 0.5) * self.resolution_m
        return np.meshgrid(x, y)

    def plane(self, world: World) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``(H, W)`` plane coordinates of the pixel centres."""
        return world.to_plane(*self.centres(), self.epsg)

    def plane_affine(self, world: World) -> NDArray[np.float64]:
        """``(2, 3)``: plane coordinates from (column, row, 1), right to a metre over 30 km."""
        west, south, east, north = self.bounds_m
        cx, cy = world.to_plane(np.array([west, east, west]), np.array([north, north, south]), self.epsg)
        out = []
        for c in (cx, cy):
            per_column, per_row = (c[1] - c[0]) / self.width_px, (c[2] - c[0]) / self.height_px
            out.append([per_column, per_row, c[0] + 0.5 * (per_column + per_row)])
        return np.array(out)

    def footprint(self) -> BaseGeometry:
        """Outline in the grid's own CRS."""
        return box(*self.bounds_m)


def plane_to_wgs84(world: World, geometry: BaseGeometry) -> BaseGeometry:
    """A geometry of the plane in longitude and latitude, edges kept curved."""
    return transform_geometry(lambda x, y: world.from_plane(x, y, WGS84), segmentize(geometry, 1_500))


def grid_to_plane(world: World, geometry: BaseGeometry, epsg: int) -> BaseGeometry:
    """A geometry of a UTM zone in the plane."""
    return transform_geometry(lambda x, y: world.to_plane(x, y, epsg), segmentize(geometry, 1_500))


def region(p: WorldParameters) -> BaseGeometry:
    """The area of interest in the plane."""
    return box(-p.width_m / 2, -p.height_m / 2, p.width_m / 2, p.height_m / 2)


def _grid_over(world: World, area: BaseGeometry, epsg: int, resolution_m: float, snap_m: float, phase_m: float) -> Grid:
    part = transform_geometry(lambda x, y: world.from_plane(x, y, epsg), segmentize(area, 500))
    west, south, east, north = part.bounds
    left = floor((west - phase_m) / snap_m) * snap_m + phase_m
    top = ceil((north - phase_m) / snap_m) * snap_m + phase_m
    width, height = ceil((east - left) / snap_m), ceil((top - south) / snap_m)
    factor = int(snap_m / resolution_m)
    return Grid(epsg, left, top, width * factor, height * factor, resolution_m)


@lru_cache(maxsize=16)
def sensor_grid(p: WorldParameters, sensor: str, epsg: int) -> Grid:
    """The base grid of a sensor in a zone.

    ``sentinel2`` holds the zone's own half and a strip beyond, on multiples of 60 m so that 10, 20 and 60 m bands share
    edges; ``sentinel1`` and ``landsat`` scenes hold the whole region, Landsat's
    edges at 15 m modulo 30 m as USGS has it.
    """
    world = world_of(p)
    area = region(p)
    if sensor == "sentinel2":
        left, bottom, right, top = area.bounds
        if epsg == ZONES[0]:
            area = box(left, bottom, p.zone_overlap_m, top)
        else:
            area = box(-p.zone_overlap_m, bottom, right, top)
        return _grid_over(world, area, epsg, 10, 60, 0)
    if sensor == "sentinel1":
        return _grid_over(world, area, epsg, 10, 10, 0)
    if sensor == "landsat":
        return _grid_over(world, area, epsg, 30, 30, 15)
    raise ValueError(f"sensor {sensor!r} has no grid; use sentinel2, sentinel1 or landsat")


def layer_grids(p: WorldParameters) -> dict[str, Grid]:
    """Every layer set that rendering needs, by folder name."""
    grids = {}
    for epsg in ZONES:
        for resolution in (10, 20, 60):
            grids[f"sentinel2_{epsg}_{resolution}"] = sensor_grid(p, "sentinel2", epsg).at(resolution)
        grids[f"sentinel1_{epsg}_10"] = sensor_grid(p, "sentinel1", epsg)
        landsat = sensor_grid(p, "landsat", epsg)
        grids[f"landsat_{epsg}_30"] = landsat
        grids[f"landsat_{epsg}_15"] = pan_grid(landsat)
    return grids


def pan_grid(grid: Grid) -> Grid:
    """Landsat's 15 m grid: its pixel *centres* fall on those of the 30 m grid, so its edges lie 7.5 m inside."""
    return Grid(grid.epsg, grid.left_m + 7.5, grid.top_m - 7.5, 2 * grid.width_px - 1, 2 * grid.height_px - 1, 15.0)


@dataclass(frozen=True)
class Layers:
    """Static truth on a grid, each ``(H, W)``.

    Attributes:
        grid: of the arrays.
        parcel: parcel row.
        edge_m: distance to the parcel's edge.
        bright, green: texture inside parcels, unit variance.
        rows: planting rows, -1 to 1.
        slope_x, slope_y: rise per metre eastwards and northwards.
    """

    grid: Grid
    parcel: NDArray[np.int32]
    edge_m: NDArray[np.float32]
    bright: NDArray[np.float32]
    green: NDArray[np.float32]
    rows: NDArray[np.float32]
    slope_x: NDArray[np.float32]
    slope_y: NDArray[np.float32]


_NAMES = ("parcel", "edge_m", "bright", "green", "rows", "slope_x", "slope_y")


def write_layers(p: WorldParameters, name: str, folder: Path) -> None:
    """Evaluate the world on one grid; does nothing where the folder is there already."""
    target = folder / name
    if target.exists():
        return
    layers = evaluate(world_of(p), layer_grids(p)[name])
    temporary = folder / f".{name}.{os.getpid()}"
    temporary.mkdir(parents=True, exist_ok=True)
    for key in _NAMES:
        np.save(temporary / f"{key}.npy", getattr(layers, key))
    temporary.rename(target)


@lru_cache(maxsize=24)
def open_layers(p: WorldParameters, name: str, folder: Path) -> Layers:
    """The layers of :func:`write_layers`, mapped read-only."""
    return Layers(layer_grids(p)[name], *(np.load(folder / name / f"{key}.npy", mmap_mode="r") for key in _NAMES))


def evaluate(world: World, grid: Grid) -> Layers:
    """The layers of a grid."""
    seed = world.parameters.seed
    x, y = grid.plane(world)
    parcel, edge = world.locate(x, y)
    # Texture that a ground point keeps in every grid, plus what is below the pixel and differs by grid.
    bright = 0.75 * NoiseField(seed, "bright", 55, 2, 0.8)(x, y) + 0.65 * NoiseField(seed, "fine", 7, 1)(x, y)
    green = NoiseField(seed, "green", 130, 3, 0.7)(x, y)
    angle = world.parcels.row_angle[parcel]
    rows = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / 34.0)
    slope_x, slope_y = _slopes(world, grid)
    return Layers(
        grid,
        parcel,
        edge.astype(np.float32),
        bright.astype(np.float32),
        green.astype(np.float32),
        rows.astype(np.float32),
        slope_x,
        slope_y,
    )


def _slopes(world: World, grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    # Relief has nothing finer than 35 m that matters here: evaluate it at 60 m or coarser, interpolate.
    step = max(grid.resolution_m, 60.0)
    coarse = Grid(
        grid.epsg,
        grid.left_m,
        grid.top_m,
        ceil(grid.width_px * grid.resolution_m / step),
        ceil(grid.height_px * grid.resolution_m / step),
        step,
    )
    z = world.elevation_m(*coarse.plane(world))
    down, right = (np.asarray(slope) for slope in np.gradient(z, step))
    return upsample(right, step / grid.resolution_m, grid.shape), upsample(-down, step / grid.resolution_m, grid.shape)


def upsample(field: NDArray[np.float32], factor: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear enlargement of edge-aligned rasters to ``shape``."""
    if factor == 1:
        return np.ascontiguousarray(field[: shape[0], : shape[1]], np.float32)
    large = zoom(field.astype(np.float32), factor, order=1, mode="nearest", grid_mode=True)
    return np.ascontiguousarray(large[: shape[0], : shape[1]])
