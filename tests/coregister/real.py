"""Scenes of the real fixtures straight from their item files, without any catalog code."""

from __future__ import annotations

import json
import os
from pathlib import Path

from shapely.geometry import shape

from pipelines.grid import parse_time_ms
from pipelines.scenes import Asset, Scene

ROOT = Path(os.environ.get("AEF_REAL_DATA", "/nonexistent")) / "real"
SOURCE_OF = {
    "sentinel-2-l2a": "sentinel2",
    "sentinel-1-rtc": "sentinel1",
    "landsat-c2-l2": "landsat",
    "cop-dem-glo-30": "elevation",
    "agera5-daily": "era5",
    "GEDI02_A_002": "gedi",
}


def scenes(collection: str, patch: str | None = None) -> list[Scene]:
    found = []
    for path in sorted((ROOT / "stac" / collection / "items").glob("*.json")):
        item = json.loads(path.read_text())
        facts = item["properties"]
        if patch is not None and facts.get("fixture:patch") != patch:
            continue
        start = parse_time_ms(facts["datetime"] or facts["start_datetime"])
        end = parse_time_ms(facts["end_datetime"]) if facts["datetime"] is None else start + 1
        found.append(
            Scene(
                source=SOURCE_OF[collection],
                scene_id=item["id"],
                catalog="real",
                collection=collection,
                time_ms=start,
                valid_ms=(start, end),
                footprint=shape(item["geometry"]),
                assets={_band(collection, key): _asset(path, key, a, facts) for key, a in item["assets"].items()},
                facts={name: value for name, value in facts.items() if not isinstance(value, dict | list)},
            )
        )
    return found


def _band(collection: str, key: str) -> str:
    return "elevation" if collection == "cop-dem-glo-30" else key


def _asset(item: Path, key: str, fields: dict, facts: dict) -> Asset:
    raster = (fields.get("raster:bands") or [{}])[0]
    transform = fields.get("proj:transform", facts.get("proj:transform"))
    size = fields.get("proj:shape", facts.get("proj:shape"))
    return Asset(
        href=str((item.parent / fields["href"]).resolve()),
        key=key,
        dtype=raster.get("data_type"),
        nodata=raster.get("nodata"),
        scale=raster.get("scale", 1.0),
        offset=raster.get("offset", 0.0),
        epsg=facts.get("proj:epsg"),
        transform=tuple(transform) if transform else None,
        shape=tuple(size) if size else None,
        extra={"open_kwargs": fields.get("xarray:open_kwargs", {})},
    )
