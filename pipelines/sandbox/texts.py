"""Geolocated texts: articles about places and records of species, worded by what is there.

Phrases are drawn from small sets for each subject, so the wording carries signal without always naming the class.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from shapely import points

from pipelines.grid import WGS84
from pipelines.sandbox.layers import plane_to_wgs84, region
from pipelines.sandbox.legend import CLASSES, FIRST_CROP
from pipelines.sandbox.noise import generator
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.phrases import CLOSING, HISTORY, NAMES, OPENING, RELIEF, SCENES, SPECIES, TASKS
from pipelines.sandbox.stac import Archive, write_item
from pipelines.sandbox.weather import DAY_MS
from pipelines.sandbox.world import World, world_of

COLLECTION = "texts"
_MIN_WORDS = 100


def texts(world: World) -> gpd.GeoDataFrame:
    """All texts: geometry, text, kind, start_ms, end_ms, uncertainty_m."""
    p = world.parameters
    start = int(datetime(p.years[0], 1, 1, tzinfo=UTC).timestamp() * 1000)
    end = int(datetime(p.years[-1] + 1, 1, 1, tzinfo=UTC).timestamp() * 1000)
    rng = generator(p.seed, "texts")
    count = p.text_articles + p.text_records
    x, y = rng.uniform(-0.49, 0.49, (2, count)) * np.array([[p.width_m], [p.height_m]])
    rows = []
    for k in range(count):
        if k < p.text_articles:
            text = _article(world, x[k], y[k], rng)
            rows.append((text, "article", start, end, float(rng.choice([30, 100, 250, 500]))))
        else:
            time = int(rng.integers(start, end - DAY_MS)) // DAY_MS * DAY_MS
            text = _record(world, x[k], y[k], time, rng)
            rows.append((text, "occurrence", time, time + DAY_MS, float(rng.choice([5, 10, 30, 100, 240]))))
    table = pd.DataFrame(rows, columns=["text", "kind", "start_ms", "end_ms", "uncertainty_m"])
    # A text's coordinates are as good as its uncertainty says; the words describe the true place.
    sigma = table.uncertainty_m.to_numpy() / 2.5
    shift = rng.normal(0, 1, (2, count)) * sigma
    lon, lat = world.from_plane(x + shift[0], y + shift[1], WGS84)
    return gpd.GeoDataFrame(table, geometry=points(lon, lat), crs="EPSG:4326")


def _class_near(world: World, x: float, y: float, year: int) -> str:
    return CLASSES[int(world.class_at(np.array([x]), np.array([y]), year)[0])]


def _around(world: World, x: float, y: float, year: int, rng: np.random.Generator) -> list[str]:
    angle = rng.uniform(0, 2 * np.pi, 24)
    reach = rng.uniform(60, 600, 24)
    codes = world.class_at(x + reach * np.cos(angle), y + reach * np.sin(angle), year)
    values, counts = np.unique(codes, return_counts=True)
    return [CLASSES[int(k)] for k in values[np.argsort(-counts)]]


def _article(world: World, x: float, y: float, rng: np.random.Generator) -> str:
    p = world.parameters
    year = int(rng.choice(p.years))
    here = _class_near(world, x, y, year)
    near = [name for name in _around(world, x, y, year, rng) if name != here][:3]
    height = float(world.elevation_m(np.array([x]), np.array([y]))[0])
    name = "".join(rng.choice(part) for part in NAMES)
    side = "north" if y > 0 else "south"
    relief = "high" if height > p.base_elevation_m + 0.55 * p.relief_m else "low"
    if 0.25 < (height - p.base_elevation_m) / p.relief_m < 0.55:
        relief = "middle"

    def pick(options: tuple[str, ...]) -> str:
        return str(rng.choice(options)).format(name=name, height=round(height, -1), side=side, year=year)

    sentences = [pick(OPENING), pick(RELIEF[relief]), pick(SCENES[here]), pick(TASKS[_group(here)])]
    sentences += [pick(SCENES[other]) for other in near]
    rng.shuffle(sentences[1:])
    used = set(sentences)
    while sum(len(s.split()) for s in sentences) < _MIN_WORDS + 6:
        extra = pick(HISTORY if rng.random() < 0.6 else CLOSING)
        if extra in used:
            continue
        used.add(extra)
        sentences.append(extra)
    return " ".join(sentences)


def _group(name: str) -> str:
    if CLASSES.index(name) >= FIRST_CROP:
        return "crop"
    return {
        "broadleaf_forest": "forest",
        "conifer_forest": "forest",
        "grassland": "pasture",
        "orchard": "orchard",
        "built_up": "town",
        "water": "wet",
        "wetland": "wet",
    }.get(name, "open")


def _record(world: World, x: float, y: float, time_ms: int, rng: np.random.Generator) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    here = _class_near(world, x, y, moment.year)
    # One record in eight is of something that lives anywhere.
    if rng.random() < 0.125:
        here = str(rng.choice(list(SPECIES)))
    latin, common, habit = SPECIES[here][int(rng.integers(len(SPECIES[here])))]
    form = rng.choice(
        (
            "{common} ({latin}), {habit}. Seen on {date}, {n} found.",
            "Occurrence of {latin} ({common}), recorded {date}. The species is {habit}.",
            "{date}: {n} {common} ({latin}). Typically {habit}.",
        )
    )
    number = int(rng.geometric(0.4))
    return str(form).format(latin=latin, common=common, habit=habit, date=f"{moment:%-d %B %Y}", n=number)


def write(p: WorldParameters, root: Path) -> int:
    """Store the texts; returns 1 where the item is new."""
    archive, world, name = Archive(root), world_of(p), "texts-sandbox"
    if archive.has(COLLECTION, name):
        return 0
    table = texts(world)
    path = archive.asset_path(COLLECTION, name, "texts.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".texts.{os.getpid()}.parquet")
    table.to_parquet(temporary)
    temporary.replace(path)
    asset = {
        "href": f"../../../assets/{COLLECTION}/{name}/texts.parquet",
        "type": "application/vnd.apache.parquet",
        "title": "Articles and occurrence records",
        "roles": ["data"],
    }
    span = (int(table.start_ms.min()), int(table.end_ms.max()) - 1000)
    footprint = plane_to_wgs84(world, region(p))
    write_item(archive, COLLECTION, name, footprint, None, {}, {"data": asset}, (), span_ms=span)
    return 1
