"""What a plan amounts to: sites, tiles, and how often and how finely each source saw a pixel. Knows no pixels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import cos, radians, sqrt
from typing import Any, NamedTuple

import numpy as np
from shapely import union_all
from shapely.geometry.base import BaseGeometry

from pipelines.config import Config
from pipelines.grid import RESOLUTION_M, WGS84, Site, Tile, Window
from pipelines.scenes import Asset, Scene
from pipelines.sources.base import Kind, Source

METRES_PER_DEGREE = 111_320
# Read as images. What climate, lidar and texts cost to read depends on their files, not on a window.
IMAGES = frozenset({Kind.FRAMES, Kind.STATIC, Kind.CLASSES})


class File(NamedTuple):
    """One file of a frame: pixel size in metres, bytes a pixel, sides in pixels (0: the catalog does not say)."""

    pixel_m: float
    pixel_bytes: int
    rows: int
    columns: int

    def read_px(self, window: Window, block_px: int) -> float:
        """Pixels that are read for a window, in whole blocks.

        A side of C pixels that lies anywhere touches C + B pixels of a file on average, and no more than there are.
        """
        read = 1.0
        for size, side in zip(window.shape, (self.rows, self.columns), strict=True):
            touched = size * window.resolution_m / self.pixel_m + block_px
            read *= min(touched, side) if side else touched
        return read


@dataclass(frozen=True)
class Look:
    """One source over a pixel.

    Attributes:
        frames: that cover a pixel in one period, on average; pieces of one acquisition are one frame.
        files: of a frame.
    """

    frames: float
    files: tuple[File, ...]

    def bytes_of(self, window: Window, block_px: int) -> float:
        """Native bytes that reading a window takes from the archive in a period."""
        return self.frames * sum(file.pixel_bytes * file.read_px(window, block_px) for file in self.files)


@dataclass(frozen=True)
class Survey:
    """A plan in numbers."""

    sites: list[Site]
    tiles: list[Tile]
    looks: dict[str, Look]


class Tally:
    """Adds up the scenes of a plan, cell by cell; none is kept."""

    def __init__(self, config: Config, area: BaseGeometry) -> None:
        self.config, self.area = config, area
        self._covered: defaultdict[str, float] = defaultdict(float)
        self._files: dict[str, tuple[File, ...]] = {}

    def add(self, scenes: Iterable[Scene], cell: BaseGeometry) -> None:
        """Count the scenes of one search cell by the part of the cell that they cover."""
        by_source: defaultdict[str, list[Scene]] = defaultdict(list)
        for scene in scenes:
            by_source[scene.source].append(scene)
        for name, found in by_source.items():
            source = self.config.source(name)
            for pieces in source.acquisitions(found) if source.kind in IMAGES else ():
                self._covered[name] += union_all([piece.footprint for piece in pieces]).intersection(cell).area
                files = tuple(_file(asset, source) for asset in pieces[0].assets.values())
                # The largest stand for all: a clipped file of one place would hide the whole ones of the others.
                self._files[name] = max(self._files.get(name, files), files, key=_pixels)

    def looks(self) -> dict[str, Look]:
        """What was seen, by source; products that hold always count for every period."""
        found = {}
        for name, covered in sorted(self._covered.items()):
            periods = len(self.config.periods) if self.config.source(name).kind is Kind.FRAMES else 1
            found[name] = Look(covered / self.area.area / periods, self._files[name])
        return found


class Distinct:
    """Counts items by kind, once each, though several search cells find them.

    Cells come row by row. The items of two rows are kept and no more, so that memory does not grow with the height of
    the area; an item that two rows find but none of those between (a hole in the area) counts twice.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._row: int | None = None
        self._before: set[tuple[str, str]] = set()
        self._here: set[tuple[str, str]] = set()

    def add(self, items: Iterable[tuple[str, str]], row: int) -> None:
        """Count the items (kind, id) of one cell of a row."""
        if row != self._row:
            self._row, self._before, self._here = row, self._here, set()
        found = set(items)
        self.counts.update(kind for kind, _ in found - self._before - self._here)
        self._here |= found


def _pixels(files: tuple[File, ...]) -> int:
    return sum(file.rows * file.columns for file in files)


def _file(asset: Asset, source: Source) -> File:
    """What a catalog says of a file; where it says no grid, the file is taken to be on the 10 m grid."""
    rows, columns = asset.shape or (0, 0)
    size = np.dtype(asset.dtype or source.dtype).itemsize
    if asset.transform is None:
        return File(float(RESOLUTION_M), size, rows, columns)
    a, _, _, _, e, f = asset.transform
    pixel_m = sqrt(abs(a * e))
    if asset.epsg == WGS84:
        pixel_m *= METRES_PER_DEGREE * sqrt(cos(radians(f)))
    return File(pixel_m, size, rows, columns)


def looks_to_dict(looks: Mapping[str, Look]) -> dict[str, Any]:
    """Plain numbers and lists (JSON)."""
    return {name: {"frames": look.frames, "files": [list(file) for file in look.files]} for name, look in looks.items()}


def looks_from_dict(values: Mapping[str, Any]) -> dict[str, Look]:
    """The inverse of :func:`looks_to_dict`."""
    return {
        name: Look(value["frames"], tuple(File(*file) for file in value["files"])) for name, value in values.items()
    }
