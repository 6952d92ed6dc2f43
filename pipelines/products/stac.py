"""Tiles as STAC: an item a tile made from its receipt alone, their collection, and the model that made them.

Embeddings extension v0.0.1 (``emb:``), machine-learning model extension v1.4 (``mlm:``). Links are relative.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shapely import box
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from pipelines.grid import RESOLUTION_M, format_time, parse_time_ms, zone_wedge
from pipelines.products.quantise import DIMENSIONS, NODATA, POWER, SCALE, quantisation_facts
from pipelines.products.receipt import window_of
from pipelines.products.tile import stac_path, zarr_path
from pipelines.storage import Storage

STAC_VERSION = "1.0.0"
COLLECTION_ID = "aef-embeddings-v1"
COLLECTION_PATH = "embeddings/stac/collection.json"
MODEL_PATH = "embeddings/stac/model.json"
QUANTISATION_PATH = "embeddings/stac/quantisation.json"
EMB = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
PROCESSING = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True)
class ModelDescription:
    """What the model item says.

    Attributes:
        model_id: name and version.
        digest: hash of weights, configuration and normalisation.
        parameters: number of weights.
        sources: input source -> its band names.
        checkpoint_uri: address of the weights.
        created_ms: UTC epoch milliseconds of the checkpoint.
    """

    model_id: str
    digest: str
    parameters: int
    sources: Mapping[str, tuple[str, ...]]
    checkpoint_uri: str
    created_ms: int = 0


def footprint_of(receipt: Mapping[str, Any]) -> BaseGeometry:
    """A tile's outline in WGS 84, cut at the edges of its zone."""
    window = window_of(receipt)
    west, east = zone_wedge(window.epsg)
    return window.footprint().intersection(box(west, -90, east, 90))


def tile_item(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """The STAC item of a committed tile."""
    window, period = window_of(receipt), receipt["period"]
    footprint = footprint_of(receipt)
    footprint = window.footprint() if footprint.is_empty else footprint
    path = stac_path(receipt["tile_id"], period["label"])
    file_transform = list(window.transform)[:6]
    links = [
        {"rel": "collection", "href": _up(path, COLLECTION_PATH), "type": "application/json"},
        {"rel": "parent", "href": _up(path, COLLECTION_PATH), "type": "application/json"},
        {"rel": "root", "href": _up(path, COLLECTION_PATH), "type": "application/json"},
        {"rel": "emb:model", "href": _up(path, MODEL_PATH), "type": "application/geo+json"},
    ]
    for scene in receipt["inputs"]:
        # A scene without a known address is still named, as a URN.
        href = scene["href"] or f"urn:stac:{scene['collection']}:{scene['scene_id']}"
        links.append({"rel": "emb:source-data", "href": href, "title": f"{scene['source']} {scene['scene_id']}"})
    raster = {"proj:shape": receipt["shape"], "proj:transform": file_transform}
    assets = {
        "embeddings": {
            "href": _up(path, receipt["data"]["path"]),
            "type": COG_TYPE,
            "roles": ["data"],
            "title": "64 int8 codes per pixel, bands A00 to A63",
            "data_type": "int8",
            "nodata": NODATA,
            "gsd": RESOLUTION_M,
            "file:size": receipt["data"]["bytes"],
            # Multihash: 12 is SHA-256, 20 its length of 32 bytes.
            "file:checksum": "1220" + receipt["data"]["sha256"],
            **raster,
        },
        "counts": {
            "href": _up(path, receipt["counts_path"]),
            "type": COG_TYPE,
            "roles": ["metadata"],
            "title": "status and number of clear observations per input source",
            **raster,
        },
        "receipt": {
            "href": _up(path, receipt["data"]["path"].removesuffix(".tiff") + ".receipt.json"),
            "type": "application/json",
            "roles": ["metadata"],
            "title": "inputs, parameters, digests and cost",
        },
        "zarr": {
            "href": _up(path, zarr_path(receipt["zone"])),
            "type": "application/vnd.zarr; version=3",
            "roles": ["data"],
            "title": "the same codes in the zone's Zarr store",
        },
    }
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EMB, PROJECTION, FILE, PROCESSING],
        "id": f"{receipt['tile_id']}_{period['label']}",
        "collection": COLLECTION_ID,
        "geometry": mapping(footprint),
        "bbox": list(footprint.bounds),
        "properties": {
            "datetime": None,
            "start_datetime": period["start"],
            "end_datetime": format_time(period["end_ms"] - 1),
            "gsd": RESOLUTION_M,
            "proj:code": f"EPSG:{receipt['epsg']}",
            "emb:quantization": {
                "method": "sqrt_scale",
                "original_dtype": "float32",
                "quantized_dtype": "int8",
                "scale": SCALE,
                "offset": 0,
                "power": POWER,
                "link": _up(path, QUANTISATION_PATH),
            },
            "emb:runtime_parameters": receipt["parameters"],
            "processing:version": receipt["code_digest"],
            "aef:identity": receipt["identity"],
            "aef:model_id": receipt["model_id"],
            "aef:model_digest": receipt["model_digest"],
            "aef:utm_zone": receipt["zone"],
            "aef:pixels": receipt["pixels"],
            "aef:mean_observations": receipt["mean_observations"],
            "aef:inference_duration_s": receipt["run"]["seconds"],
        },
        "links": links,
        "assets": assets,
    }


def write_item(storage: Storage, receipt: Mapping[str, Any]) -> None:
    """Write a tile's STAC item."""
    storage.write_json(stac_path(receipt["tile_id"], receipt["period"]["label"]), tile_item(receipt))


def model_item(model: ModelDescription) -> dict[str, Any]:
    """The model as a STAC item of the machine-learning model extension."""
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [MLM],
        "id": model.model_id,
        "geometry": mapping(box(-180, -90, 180, 90)),
        "bbox": [-180, -90, 180, 90],
        "properties": {
            "datetime": format_time(model.created_ms),
            "mlm:name": model.model_id,
            "mlm:architecture": "Space-Time-Precision",
            "mlm:tasks": ["feature-extraction"],
            "mlm:framework": "pytorch",
            "mlm:total_parameters": model.parameters,
            "mlm:input": [
                {
                    "name": source,
                    "bands": list(bands),
                    "input": {
                        "shape": [-1, -1, len(bands), -1, -1],
                        "dim_order": ["batch", "time", "bands", "height", "width"],
                        "data_type": "float32",
                    },
                }
                for source, bands in sorted(model.sources.items())
            ],
            "mlm:output": [
                {
                    "name": "embedding",
                    "tasks": ["feature-extraction"],
                    "result": {
                        "shape": [-1, -1, -1, DIMENSIONS],
                        "dim_order": ["batch", "height", "width", "bands"],
                        "data_type": "float32",
                    },
                }
            ],
            "aef:model_digest": model.digest,
        },
        "links": [],
        "assets": {
            "weights": {
                "href": model.checkpoint_uri,
                "type": "application/octet-stream; application=pytorch",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "torch.save",
            }
        },
    }


def write_model(storage: Storage, model: ModelDescription) -> None:
    """Write the model item and the quantisation table that items link to.

    Raises:
        ValueError: when tiles of another model are there: vectors of two models cannot be compared.
    """
    if storage.exists(MODEL_PATH):
        there = storage.read_json(MODEL_PATH)["properties"]["aef:model_digest"]
        if there != model.digest:
            raise ValueError(
                f"{storage.uri(MODEL_PATH)} describes model {there}, not {model.digest}; embeddings of two models "
                "cannot be mixed: choose another root or delete its embeddings/ folder"
            )
    storage.write_json(QUANTISATION_PATH, quantisation_facts())
    storage.write_json(MODEL_PATH, model_item(model))


def collection(receipts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The collection of committed tiles, linking to every item."""
    receipts = list(receipts)
    boxes = [shape(mapping(footprint_of(receipt))).bounds for receipt in receipts]
    west, south, east, north = zip(*boxes, strict=True) if boxes else ((-180.0,), (-90.0,), (180.0,), (90.0,))
    starts = [parse_time_ms(receipt["period"]["start"]) for receipt in receipts]
    ends = [receipt["period"]["end_ms"] - 1 for receipt in receipts]
    interval = [format_time(min(starts)), format_time(max(ends))] if receipts else [None, None]
    sources = sorted({(scene["collection"], scene["source"]) for receipt in receipts for scene in receipt["inputs"]})
    links: list[dict[str, str]] = [{"rel": "emb:model", "href": _up(COLLECTION_PATH, MODEL_PATH)}]
    links += [{"rel": "emb:source-data", "href": f"urn:stac:{name}", "title": source} for name, source in sources]
    for receipt in receipts:
        href = _up(COLLECTION_PATH, stac_path(receipt["tile_id"], receipt["period"]["label"]))
        links.append({"rel": "item", "href": href, "type": "application/geo+json"})
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EMB],
        "id": COLLECTION_ID,
        "title": "Satellite embeddings, 64 numbers per 10 m pixel",
        "description": "Unit vectors that summarise what satellites measured at a place over a period, as int8 codes.",
        "license": "other",
        "extent": {
            "spatial": {"bbox": [[min(west), min(south), max(east), max(north)]]},
            "temporal": {"interval": [interval]},
        },
        "emb:type": "pixel",
        "emb:dimensions": DIMENSIONS,
        "data_type": "int8",
        "gsd": RESOLUTION_M,
        "links": links,
    }


def _up(from_path: str, to_path: str) -> str:
    """The relative address of an object as seen from another."""
    here, there = from_path.split("/")[:-1], to_path.split("/")
    shared = 0
    while shared < min(len(here), len(there) - 1) and here[shared] == there[shared]:
        shared += 1
    return (
        "/".join([".."] * (len(here) - shared) + there[shared:])
        if len(here) > shared
        else "./" + "/".join(there[shared:])
    )
