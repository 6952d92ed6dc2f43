"""A small static STAC catalog, written by the tests that search or serve it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from shapely.geometry import box, mapping

MONTHS = ("2020-01-15T10:30:00Z", "2020-02-15T10:30:00Z", "2020-02-20T10:30:00.500Z", "2020-06-01T10:30:00Z")
PIXELS = np.arange(1, 257, dtype="uint16").reshape(16, 16)


def write(root: Path) -> Path:
    """Writes ``root/stac`` and ``root/assets``; returns the catalog folder. Scene i lies at 10 + i degrees east."""
    optical = [_optical(root, i, moment) for i, moment in enumerate(MONTHS)]
    nowhere = {**optical[0], "id": "nowhere", "geometry": None, "bbox": None}
    empty = {**optical[1], "id": "empty", "assets": {"thumbnail": {"href": "https://example.com/x.png"}}}
    store = root / "assets" / "weather" / "a.zarr"
    (store / "t").mkdir(parents=True)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / "t" / "0").write_bytes(b"chunk")
    (root / "assets" / "optical" / "secret.txt").write_text("not an asset")
    (root / "secret.txt").write_text("outside")
    weather = _item("weather-2020", "weather", box(9, 49, 20, 51), {"datetime": None})
    weather["properties"] |= {"start_datetime": "2020-01-01T00:00:00Z", "end_datetime": "2020-12-31T23:59:59Z"}
    weather["assets"] = {
        "zarr": {
            "href": "../../../assets/weather/a.zarr",
            "type": "application/vnd+zarr",
            "xarray:open_kwargs": {"consolidated": False},
        }
    }
    catalog = root / "stac"
    _collection(catalog, "optical", [*optical, nowhere, empty])
    _collection(catalog, "weather", [weather])
    links = [{"rel": "child", "href": f"./{name}/collection.json"} for name in ("optical", "weather")]
    _write(catalog / "catalog.json", {"type": "Catalog", "stac_version": "1.0.0", "id": "small", "links": links})
    return catalog


def _optical(root: Path, index: int, moment: str) -> dict:
    name = f"scene-{index}"
    path = root / "assets" / "optical" / name / "B02.tif"
    path.parent.mkdir(parents=True)
    transform = rasterio.Affine(10, 0, 600000, 0, -10, 5600000)
    with rasterio.open(
        path, "w", driver="GTiff", width=16, height=16, count=1, dtype="uint16", crs="EPSG:32632", transform=transform
    ) as file:
        file.write(PIXELS + index, 1)
    item = _item(name, "optical", box(10 + index, 50, 10.5 + index, 50.5), {"datetime": moment})
    item["properties"] |= {"eo:cloud_cover": 20 * index, "proj:epsg": 32632, "s2:processing_baseline": "02.14"}
    item["assets"] = {
        "blue": {
            "href": f"../../../assets/optical/{name}/B02.tif",
            "raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 0.0001, "offset": 0}],
            "proj:shape": [16, 16],
            "proj:transform": [10, 0, 600000, 0, -10, 5600000],
        }
    }
    return item


def _item(name: str, collection: str, area, properties: dict) -> dict:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": collection,
        "geometry": mapping(area),
        "bbox": list(area.bounds),
        "properties": properties,
        "links": [{"rel": "collection", "href": "../collection.json"}],
        "assets": {},
    }


def _collection(catalog: Path, name: str, items: list[dict]) -> None:
    for item in items:
        _write(catalog / name / "items" / f"{item['id']}.json", item)
    links = [{"rel": "item", "href": f"./items/{item['id']}.json"} for item in items]
    extent = {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}
    document = {"type": "Collection", "stac_version": "1.0.0", "id": name, "description": name, "license": "CC0-1.0"}
    _write(catalog / name / "collection.json", {**document, "extent": extent, "links": links})


def _write(path: Path, document: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
