"""The index of committed tiles, made from their receipts: what is not committed cannot be in it.

GeoParquet and CSV with the columns ``WKT, path, year`` that readers of the public AlphaEarth dataset look for; paths
are relative to the ``embeddings`` folder in which the index lies.
"""

from __future__ import annotations

import io
from typing import Any

import geopandas as gpd
import pandas as pd

from pipelines.products.commit import committed_tiles, repair
from pipelines.products.stac import COLLECTION_PATH, collection, footprint_of
from pipelines.storage import Storage

INDEX_PARQUET = "embeddings/aef_index.parquet"
INDEX_CSV = "embeddings/aef_index.csv"
COLUMNS = (
    "tile_id",
    "path",
    "year",
    "period",
    "start_ms",
    "end_ms",
    "utm_zone",
    "crs",
    "utm_west",
    "utm_south",
    "utm_east",
    "utm_north",
    "valid_pixels",
    "no_observation_pixels",
    "failed_pixels",
    "outside_pixels",
    "inputs",
    "model_id",
    "model_digest",
    "identity",
    "bytes",
    "sha256",
    "seconds",
)


def rebuild_index(storage: Storage) -> gpd.GeoDataFrame:
    """Write the index and the STAC collection from the receipts on storage, and any STAC item that is missing.

    Returns:
        One row per committed tile, sorted by path.
    """
    receipts = committed_tiles(storage)
    for receipt in receipts:
        repair(storage, receipt)
    rows = [_row(receipt) for receipt in receipts]
    geometry = gpd.GeoSeries([footprint_of(receipt) for receipt in receipts], crs="EPSG:4326")
    frame = gpd.GeoDataFrame(pd.DataFrame(rows, columns=list(COLUMNS)), geometry=geometry, crs="EPSG:4326")
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    storage.write_bytes_atomic(INDEX_PARQUET, buffer.getvalue())
    table = pd.DataFrame(frame.drop(columns="geometry"))
    table.insert(0, "WKT", geometry.to_wkt(rounding_precision=8))
    storage.write_bytes_atomic(INDEX_CSV, table.to_csv(index=False, lineterminator="\n").encode())
    storage.write_json(COLLECTION_PATH, collection(receipts))
    return frame


def read_index(storage: Storage) -> gpd.GeoDataFrame:
    """The index as last written.

    Raises:
        ValueError: when there is none.
    """
    if not storage.exists(INDEX_PARQUET):
        raise ValueError(f"{storage.uri(INDEX_PARQUET)} does not exist; run the embed stage first")
    return gpd.read_parquet(io.BytesIO(storage.read_bytes(INDEX_PARQUET)))


def _row(receipt: dict[str, Any]) -> dict[str, Any]:
    west, south, east, north = receipt["bounds_m"]
    period, pixels = receipt["period"], receipt["pixels"]
    return {
        "tile_id": receipt["tile_id"],
        "path": receipt["data"]["path"].removeprefix("embeddings/"),
        "year": int(period["start"][:4]),
        "period": period["label"],
        "start_ms": period["start_ms"],
        "end_ms": period["end_ms"],
        "utm_zone": receipt["zone"],
        "crs": f"EPSG:{receipt['epsg']}",
        "utm_west": west,
        "utm_south": south,
        "utm_east": east,
        "utm_north": north,
        "valid_pixels": pixels["valid"],
        "no_observation_pixels": pixels["no_observations"],
        "failed_pixels": pixels["failed"],
        "outside_pixels": pixels["outside"],
        "inputs": len(receipt["inputs"]),
        "model_id": receipt["model_id"],
        "model_digest": receipt["model_digest"],
        "identity": receipt["identity"],
        "bytes": receipt["data"]["bytes"],
        "sha256": receipt["data"]["sha256"],
        "seconds": receipt["run"]["seconds"],
    }
