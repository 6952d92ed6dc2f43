"""Drawing training sites: squares of the UTM grid within the area, spaced apart, split into train and test by place."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from shapely import STRtree, box, union_all
from shapely.geometry.base import BaseGeometry
from shapely.prepared import prep

from pipelines.config import Area, PlanConfig
from pipelines.grid import RESOLUTION_M, WGS84, Period, Site, Window, area_in_zone, transformer, turned_back, zones_of
from pipelines.stages.strata import WATER, Strata, TextPoints, choose_periods, on_land

EARTH_RADIUS_M = 6_371_000.0
MODEL_STRIDE_PX = 16
METRES_A_DEGREE = 111_000
# Neighbours on the grid are its step apart in projected metres: up to 0.1 % less on the ground, and more on the mean
# sphere.
SPACING_TOLERANCE = 0.99


def draw_sites(
    area: Area,
    plan: PlanConfig,
    geometry: BaseGeometry,
    seed: int,
    periods: Sequence[Period] = (),
    texts: TextPoints | None = None,
) -> tuple[list[Site], Counter[str]]:
    """Sites in a reproducible random order, at most ``plan.sites`` of them, sorted by id.

    Args:
        area: says whether explicit windows were given; each is then a site of its own, or is cut into sites.
        plan: size, spacing, strata and test area.
        geometry: the area in WGS 84.
        seed: of the draw.
        periods: support periods; a site of the test split has a sequence of each, one of the training split of
            ``plan.periods_per_site`` of them.
        texts: what ``plan.texts_first`` and the choice of periods go by.

    Returns:
        The sites, and how many candidates were refused for which reason.

    Raises:
        ConfigError: for files of polygons that cannot be used.
    """
    refused: Counter[str] = Counter()
    test_area = box(*plan.test_area) if plan.test_area else None
    if area.windows:
        candidates = [(window, part.test) for part in area.windows for window in _cut(part.window, plan.site_px)]
    else:
        sides = [_grid_windows(geometry, plan.site_px)]
        if test_area is not None:
            # Each side has a grid of its own: one grid over both would lose a column of sites at the edge.
            sides = [_grid_windows(geometry - test_area, plan.site_px), _held_out_windows(geometry, test_area, plan)]
        candidates = [(window, False) for side in sides for window in side]
    if not candidates:
        return [], refused
    order = np.random.default_rng(seed).permutation(len(candidates))
    candidates = [candidates[index] for index in order]
    counts = (texts or TextPoints.none()).counts([window for window, _ in candidates], periods)
    if plan.texts_first:
        first = np.argsort(counts.sum(axis=1) == 0, kind="stable")
        candidates, counts = [candidates[index] for index in first], counts[first]
    windows = [window for window, _ in candidates]
    centres = _centres(windows)
    strata = Strata(plan.strata, centres, geometry.bounds)
    dry = None if plan.land is None else on_land(windows, plan.land, geometry.bounds)
    tree = cKDTree(_on_sphere(centres))
    near_test = _near_test(candidates, plan.gap_m)
    taken = np.zeros(len(candidates), bool)
    sites: list[Site] = []
    for index, (window, is_test) in enumerate(candidates):
        if len(sites) == plan.sites:
            refused["more than plan.sites"] += len(candidates) - index
            break
        if dry is not None and not dry[index]:
            refused[WATER] += 1
            continue
        if (reason := strata.refusal(index)) is not None:
            refused[reason] += 1
            continue
        if near_test[index]:
            refused["over a site of a test window or within plan.gap_m of it"] += 1
            continue
        split = "test" if is_test else "train"
        if test_area is not None:
            reach = _widened(window, plan.gap_m)
            if test_area.contains(window.footprint()):
                split = "test"
            elif test_area.intersects(reach):
                refused["straddles the edge of plan.test_area"] += 1
                continue
        near = tree.query_ball_point(_on_sphere(centres[index : index + 1])[0], plan.spacing_m * SPACING_TOLERANCE)
        if plan.spacing_m and any(taken[other] for other in near if other != index):
            refused["closer than plan.spacing_m to another site"] += 1
            continue
        taken[index] = True
        site = Site.at(window, split, strata.take(index))
        if split == "train" and plan.periods_per_site is not None:
            lot = zlib.crc32(f"{seed} {site.site_id}".encode())
            site = replace(site, periods=choose_periods(periods, counts[index], plan.periods_per_site, lot))
        sites.append(site)
    return sorted(sites), refused


def _near_test(candidates: Sequence[tuple[Window, bool]], gap_m: float) -> NDArray[np.bool_]:
    """Which candidates for training lie over one for testing or within a gap of it; of other zones, by outlines."""
    near = np.zeros(len(candidates), bool)
    tests = [window for window, is_test in candidates if is_test]
    if not tests:
        return near
    tree = STRtree([window.footprint() for window in tests])
    for index, (window, is_test) in enumerate(candidates):
        if not is_test:
            found = (tests[other] for other in tree.query(_widened(window, gap_m), predicate="intersects"))
            near[index] = any(other.epsg != window.epsg or _within(window, other, gap_m) for other in found)
    return near


def _widened(window: Window, gap_m: float) -> BaseGeometry:
    """Boxes of longitude and latitude that hold all within a gap of a window, on whatever side of 180 degrees."""
    boxes, gap_deg = [], gap_m / METRES_A_DEGREE
    for part in getattr(footprint := window.footprint(), "geoms", [footprint]):
        west, south, east, north = part.bounds
        stretch = gap_deg / max(np.cos(np.radians(max(abs(south), abs(north)))), 0.1)
        boxes.append(box(west - stretch, south - gap_deg, east + stretch, north + gap_deg))
    return turned_back(union_all(boxes))


def _within(one: Window, other: Window, gap_m: float) -> bool:
    """Whether two windows of a zone overlap or are closer than a gap."""
    west, south, east, north = one.bounds_m
    left, bottom, right, top = other.bounds_m
    apart = np.hypot(max(left - east, west - right, 0), max(bottom - north, south - top, 0))
    return bool(apart < gap_m) or (west < right and left < east and south < top and bottom < north)


def _cut(window: Window, site_px: int) -> list[Window]:
    """An explicit window as sites: whole squares where they fit, else itself, rounded up to the model's stride."""
    rows, cols = window.height_px // site_px, window.width_px // site_px
    if rows and cols:
        side = site_px * RESOLUTION_M
        return [
            Window(window.epsg, window.left_m + col * side, window.top_m - row * side, site_px, site_px)
            for row in range(rows)
            for col in range(cols)
        ]
    width, height = (ceil(size / MODEL_STRIDE_PX) * MODEL_STRIDE_PX for size in (window.width_px, window.height_px))
    return [Window(window.epsg, window.left_m, window.top_m, width, height)]


def _held_out_windows(geometry: BaseGeometry, test_area: BaseGeometry, plan: PlanConfig) -> list[Window]:
    """The grid, of those shifted by eighths of a site, with the most sites wholly inside the test area."""
    grids = [
        [w for w in _grid_windows(geometry & test_area, plan.site_px, eighth / 8) if test_area.contains(w.footprint())]
        for eighth in range(8)
    ]
    return max(grids, key=len)


def _grid_windows(geometry: BaseGeometry, site_px: int, shift: float = 0.0) -> list[Window]:
    """Squares whose centres lie in an area; ``shift`` moves the grid's corner, in shares of a site."""
    side = site_px * RESOLUTION_M
    step_m = round(shift * site_px) * RESOLUTION_M
    windows = []
    for epsg in zones_of(geometry):
        part = area_in_zone(geometry, epsg)
        if part.is_empty:
            continue
        contains = prep(part)
        west, south, east, north = part.bounds
        # Small areas would lose most of their sites to a globally anchored grid, so the grid starts at their corner.
        left0 = ceil(west / RESOLUTION_M) * RESOLUTION_M + step_m
        top0 = floor(north / RESOLUTION_M) * RESOLUTION_M - step_m
        for row in range(floor((top0 - south) / side) + 1):
            for col in range(floor((east - left0) / side) + 1):
                window = Window(epsg, left0 + col * side, top0 - row * side, site_px, site_px)
                # SPEC 1.1: a patch belongs to the zone of its centroid; what it measures beyond an edge is as good.
                if contains.contains(window.polygon().centroid):
                    windows.append(window)
    return windows


def _centres(windows: list[Window]) -> np.ndarray:
    """``(n, 2)`` longitude and latitude."""
    centres = np.empty((len(windows), 2))
    for index, window in enumerate(windows):
        west, south, east, north = window.bounds_m
        centres[index] = transformer(window.epsg, WGS84).transform((west + east) / 2, (south + north) / 2)
    return centres


def _on_sphere(lonlat: np.ndarray) -> np.ndarray:
    lon, lat = np.radians(lonlat).T
    unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    return EARTH_RADIUS_M * unit


def count_sequences(sites: Sequence[Site], periods: Sequence[Period]) -> int:
    """Sequences of all sites: one a site and period that it was drawn in."""
    return sum(site.is_drawn_in(period) for site in sites for period in periods)


def sites_to_frame(sites: list[Site]) -> gpd.GeoDataFrame:
    """The site table."""
    return gpd.GeoDataFrame(
        {
            "site_id": [site.site_id for site in sites],
            "split": [site.split for site in sites],
            "stratum": [site.stratum for site in sites],
            "periods": [list(site.periods) for site in sites],
            **_window_columns([site.window for site in sites]),
        },
        geometry=[site.window.footprint() for site in sites],
        crs="EPSG:4326",
    )


def _window_columns(windows: list[Window]) -> dict[str, list[int]]:
    names = ("epsg", "left_m", "top_m", "width_px", "height_px")
    return {name: [getattr(window, name) for window in windows] for name in names}


def frame_to_sites(frame: gpd.GeoDataFrame) -> list[Site]:
    """The inverse of :func:`sites_to_frame`."""
    return [
        Site(
            row.site_id,
            Window(int(row.epsg), int(row.left_m), int(row.top_m), int(row.width_px), int(row.height_px)),
            row.split,
            row.stratum,
            tuple(row.periods),
        )
        for row in frame.itertuples(index=False)
    ]
