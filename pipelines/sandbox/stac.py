"""Items and collections of the static catalog, in the words of the real ones."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from shapely import set_precision
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from pipelines.grid import format_time
from pipelines.sandbox.layers import Grid

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_EXTENSIONS = {
    "proj": "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "eo": "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "sat": "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
    "sar": "https://stac-extensions.github.io/sar/v1.0.0/schema.json",
    "view": "https://stac-extensions.github.io/view/v1.0.0/schema.json",
    "grid": "https://stac-extensions.github.io/grid/v1.1.0/schema.json",
    "mgrs": "https://stac-extensions.github.io/mgrs/v1.0.0/schema.json",
    "s2": "https://stac-extensions.github.io/sentinel-2/v1.0.0/schema.json",
    "landsat": "https://landsat.usgs.gov/stac/landsat-extension/v1.1.1/schema.json",
    "cube": "https://stac-extensions.github.io/datacube/v2.0.0/schema.json",
    "xarray": "https://stac-extensions.github.io/xarray-assets/v1.0.0/schema.json",
    "classification": "https://stac-extensions.github.io/classification/v1.1.0/schema.json",
}


class Archive:
    """Where the catalog and its assets lie.

    Args:
        root: folder of the sandbox.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def item_path(self, collection: str, item_id: str) -> Path:
        return self.root / "catalog" / collection / "items" / f"{item_id}.json"

    def asset_path(self, collection: str, item_id: str, name: str) -> Path:
        return self.root / "assets" / collection / item_id / name

    def has(self, collection: str, item_id: str) -> bool:
        """True once the item is committed, which happens after all its assets are whole."""
        return self.item_path(collection, item_id).exists()


def raster_asset(
    item_id: str, collection: str, name: str, grid: Grid, band: dict, *, title: str, roles: list[str], **extra: object
) -> dict:
    """An asset that is one COG; ``band`` is its entry of ``raster:bands``."""
    return {
        "href": f"../../../assets/{collection}/{item_id}/{name}",
        "type": COG_TYPE,
        "title": title,
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
        "raster:bands": [band],
        "roles": roles,
        **extra,
    }


def write_item(
    archive: Archive,
    collection: str,
    item_id: str,
    footprint: BaseGeometry,
    time_ms: int | None,
    properties: dict,
    assets: dict[str, dict],
    extensions: Iterable[str],
    stac_version: str = "1.0.0",
    span_ms: tuple[int, int] | None = None,
) -> None:
    """Commit an item; ``footprint`` is WGS 84. Items without a moment have ``span_ms``, its end inclusive."""
    shape = set_precision(footprint, 1e-7)
    times: dict[str, object] = {"datetime": None if time_ms is None else format_time(time_ms)}
    if span_ms is not None:
        times |= {"start_datetime": format_time(span_ms[0]), "end_datetime": format_time(span_ms[1])}
    item = {
        "type": "Feature",
        "stac_version": stac_version,
        "stac_extensions": [_EXTENSIONS[name] for name in extensions],
        "id": item_id,
        "geometry": mapping(shape),
        "bbox": [round(v, 7) for v in shape.bounds],
        "properties": {**times, **properties},
        "assets": assets,
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
        ],
        "collection": collection,
    }
    write_text(archive.item_path(collection, item_id), json.dumps(item))


def write_collection(archive: Archive, collection: str, title: str, description: str, license_: str) -> int:
    """The collection of the items that are there; returns how many."""
    folder = archive.root / "catalog" / collection
    paths = sorted((folder / "items").glob("*.json")) if (folder / "items").is_dir() else []
    boxes, times = [], []
    for path in paths:
        item = json.loads(path.read_text(encoding="utf-8"))
        boxes.append(item["bbox"])
        properties = item["properties"]
        times += [properties.get(key) for key in ("datetime", "start_datetime", "end_datetime") if properties.get(key)]
    bbox = [min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)]
    document = {
        "type": "Collection",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": collection,
        "title": title,
        "description": description,
        "license": license_,
        "keywords": ["synthetic"],
        "providers": [{"name": "sandbox Earth", "roles": ["producer", "host"]}],
        "extent": {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [[min(times), max(times)]]}},
        "links": [
            {"rel": "root", "href": "../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
            *({"rel": "item", "href": f"./items/{path.name}", "type": "application/geo+json"} for path in paths),
        ],
    }
    write_text(folder / "collection.json", json.dumps(document, indent=1))
    return len(paths)


def write_catalog(archive: Archive, collections: Iterable[tuple[str, str]]) -> None:
    """The root catalog over (id, title) of its collections."""
    document = {
        "type": "Catalog",
        "stac_version": "1.0.0",
        "id": "sandbox-earth",
        "title": "Sandbox Earth",
        "description": "A synthetic region in real formats. Everything in it is made up; use it to try and test code.",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            *(
                {"rel": "child", "href": f"./{name}/collection.json", "type": "application/json", "title": title}
                for name, title in collections
            ),
        ],
    }
    write_text(archive.root / "catalog" / "catalog.json", json.dumps(document, indent=1))


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
