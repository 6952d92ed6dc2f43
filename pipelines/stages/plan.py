"""Plan: which scenes exist, where sequences are drawn, which tiles are mapped. Nothing is read but catalogs, and of
texts the places.

Writes what :mod:`pipelines.stages.planned` reads.
"""

from __future__ import annotations

from collections import Counter
from math import cos, radians

from shapely.geometry.base import BaseGeometry

from pipelines.catalogs import Catalog, open_catalog
from pipelines.config import Area, Config, ConfigError
from pipelines.grid import RESOLUTION_M, Period, Site, Tile, tiles_covering, turned_back
from pipelines.scenes import Scene, scenes_to_frame
from pipelines.sources.base import Kind
from pipelines.stages.earth import area_of, test_area_of
from pipelines.stages.groups import largest_window
from pipelines.stages.memory import memory_lines
from pipelines.stages.plan_identity import CODE, identity_of, plan_parts
from pipelines.stages.planned import (
    PLAN,
    SITES,
    TILES,
    TIMELESS,
    Cell,
    another_plan,
    changed_parts,
    read_plan,
    scene_path,
    search_cells,
    tiles_to_frame,
    write_table,
)
from pipelines.stages.session import Progress, StageResult, log
from pipelines.stages.sites import count_sequences, draw_sites, sites_to_frame
from pipelines.stages.strata import TextPoints
from pipelines.stages.survey import METRES_PER_DEGREE, Distinct, Survey, Tally, looks_to_dict
from pipelines.storage import Storage

REFUSED = "reports/plan_refused.json"
"""Items that cannot be used, by reason."""
NAMED = 1000  # of each reason, lest memory grow with the area


def open_catalogs(config: Config) -> dict[str, Catalog]:
    """The configured catalogs by name."""
    return {
        name: open_catalog(name, part.kind, part.url, **part.options)
        for name, part in config.catalogs.items()
        if name in {source.catalog for source in config.sources.values()}
    }


def with_margin(area: BaseGeometry, config: Config) -> BaseGeometry:
    """The area and the ground beyond its edge that sites and tiles may reach."""
    reach_m = max(config.plan.site_px, config.plan.tile_px) * RESOLUTION_M
    _, south, _, north = area.bounds
    poleward = min(max(abs(south), abs(north)), 84.0)  # where UTM ends
    reach_deg = reach_m / METRES_PER_DEGREE / cos(radians(poleward))
    return turned_back(area.buffer(reach_deg, join_style="mitre"))


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
        changed = changed_parts(plan, parts)
        if not changed:
            result.planned = result.skipped = plan["scenes"]
            result.details = plan["counts"]
            print("[plan] already done for this area, periods and sources (aef plan --refresh searches again)")
            return result
        if changed != [CODE]:
            raise another_plan(config, changed)
        print("[plan] the plan here was made by another version of the program; searching again")
    identity = identity_of(parts)
    survey, names = _survey(config, result, storage, identity)
    for line in memory_lines(config, survey.sites, survey.looks, largest_window(config, survey.sites)):
        print(f"[plan] {line}")
    # The tables below belong to one plan: while they are replaced there is none.
    storage.delete(PLAN)
    write_table(storage, SITES, sites_to_frame(survey.sites))
    write_table(storage, TILES, tiles_to_frame(survey.tiles))
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
            write_table(storage, scene_path(identity, cell.name), scenes_to_frame(scenes))
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
