"""The plan on storage, read piece by piece: scenes by search cell, sites, tiles, and what was found in numbers.

``plan/scenes/<identity>/<cell>.parquet`` (one table per search cell: no later step needs the whole list),
``plan/sites.parquet``, ``plan/tiles.parquet`` and ``plan/plan.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from math import ceil, floor
from typing import Any, TypeVar

import geopandas as gpd
from shapely import box
from shapely.geometry.base import BaseGeometry

from pipelines.config import Config, ConfigError
from pipelines.coregister.reach import around
from pipelines.grid import Period, Site, Tile, Window
from pipelines.scenes import Scene, frame_to_scenes
from pipelines.sources import source
from pipelines.sources.base import Kind
from pipelines.stages.earth import area_of
from pipelines.stages.plan_identity import CODE, differences, plan_parts
from pipelines.stages.sites import frame_to_sites
from pipelines.stages.survey import Look, Survey, looks_from_dict
from pipelines.storage import Storage

T = TypeVar("T")
PLAN = "plan/plan.json"
_PLAN_KEYS = frozenset({"identity", "cells", "counts", "looks", "scenes"})
SITES = "plan/sites.parquet"
TILES = "plan/tiles.parquet"
# Found without dates: they hold always, for the nearest year, or carry their dates inside.
TIMELESS = frozenset({Kind.STATIC, Kind.CLASSES, Kind.TEXT})


@dataclass(frozen=True)
class Cell:
    """One bounded window of catalog search, in a row of such."""

    name: str
    area: BaseGeometry
    row: int


def search_cells(area: BaseGeometry, size_deg: float) -> Iterator[Cell]:
    """The area cut into a grid of degrees, so that no query or table grows with the whole."""
    west, south, east, north = area.bounds
    for row in range(floor(south / size_deg), ceil(north / size_deg)):
        for col in range(floor(west / size_deg), ceil(east / size_deg)):
            part = area.intersection(box(col * size_deg, row * size_deg, (col + 1) * size_deg, (row + 1) * size_deg))
            if not part.is_empty and part.area > 0:
                yield Cell(f"{row:+05d}{col:+05d}", part, row)


def changed_parts(plan: dict[str, Any], parts: dict[str, str]) -> list[str]:
    """What the configuration asks for otherwise than the plan on storage was made for."""
    return differences(plan["parts"], parts) if "parts" in plan else [CODE]


def another_plan(config: Config, changed: list[str]) -> ConfigError:
    """What to say of a plan on storage that was made for something else."""
    if changed == [CODE]:
        return ConfigError(
            f"root: the plan under {config.root} was made by another version of the program; run `aef plan`"
        )
    return ConfigError(
        f"root: the plan under {config.root} was made for other {', '.join(changed)}; give another root, or run "
        "`aef plan --refresh` to replace it: shards and tiles that are still right are kept"
    )


def scene_path(identity: str, cell: str) -> str:
    """Apart for every plan, so that a search that is cut off leaves the plan before it whole."""
    return f"plan/scenes/{identity}/{cell}.parquet"


def write_table(storage: Storage, path: str, frame: gpd.GeoDataFrame) -> None:
    """Puts a table of the plan on storage."""
    buffer = BytesIO()
    frame.to_parquet(buffer, index=False, compression="zstd", write_covering_bbox=True)
    storage.write_bytes_atomic(path, buffer.getvalue())


def _read(storage: Storage, path: str, parse: Callable[[gpd.GeoDataFrame], list[T]], **selection: Any) -> list[T]:
    """What a table of the plan holds, all or a selection."""
    damaged = ConfigError(f"root: {storage.uri(path)} is missing or damaged; run `aef plan --refresh`")
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise damaged from error
    try:
        return parse(gpd.read_parquet(BytesIO(content), **selection))
    except (ValueError, OSError, KeyError, AttributeError, TypeError) as error:  # of damaged pages Arrow says OSError
        raise damaged from error


def check_planned(config: Config) -> None:
    """Whether any plan is there.

    Raises:
        ConfigError: when there is none.
    """
    if not Storage(config.root).exists(PLAN):
        raise ConfigError(f"root: no plan under {config.root}; run `aef plan` first")


def tiles_to_frame(tiles: list[Tile]) -> gpd.GeoDataFrame:
    """The tile table."""
    names = ("epsg", "left_m", "top_m", "width_px", "height_px")
    columns = {name: [getattr(tile.window, name) for tile in tiles] for name in names}
    return gpd.GeoDataFrame(
        {"tile_id": [tile.tile_id for tile in tiles], **columns},
        geometry=[tile.window.footprint() for tile in tiles],
        crs="EPSG:4326",
    )


def frame_to_tiles(frame: gpd.GeoDataFrame) -> list[Tile]:
    """The inverse of :func:`tiles_to_frame`."""
    return [
        Tile(
            row.tile_id,
            Window(int(row.epsg), int(row.left_m), int(row.top_m), int(row.width_px), int(row.height_px)),
        )
        for row in frame.itertuples(index=False)
    ]


def read_plan(storage: Storage) -> dict[str, Any]:
    """What was planned, in numbers, and for which configuration.

    Raises:
        ConfigError: naming the file, where it is no plan.
        FileNotFoundError: there is none.
    """
    try:
        plan = json.loads(storage.read_bytes(PLAN))
    except ValueError:
        plan = None
    if not isinstance(plan, dict) or not plan.keys() >= _PLAN_KEYS:
        raise ConfigError(
            f"root: {storage.uri(PLAN)} is damaged; delete it and run `aef plan`: shards and tiles that are still "
            "right are kept"
        )
    return plan


def planned_sites(storage: Storage) -> list[Site]:
    """The sites of the plan on storage, whatever configuration it was made for."""
    return _read(storage, SITES, frame_to_sites)


@dataclass(frozen=True)
class Plan:
    """A plan on storage, read piece by piece."""

    storage: Storage
    identity: str
    cells: tuple[str, ...]
    cell_deg: float

    @classmethod
    def load(cls, config: Config) -> Plan:
        """The plan of a configuration.

        Raises:
            ConfigError: when there is none, or it was made for another configuration.
        """
        check_planned(config)
        storage = Storage(config.root)
        plan = read_plan(storage)
        if changed := changed_parts(plan, plan_parts(config, area_of(config))):
            raise another_plan(config, changed)
        return cls(storage, plan["identity"], tuple(plan["cells"]), config.plan.search_cell_deg)

    def survey(self) -> Survey:
        """The plan in numbers, as :func:`dry_run` gives it."""
        return Survey(self.sites(), self.tiles(), self.looks())

    def looks(self) -> dict[str, Look]:
        """By source, how often and how finely a pixel was seen."""
        return looks_from_dict(read_plan(self.storage)["looks"])

    def sites(self) -> list[Site]:
        return planned_sites(self.storage)

    def tiles(self) -> list[Tile]:
        return _read(self.storage, TILES, frame_to_tiles)

    def scenes(self, window: Window, period: Period) -> dict[str, list[Scene]]:
        """By source, the scenes that may hold data of a window and (where dated by acquisition) of a period."""
        area = around(window)
        found: dict[tuple[str, str, str], Scene] = {}
        for cell in search_cells(area.buffer(0.05), self.cell_deg):
            if cell.name not in self.cells:
                continue
            path = scene_path(self.identity, cell.name)
            for scene in _read(self.storage, path, frame_to_scenes, bbox=area.bounds):
                if scene.footprint.intersects(area):
                    found[scene.source, scene.collection, scene.scene_id] = scene
        by_source: dict[str, list[Scene]] = {}
        for scene in sorted(found.values(), key=_order):
            valid = Period(scene.valid_ms[0], max(scene.valid_ms[1], scene.valid_ms[0] + 1))
            if valid.intersects(period) or source(scene.source).kind in TIMELESS:
                by_source.setdefault(scene.source, []).append(scene)
        return by_source

    def scenes_of(self, name: str) -> list[Scene]:
        """All scenes of one (small) source, once each."""
        found: dict[tuple[str, str], Scene] = {}
        for cell in self.cells:
            path = scene_path(self.identity, cell)
            for scene in _read(self.storage, path, frame_to_scenes, filters=[("source", "==", name)]):
                found[scene.scene_id, scene.collection] = scene
        return [found[key] for key in sorted(found)]


def _order(scene: Scene) -> tuple[str, int, str, str]:
    return scene.source, scene.time_ms, scene.scene_id, scene.collection
