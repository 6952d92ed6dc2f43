"""Tiles as Zarr v3: one group a UTM zone, one shard a tile, so that no two writers ever share an object.

Arrays span the whole zone and are sparse: where a tile lies in them follows from the tile grid alone, never from what
else is there, so an area can grow without moving anything. Making a group and adding periods changes shared metadata
and belongs to the one process that starts a run; writing tiles is for any number.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, BloscShuffle
from zarr.storage import FsspecStore, LocalStore

from pipelines.grid import RESOLUTION_M, Period, Tile, Window, format_time, zone_name
from pipelines.products.quantise import DIMENSIONS, NODATA, quantisation_facts
from pipelines.products.tile import Status, TileProduct, zarr_path
from pipelines.storage import Storage

CHUNK_PX = 64
"""Side of an inner chunk: one pixel's vector is one read of about 200 KiB."""
# Eastings of UTM stay below 834 km; northings end at 84 N (9,329 km) and, in the south, at the equator (10,000 km).
ZONE_WIDTH_M = 1_000_000
ZONE_HEIGHT_M = {"N": 9_400_000, "S": 10_000_000}

CONVENTIONS = [
    {
        "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
        "name": "geoemb:",
        "schema_url": "https://raw.githubusercontent.com/geo-embeddings/embeddings-zarr-convention/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/geo-embeddings/embeddings-zarr-convention/blob/v1/README.md",
        "description": "Geoembeddings convention for geospatial embedding arrays with model provenance",
    },
    {
        "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "name": "proj:",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
        "description": "Coordinate reference system information for geospatial data",
    },
    {
        "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "name": "spatial:",
        "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
        "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
        "description": "Spatial coordinate information",
    },
]


def zone_window(epsg: int, tile_px: int) -> Window:
    """The window of a zone's whole array: a whole number of tiles from the zone's origin."""
    side_m = tile_px * RESOLUTION_M
    rows, cols = ceil(ZONE_HEIGHT_M[zone_name(epsg)[-1]] / side_m), ceil(ZONE_WIDTH_M / side_m)
    return Window(epsg, 0, rows * side_m, cols * tile_px, rows * tile_px)


def ensure_zone(
    storage: Storage,
    epsg: int,
    tile_px: int,
    periods: Iterable[Period],
    *,
    model_uri: str,
    model_digest: str,
    source_uris: Iterable[str],
) -> None:
    """Make a zone's group if it is not there, and room for periods that it does not have yet.

    Call it from one process, before tiles are written. Interrupted, it is made good by the next call.

    Args:
        storage: root of everything.
        epsg: UTM zone.
        tile_px: side of a tile.
        periods: valid periods that will be written; those already there keep their place.
        model_uri: address of the model's description.
        model_digest: of the model; a group never mixes two.
        source_uris: addresses of the source collections, at least one.

    Raises:
        ValueError: when the group exists with another tile size or model.
    """
    wanted = {period.label: period for period in periods}
    path = zarr_path(zone_name(epsg))
    window = zone_window(epsg, tile_px)
    known: dict[str, list[int]] = {}
    attributes = _group_attributes(storage, path)
    if attributes is not None:
        if (attributes["aef:tile_px"], attributes["aef:model_digest"]) != (tile_px, model_digest):
            raise ValueError(
                f"{storage.uri(path)} holds tiles of {attributes['aef:tile_px']} px of model "
                f"{attributes['aef:model_digest']}, not {tile_px} px of {model_digest}; "
                "choose another root or delete it"
            )
        known = attributes["aef:periods"]
    added = {label: [p.start_ms, p.end_ms] for label, p in sorted(wanted.items()) if label not in known}
    if known and not added:
        return
    # The order of the axis is the order of this mapping, and JSON written with sorted keys would lose it.
    labels = [*sorted(known, key=lambda label: known[label][2]), *added]
    table = {label: [*(known.get(label) or added[label])[:2], place] for place, label in enumerate(labels)}
    store = _store(storage, path)
    with storage.clear_errors(path):
        # Without the group's metadata no tile can have been written: what an interrupted start left is made anew.
        fresh = attributes is None
        _ensure_arrays(store, window, tile_px, [table[label] for label in labels], fresh)
    # The group's own metadata comes last: where it is, all that it promises is.
    attributes = _attributes(window, tile_px, model_uri, model_digest, list(source_uris), table)
    storage.write_json(f"{path}/zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def write_tile(
    storage: Storage, tile: Tile, period: Period, codes: NDArray[np.int8], status: NDArray[np.uint8]
) -> None:
    """Write one tile's shards; embeddings come last, so that where they are the status is.

    Raises:
        ValueError: when the group or the period has not been made.
    """
    path, place, rows, cols = _locate(storage, tile, period)
    store = _store(storage, path)
    with storage.clear_errors(path):
        zarr.open_array(store, path="status", mode="r+")[place, rows, cols] = status
        zarr.open_array(store, path="embeddings", mode="r+")[place, :, rows, cols] = codes


def write_product(storage: Storage, product: TileProduct) -> None:
    """:func:`write_tile` of a product."""
    write_tile(storage, product.tile, product.period, product.embeddings, product.status)


def read_tile(storage: Storage, tile: Tile, period: Period) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """A tile's codes ``(64, H, W)`` and status ``(H, W)`` from the Zarr store."""
    path, place, rows, cols = _locate(storage, tile, period)
    store = _store(storage, path)
    codes = zarr.open_array(store, path="embeddings", mode="r")[place, :, rows, cols]
    return np.asarray(codes), np.asarray(zarr.open_array(store, path="status", mode="r")[place, rows, cols])


def _locate(storage: Storage, tile: Tile, period: Period) -> tuple[str, int, slice, slice]:
    path = zarr_path(zone_name(tile.window.epsg))
    attributes = _group_attributes(storage, path)
    if attributes is None:
        raise ValueError(f"{storage.uri(path)} does not exist; call ensure_zone before tiles are written")
    if period.label not in attributes["aef:periods"]:
        raise ValueError(f"{storage.uri(path)} has no period {period.label}; call ensure_zone with it first")
    tile_px = attributes["aef:tile_px"]
    whole = zone_window(tile.window.epsg, tile_px)
    row, col = whole.pixel(tile.window.left_m, tile.window.top_m)
    if tile.window.shape != (tile_px, tile_px) or row % tile_px or col % tile_px:
        raise ValueError(f"tile {tile.tile_id} is not on the grid of {tile_px} px tiles of {storage.uri(path)}")
    return path, attributes["aef:periods"][period.label][2], slice(row, row + tile_px), slice(col, col + tile_px)


def _group_attributes(storage: Storage, path: str) -> dict[str, Any] | None:
    """Attributes of a finished group; Zarr itself puts an empty one above the first array."""
    try:
        attributes: dict[str, Any] = storage.read_json(f"{path}/zarr.json").get("attributes", {})
    except FileNotFoundError:
        return None
    return attributes if "aef:periods" in attributes else None


def _store(storage: Storage, path: str) -> Store:
    if storage.is_local:
        return LocalStore(storage.uri(path))
    return FsspecStore.from_url(storage.uri(path))


def _ensure_arrays(store: Store, window: Window, tile_px: int, periods: list[list[int]], fresh: bool) -> None:
    count = len(periods)
    chunk = next(size for size in (CHUNK_PX, 32, 16, 8, 4, 2, 1) if tile_px % size == 0)
    flags = {status.name.lower(): int(status) for status in Status}
    layers: tuple[tuple[str, tuple[int, ...], str, int, dict[str, Any]], ...] = (
        ("embeddings", (DIMENSIONS,), "int8", NODATA, {"spatial:dimensions": ["y", "x"]}),
        ("status", (), "uint8", int(Status.OUTSIDE), {"flags": flags}),
    )
    codec = BloscCodec(cname="zstd", clevel=5, shuffle=BloscShuffle.noshuffle)
    height, width = window.shape
    for name, bands, dtype, fill, extra in layers:
        if not fresh:
            zarr.open_array(store, path=name, mode="r+").resize((count, *bands, height, width))
            continue
        zarr.create_array(
            store,
            name=name,
            shape=(count, *bands, height, width),
            shards=(1, *bands, tile_px, tile_px),
            chunks=(1, *bands, chunk, chunk),
            dtype=dtype,
            fill_value=fill,
            compressors=codec,
            dimension_names=["time", *(["band"] if bands else []), "y", "x"],
            attributes=extra,
            overwrite=True,
        )
    x, y = window.centres()
    milliseconds = {"units": "milliseconds since 1970-01-01T00:00:00", "calendar": "proleptic_gregorian"}
    starts = np.array([period[0] for period in periods], np.int64)
    ends = np.array([period[1] for period in periods], np.int64)
    coordinates: tuple[tuple[str, str, NDArray[Any], dict[str, Any]], ...] = (
        ("x", "x", x, {"standard_name": "projection_x_coordinate", "units": "m"}),
        ("y", "y", y, {"standard_name": "projection_y_coordinate", "units": "m"}),
        ("band", "band", np.arange(DIMENSIONS, dtype=np.int64), {}),
        ("time", "time", starts, milliseconds | {"description": "start of the valid period"}),
        ("time_end", "time", ends, milliseconds | {"description": "end of the valid period, exclusive"}),
    )
    for name, dimension, values, facts in coordinates:
        if not fresh and dimension != "time":
            continue
        if not fresh:
            array = zarr.open_array(store, path=name, mode="r+")
            array.resize(values.shape)
        else:
            array = zarr.create_array(
                store,
                name=name,
                shape=values.shape,
                chunks=(min(len(values), 1 << 16) if dimension in "xy" else 1024,),
                dtype=values.dtype,
                dimension_names=[dimension],
                attributes=facts,
                overwrite=True,
            )
        array[:] = values


def _attributes(
    window: Window,
    tile_px: int,
    model_uri: str,
    model_digest: str,
    source_uris: list[str],
    periods: dict[str, list[int]],
) -> dict[str, Any]:
    return {
        "zarr_conventions": CONVENTIONS,
        "geoemb:type": "pixel",
        "geoemb:dimensions": DIMENSIONS,
        "geoemb:model": model_uri,
        "geoemb:source_data": source_uris,
        "geoemb:data_type": "int8",
        "geoemb:gsd": float(RESOLUTION_M),
        "geoemb:spatial_layout": "utm_zones",
        "geoemb:quantization": {"method": "signed_power", "original_dtype": "float32", "quantized_dtype": "int8"},
        "proj:code": f"EPSG:{window.epsg}",
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": list(window.transform)[:6],
        "spatial:transform_type": "affine",
        "spatial:shape": list(window.shape),
        "spatial:bbox": list(window.bounds_m),
        "spatial:registration": "pixel",
        # The convention's own quantisation block can only say linear; this one is complete.
        "aef:dequantisation": quantisation_facts(),
        "aef:model_digest": model_digest,
        "aef:tile_px": tile_px,
        "aef:periods": periods,
        "aef:period_starts": {label: format_time(period[0]) for label, period in periods.items()},
    }
