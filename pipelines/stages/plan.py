"""Plan: which scenes exist, where sequences are drawn, which tiles are mapped. Nothing is read but catalogs, and of
texts the places.

Writes ``plan/scenes/<identity>/<cell>.parquet`` (one table per search cell: no later step needs the whole list),
``plan/sites.parquet``, ``plan/tiles.parquet`` and ``plan/plan.json``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from math import ceil, cos, floor, radians
from typing import Any, TypeVar

import geopandas as gpd
from shapely import box
from shapely.geometry.base import BaseGeometry

from pipelines.catalogs import Catalog, open_catalog
from pipelines.config import Area, Config, ConfigError
from pipelines.coregister.reach import around
from pipelines.grid import RESOLUTION_M, Period, Site, Tile, Window, tiles_covering, turned_back
from pipelines.scenes import Scene, frame_to_scenes, scenes_to_frame
from pipelines.sources import source
from pipelines.sources.base import Kind
from pipelines.stages.earth import ground_of
from pipelines.stages.groups import largest_window
from pipelines.stages.memory import memory_lines
from pipelines.stages.plan_identity import CODE, differences, identity_of, plan_parts
from pipelines.stages.session import Progress, StageResult, log
from pipelines.stages.sites import count_sequences, draw_sites, frame_to_sites, sites_to_frame
from pipelines.stages.strata import TextPoints
from pipelines.stages.survey import METRES_PER_DEGREE, Distinct, Look, Survey, Tally, looks_from_dict, looks_to_dict
from pipelines.storage import Storage

T = TypeVar("T")
PLAN = "plan/plan.json"
_PLAN_KEYS = frozenset({"identity", "cells", "counts", "looks", "scenes"})
SITES = "plan/sites.parquet"
TILES = "plan/tiles.parquet"
REFUSED = "reports/plan_refused.json"
"""Items that cannot be used, by reason."""
NAMED = 1000  # of each reason, lest memory grow with the area
# Found without dates: they hold always, for the nearest year, or carry their dates inside.
TIMELESS = frozenset({Kind.STATIC, Kind.CLASSES, Kind.TEXT})


def area_of(config: Config) -> BaseGeometry:
    """The configured area, or that of the synthetic Earth."""
    return ground_of(config)[0] if config.area is None else config.area.geometry()


def test_area_of(config: Config) -> tuple[float, float, float, float] | None:
    """The region held out for testing: the configured one, or that of the synthetic Earth."""
    if config.plan.test_area is not None or config.sandbox is None or config.sandbox.size is None:
        return config.plan.test_area
    return ground_of(config)[1]


def open_catalogs(config: Config) -> dict[str, Catalog]:
    """The configured catalogs by name."""
    return {
        name: open_catalog(name, part.kind, part.url, **part.options)
        for name, part in config.catalogs.items()
        if name in {source.catalog for source in config.sources.values()}
    }


@dataclass(frozen=True)
class Cell:
    """One bounded window of catalog search, in a row of such."""

    name: str
    area: BaseGeometry
    row: int


def with_margin(area: BaseGeometry, config: Config) -> BaseGeometry:
    """The area and the ground beyond its edge that sites and tiles may reach."""
    reach_m = max(config.plan.site_px, config.plan.tile_px) * RESOLUTION_M
    _, south, _, north = area.bounds
    poleward = min(max(abs(south), abs(north)), 84.0)  # where UTM ends
    reach_deg = reach_m / METRES_PER_DEGREE / cos(radians(poleward))
    return turned_back(area.buffer(reach_deg, join_style="mitre"))


def search_cells(area: BaseGeometry, size_deg: float) -> Iterator[Cell]:
    """The area cut into a grid of degrees, so that no query or table grows with the whole."""
    west, south, east, north = area.bounds
    for row in range(floor(south / size_deg), ceil(north / size_deg)):
        for col in range(floor(west / size_deg), ceil(east / size_deg)):
            part = area.intersection(box(col * size_deg, row * size_deg, (col + 1) * size_deg, (row + 1) * size_deg))
            if not part.is_empty and part.area > 0:
                yield Cell(f"{row:+05d}{col:+05d}", part, row)


def _periods_for(config: Config, source_kind: Kind) -> list[Period | None]:
    """Timeless and annual products are searched without dates: the nearest year is used."""
    if source_kind in TIMELESS:
        return [None]
    return list(config.support_periods)


def search_scenes(config: Config, cell: Cell, catalogs: dict[str, Catalog]) -> tuple[list[Scene], set[tuple[str, str]]]:
    """All usable scenes of one cell; of those refused, why and which."""
    found: dict[tuple[str, str, str], Scene] = {}
    refused: set[tuple[str, str]] = set()
    for name, part in config.sources.items():
        wanted = config.source(name)
        for period in _periods_for(config, wanted.kind):
            result = catalogs[part.catalog].search(wanted, part.collections, cell.area, period)
            for scene in result.scenes:
                if wanted.keep(scene):
                    found[name, scene.collection, scene.scene_id] = scene
                else:
                    refused.add((f"{name}: refused by the source (night or unusable scene)", scene.scene_id))
            refused |= {(f"{name}: {reason}", item) for reason, items in result.refused_items.items() for item in items}
    return list(found.values()), refused


def run(config: Config, *, refresh: bool = False) -> StageResult:
    """Search, draw and lay out, and write what was found.

    Raises:
        ConfigError: for an area without scenes, a required source without any, or a root that holds another plan.
    """
    storage = Storage(config.root)
    parts = plan_parts(config, area_of(config))
    result = StageResult("plan", "scenes")
    if not refresh and storage.exists(PLAN):
        plan = read_plan(storage)
        changed = _changed(plan, parts)
        if not changed:
            result.planned = result.skipped = plan["scenes"]
            result.details = plan["counts"]
            print("[plan] already done for this area, periods and sources (aef plan --refresh searches again)")
            return result
        if changed != [CODE]:
            raise _another(config, changed)
        print("[plan] the plan here was made by another version of the program; searching again")
    identity = identity_of(parts)
    survey, names = _survey(config, result, storage, identity)
    for line in memory_lines(config, survey.sites, survey.looks, largest_window(config, survey.sites)):
        print(f"[plan] {line}")
    # The tables below belong to one plan: while they are replaced there is none.
    storage.delete(PLAN)
    _write_frame(storage, SITES, sites_to_frame(survey.sites))
    _write_frame(storage, TILES, tiles_to_frame(survey.tiles))
    storage.write_json(
        PLAN,
        {
            "identity": identity,
            "parts": parts,
            "scenes": result.written,
            "counts": result.details,
            "cells": names,
            "looks": looks_to_dict(survey.looks),
        },
    )
    for path in storage.list("plan/scenes", ".parquet"):
        if not path.startswith(f"plan/scenes/{identity}/"):
            storage.delete(path)
    return result


def _changed(plan: dict[str, Any], parts: dict[str, str]) -> list[str]:
    """What the configuration asks for otherwise than the plan on storage was made for."""
    return differences(plan["parts"], parts) if "parts" in plan else [CODE]


def _another(config: Config, changed: list[str]) -> ConfigError:
    if changed == [CODE]:
        return ConfigError(
            f"root: the plan under {config.root} was made by another version of the program; run `aef plan`"
        )
    return ConfigError(
        f"root: the plan under {config.root} was made for other {', '.join(changed)}; give another root, or run "
        "`aef plan --refresh` to replace it: shards and tiles that are still right are kept"
    )


def dry_run(config: Config) -> Survey:
    """Search, draw and lay out, print what was found, write nothing.

    Raises:
        ConfigError: as :func:`run`.
    """
    return _survey(config, StageResult("plan", "scenes"), None, "")[0]


def _survey(config: Config, result: StageResult, storage: Storage | None, identity: str) -> tuple[Survey, list[str]]:
    """What a plan holds, its counts booked in ``result``; scenes go to storage, if given, under the names returned."""
    area = area_of(config)
    catalogs = open_catalogs(config)
    cells = list(search_cells(with_margin(area, config), config.plan.search_cell_deg))
    progress = Progress("plan", "search cells")
    usable, refused = Distinct(), Distinct()
    tally = Tally(config, area)
    texts = TextPoints.none()
    names = []
    named: dict[str, dict[str, None]] = {}
    for index, cell in enumerate(cells):
        scenes, cell_refused = search_scenes(config, cell, catalogs)
        for reason, item in sorted(cell_refused):
            if len(of_reason := named.setdefault(reason, {})) < NAMED:
                of_reason[item] = None
        usable.add(((scene.source, f"{scene.collection}/{scene.scene_id}") for scene in scenes), cell.row)
        refused.add(cell_refused, cell.row)
        tally.add(scenes, cell.area.intersection(area))
        if config.plan.texts_first or config.plan.periods_per_site is not None:
            texts = texts.joined(TextPoints.read(scenes, catalogs, cell.area))
        if scenes and storage is not None:
            names.append(cell.name)
            _write_frame(storage, _scene_path(identity, cell.name), scenes_to_frame(scenes))
        progress(index + 1, len(cells), f"{usable.counts.total()} scenes")
    if storage is not None:
        storage.write_json(REFUSED, {reason: list(items) for reason, items in sorted(named.items())})
    counts = usable.counts
    _require_scenes(config, counts, refused.counts)
    sites, tiles, refused_sites = lay_out(config, texts)
    result.written, result.skipped = counts.total(), refused.counts.total()
    result.planned = result.written + result.skipped
    result.reasons = dict(refused.counts)
    result.details = {
        "scenes": dict(sorted(counts.items())),
        "sites": dict(Counter(site.split for site in sites)),
        "sequences": count_sequences(sites, config.support_periods),
        "tiles": len(tiles) * len(config.periods),
        "refused_sites": dict(refused_sites),
    }
    survey = Survey(sites, tiles, tally.looks())
    print(f"[plan] scenes: {', '.join(f'{name} {count}' for name, count in result.details['scenes'].items())}")
    _print_layout(config, sites, tiles)
    frames = ", ".join(f"{name} {look.frames:.1f}" for name, look in survey.looks.items())
    print(f"[plan] frames of a pixel and period, on average: {frames}")
    if named and storage is not None:
        print(f"[plan] items that cannot be used: {refused.counts.total()}, named in {storage.uri(REFUSED)}")
    return survey, names


def lay_out(config: Config, texts: TextPoints | None = None) -> tuple[list[Site], list[Tile], Counter[str]]:
    """Sites and tiles of the area, for which no catalog is asked; how many sites were refused for which reason.

    Without texts, sites are drawn as if there were none.

    Raises:
        ConfigError: for an area in which no site fits.
    """
    area = area_of(config)
    settings = config.plan.model_copy(update={"test_area": test_area_of(config)})
    given = config.area or Area(bbox=area.bounds)
    sites, refused = draw_sites(given, settings, area, config.seed, config.support_periods, texts)
    if not sites:
        raise ConfigError(
            f"plan.site_px: no site of {config.plan.site_px} px fits into the area; lower plan.site_px "
            "or widen the area"
        )
    return sites, list(tiles_covering(area, config.plan.tile_px)), refused


def describe_without_catalogs(config: Config) -> None:
    """Print what plan would search, and the sites and tiles.

    Raises:
        ConfigError: as :func:`lay_out`.
    """
    asked = ", ".join(f"{name} ({', '.join(part.collections)})" for name, part in config.sources.items())
    print(f"[plan] would search {asked} in {', '.join(period.label for period in config.support_periods)}")
    sites, tiles, _ = lay_out(config)
    _print_layout(config, sites, tiles)


def _require_scenes(config: Config, counts: Counter[str], refused: Counter[str]) -> None:
    where = f"area {tuple(round(v, 3) for v in area_of(config).bounds)}, periods {[list(p) for p in config.periods]}"
    if not counts:
        urls = ", ".join(sorted({config.catalogs[part.catalog].url for part in config.sources.values()}))
        raise ConfigError(
            f"area: no scene of any source in {where} at {urls}{_told(refused)}; check area, periods and collections"
        )
    for name, part in config.sources.items():
        if not counts[name] and part.required:
            raise ConfigError(
                f"sources.{name}: no scene in collections {list(part.collections)} of catalog {part.catalog} for "
                f"{where}{_told(refused, f'{name}:')}; mend the collections or set sources.{name}.required: false"
            )
        if not counts[name]:
            log.warning("source %s has no scene here and is left out (required: false)", name)


def _told(refused: Counter[str], start: str = "") -> str:
    """What was found and refused, its commonest three reasons (of those that start like this)."""
    reasons = [f"{count} x {reason}" for reason, count in refused.most_common() if reason.startswith(start)]
    return f" (refused: {'; '.join(reasons[:3])})" if reasons else ""


def _print_layout(config: Config, sites: list[Site], tiles: list[Tile]) -> None:
    periods, splits = config.support_periods, dict(Counter(site.split for site in sites))
    px = sum(site.window.width_px * site.window.height_px * count_sequences([site], periods) for site in sites)
    tile_px = sum(tile.window.width_px * tile.window.height_px for tile in tiles) * len(periods)
    print(f"[plan] {len(sites)} sites {splits}, {count_sequences(sites, periods)} sequences, {px / 1e6:.1f} Mpx")
    if config.plan.strata:
        shares = Counter(name for site in sites for name in site.stratum.split(";") if name)
        print(f"[plan] sites by stratum: {', '.join(f'{name} {count}' for name, count in sorted(shares.items()))}")
    print(f"[plan] {len(tiles) * len(periods)} tiles of {config.plan.tile_px} px ({tile_px / 1e4:.0f} km2)")


def _scene_path(identity: str, cell: str) -> str:
    """Apart for every plan, so that a search that is cut off leaves the plan before it whole."""
    return f"plan/scenes/{identity}/{cell}.parquet"


def _write_frame(storage: Storage, path: str, frame: gpd.GeoDataFrame) -> None:
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
        if changed := _changed(plan, plan_parts(config, area_of(config))):
            raise _another(config, changed)
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
            path = _scene_path(self.identity, cell.name)
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
            path = _scene_path(self.identity, cell)
            for scene in _read(self.storage, path, frame_to_scenes, filters=[("source", "==", name)]):
                found[scene.scene_id, scene.collection] = scene
        return [found[key] for key in sorted(found)]


def _order(scene: Scene) -> tuple[str, int, str, str]:
    return scene.source, scene.time_ms, scene.scene_id, scene.collection
