"""What the drawing of sites goes by besides chance: strata of polygons, land, and the texts that a site would hold.

The design is that of SPEC section 4: cells that hold texts first, so many sites from every stratum, no open water.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from shapely import STRtree
from shapely.geometry.base import BaseGeometry

from pipelines.catalogs import Catalog
from pipelines.config import ConfigError, StratumConfig
from pipelines.coregister.fetch import PERMANENT, Failure
from pipelines.coregister.texts import texts_within
from pipelines.grid import RESOLUTION_M, WGS84, Period, Window, transformer
from pipelines.polygons import read_polygons
from pipelines.scenes import Scene
from pipelines.sources import source
from pipelines.sources.base import Kind
from pipelines.stages.session import log

OUTSIDE, FULL, WATER = (
    "outside every stratum of plan.strata",
    "all strata of plan.strata that it lies in are full",
    "open water (plan.land)",
)


class Strata:
    """Which strata every candidate lies in, and how many sites each of them still wants."""

    def __init__(
        self,
        settings: Sequence[StratumConfig],
        lonlat: NDArray[np.float64],
        bounds: tuple[float, float, float, float],
    ) -> None:
        """``lonlat (n, 2)``: the candidates' centres.

        Raises:
            ConfigError: a file without the named column, or as :func:`read_polygons`.
        """
        self.left: dict[str, int] = {}
        self._of: list[tuple[str, ...]] = [()] * len(lonlat)
        self._any = bool(settings)
        points = gpd.GeoDataFrame(geometry=gpd.points_from_xy(*lonlat.T), crs=WGS84) if settings else None
        for index, part in enumerate(settings):
            names = self._names(part, f"plan.strata.{index}", bounds)
            joined = gpd.sjoin(points, names, predicate="intersects")
            # Where polygons of one file overlap, the name decides, not their order in the file.
            for candidate, name in joined.groupby(level=0)["stratum"].min().items():
                self._of[candidate] = (*self._of[candidate], name)

    def _names(self, part: StratumConfig, key: str, bounds: tuple[float, float, float, float]) -> gpd.GeoDataFrame:
        table = read_polygons(part.path, f"{key}.path", bounds)
        stem = Path(part.path).stem
        if part.column is None:
            table["stratum"] = stem
            self.left[stem] = part.sites
        else:
            if part.column not in table.columns:
                known = ", ".join(str(name) for name in table.columns if name != table.geometry.name)
                raise ConfigError(f"{key}.column: {part.path} has no column {part.column!r}; it has {known}")
            table = table[table[part.column].notna()]
            values = [_plain(value) for value in table[part.column]]
            table["stratum"] = [f"{stem}:{value}" for value in values]
            self.left |= {f"{stem}:{value}": part.limits.get(value, part.sites) for value in values}
        return table[["stratum", table.geometry.name]]

    def refusal(self, candidate: int) -> str | None:
        """Why a candidate is not wanted; None where it is."""
        if not self._any:
            return None
        if not self._of[candidate]:
            return OUTSIDE
        return None if any(self.left[name] > 0 for name in self._of[candidate]) else FULL

    def take(self, candidate: int) -> str:
        """Book a site; the strata that it lies in, joined by ``;``."""
        for name in self._of[candidate]:
            self.left[name] -= 1
        return ";".join(self._of[candidate])


def _plain(value: object) -> str:
    """A value as a person writes it: numbers that a file holds as floats without their ``.0``."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def on_land(windows: Sequence[Window], path: str, bounds: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """``(n,)`` whether a window touches any polygon of a file of land.

    Raises:
        ConfigError: as :func:`read_polygons`.
    """
    tree = STRtree(read_polygons(path, "plan.land", bounds).geometry.to_numpy())
    touching, _ = tree.query([window.footprint() for window in windows], predicate="intersects")
    found = np.zeros(len(windows), bool)
    found[touching] = True
    return found


@dataclass(frozen=True)
class TextPoints:
    """Where and when texts hold: ``lonlat (n, 2)`` degrees, ``valid_ms (n, 2)`` half-open."""

    lonlat: NDArray[np.float64]
    valid_ms: NDArray[np.int64]

    @classmethod
    def none(cls) -> TextPoints:
        return cls(np.empty((0, 2)), np.empty((0, 2), np.int64))

    @classmethod
    def read(cls, scenes: Sequence[Scene], catalogs: dict[str, Catalog], area: BaseGeometry) -> TextPoints:
        """The points of an area from all files of texts among some scenes; of one missing or broken, a warning.

        Raises:
            ConfigError: a file cannot be read now, but perhaps later: other sites would be drawn then.
        """
        lonlat, valid = [np.empty((0, 2))], [np.empty((0, 2), np.int64)]
        for scene in scenes:
            if source(scene.source).kind is not Kind.TEXT:
                continue
            for asset in scene.assets.values():
                table = texts_within(asset.href, [area], catalogs[scene.catalog].signer, ("start_ms", "end_ms"))
                if isinstance(table, Failure) and table.kind in PERMANENT:
                    log.warning("texts of %s are left out (%s: %s)", scene.scene_id, table.kind, table.reason)
                    continue
                if isinstance(table, Failure):
                    raise ConfigError(
                        f"sources.{scene.source}: {scene.scene_id} cannot be read ({table.kind}: {table.reason}); "
                        "mend it, or draw sites without regard to texts (plan.texts_first: false)"
                    )
                points = table.geometry.representative_point()
                lonlat.append(np.stack([points.x, points.y], axis=1))
                valid.append(table[["start_ms", "end_ms"]].to_numpy(np.int64))
        return cls(np.concatenate(lonlat), np.concatenate(valid))

    def joined(self, other: TextPoints) -> TextPoints:
        """Both, each point once."""
        lonlat = np.concatenate([self.lonlat, other.lonlat])
        valid = np.concatenate([self.valid_ms, other.valid_ms])
        _, first = np.unique(np.concatenate([lonlat, valid], axis=1), axis=0, return_index=True)
        return TextPoints(lonlat[first], valid[first])

    def counts(self, windows: Sequence[Window], periods: Sequence[Period]) -> NDArray[np.int64]:
        """``(windows, periods)``: texts whose point lies in a window and whose validity meets a period.

        Windows of one zone and size whose corners are a whole number of sides apart are cells of one grid, so that a
        point finds its cell by division however many windows there are.
        """
        found = np.zeros((len(windows), len(periods)), np.int64)
        if not len(self.lonlat):
            return found
        starts, ends = np.array([(period.start_ms, period.end_ms) for period in periods]).T
        meets = (self.valid_ms[:, :1] < ends) & (starts < self.valid_ms[:, 1:])
        grids: dict[tuple[int, ...], dict[tuple[int, int], list[int]]] = {}
        for index, window in enumerate(windows):
            width, height = window.width_px * RESOLUTION_M, window.height_px * RESOLUTION_M
            col, left = divmod(window.left_m, width)
            row, top = divmod(window.top_m, height)
            cells = grids.setdefault((window.epsg, width, height, left, top), {})
            cells.setdefault((row, col), []).append(index)
        for (epsg, width, height, left, top), cells in grids.items():
            x, y = transformer(WGS84, epsg).transform(*self.lonlat.T)
            with np.errstate(invalid="ignore"):
                cols, rows = np.floor((x - left) / width), -np.floor((top - y) / height)
            for point in np.flatnonzero(np.isfinite(x) & np.isfinite(y)):
                for index in cells.get((int(rows[point]), int(cols[point])), ()):
                    found[index] += meets[point]
        return found


def choose_periods(periods: Sequence[Period], texts: NDArray[np.int64], count: int, seed: int) -> tuple[str, ...]:
    """Labels of at most so many periods that do not overlap: those with most texts first, by lot among equals.

    Args:
        periods: to choose from.
        texts: ``(periods,)`` texts of each.
        count: how many.
        seed: of the lot.
    """
    lot = np.random.default_rng(seed).permutation(len(periods))
    chosen: list[Period] = []
    for index in sorted(lot, key=lambda index: -texts[index]):
        if len(chosen) < count and not any(periods[index].intersects(other) for other in chosen):
            chosen.append(periods[index])
    return tuple(period.label for period in sorted(chosen, key=lambda period: period.start_ms))
