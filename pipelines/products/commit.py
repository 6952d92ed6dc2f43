"""Commit a tile: in an order in which nothing that is visible is ever half there, and with one winner.

Order: embeddings (COG, then Zarr), status and counts, sums, receipt, STAC item. The receipt makes the tile committed;
what comes after it follows from it and is repaired by the next call. The index is made from receipts when a run ends.

Two writers of one tile: the first to create the embeddings wins, and the other adopts them (on an accelerator its own
may differ in the last bit). Before returning, each reads back what lies on storage; should the other have replaced it
meanwhile, it goes round again, so that the last to finish leaves objects that belong together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from pipelines.grid import Period, Tile
from pipelines.products import zarr_store
from pipelines.products.cog import cog_bytes, counts_bytes, read_codes
from pipelines.products.quantise import NODATA, dequantize
from pipelines.products.receipt import Cost, Provenance, make_receipt, read_receipt, window_of
from pipelines.products.stac import write_item
from pipelines.products.statistics import moments, moments_bytes
from pipelines.products.tile import (
    Status,
    TileProduct,
    counts_path,
    data_path,
    moments_path,
    receipt_path,
    stac_path,
)
from pipelines.storage import Storage, Written

ATTEMPTS = 8
READ_THREADS = 16
RECEIPT_SUFFIX = ".receipt.json"
# Companding leaves lengths of 0.991 to 1.009; forgetting to square leaves 2.5.
LENGTH_BOUNDS = (0.97, 1.03)


class CommitConflictError(RuntimeError):
    """Other writers kept replacing a tile's embeddings."""


def commit_tile(
    storage: Storage,
    product: TileProduct,
    provenance: Provenance,
    cost: Cost | None = None,
    *,
    zarr: bool = True,
) -> dict[str, Any]:
    """Put a tile on storage, and return its receipt.

    A tile that is committed already under the same identity is left as it is; one of another identity is replaced.

    Args:
        storage: root of everything.
        product: the tile.
        provenance: what it was made from; gives its identity.
        cost: what it took.
        zarr: also write the Zarr store, whose group :func:`ensure_zone` has made.

    Raises:
        StorageFullError: disk full; the tile is then not committed.
        CommitConflictError: writers of another identity keep replacing the tile.
    """
    tile, label = product.tile, product.period.label
    key = provenance.identity(tile, product.period)
    receipt = read_receipt(storage, tile.tile_id, label)
    if receipt is not None and receipt["identity"] == key:
        repair(storage, receipt)
        return receipt
    if receipt is not None:
        storage.delete(receipt_path(tile.tile_id, label))
    tags = {
        "IDENTITY": key,
        "MODEL_VERSION": provenance.model_id,
        "MODEL_DIGEST": provenance.model_digest,
        "DATASET_VERSION": "v1",
        "PROCESSING_SOFTWARE_VERSION": provenance.code_digest,
    }
    own = cog_bytes(product, tags)
    for _ in range(ATTEMPTS):
        data, codes = _settle(storage, product, own, key)
        settled = replace(product, embeddings=codes)
        if zarr:
            zarr_store.write_product(storage, settled)
        storage.write_bytes_atomic(counts_path(tile.tile_id, label), counts_bytes(settled, tags))
        storage.write_bytes_atomic(moments_path(tile.tile_id, label), moments_bytes(moments(codes)))
        receipt = make_receipt(settled, provenance, cost or Cost(), data)
        storage.write_json(receipt_path(tile.tile_id, label), receipt)
        if _is(storage, data_path(tile.tile_id, label), data):
            write_item(storage, receipt)
            return receipt
        storage.delete(receipt_path(tile.tile_id, label))
    raise CommitConflictError(
        f"tile {tile.tile_id} of {label} under {storage.root}: another run with other settings writes the same tile; "
        "stop one of them, or give it another root"
    )


def is_committed(storage: Storage, tile: Tile, period: Period, identity: str) -> bool:
    """Whether a tile is on storage in the version with this identity."""
    receipt = read_receipt(storage, tile.tile_id, period.label)
    return receipt is not None and receipt["identity"] == identity


def lacks_inputs(storage: Storage, tile: Tile, period: Period) -> bool:
    """Whether a committed tile was made without some scene that could not be read."""
    receipt = read_receipt(storage, tile.tile_id, period.label)
    return receipt is not None and bool(receipt["run"]["failed_inputs"])


def uncommit(storage: Storage, tile: Tile, period: Period) -> None:
    """Take a tile's receipt away: it will be made again."""
    storage.delete(receipt_path(tile.tile_id, period.label))


def committed_tiles(storage: Storage, period_label: str = "") -> list[dict[str, Any]]:
    """The receipts of all committed tiles, or of one period's, sorted by path."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        paths = storage.list(f"embeddings/v1/{period_label}".rstrip("/"), RECEIPT_SUFFIX)
        return list(pool.map(storage.read_json, paths))


def any_committed(storage: Storage) -> bool:
    """Whether any tile is committed, without reading a receipt."""
    return bool(storage.list("embeddings/v1", RECEIPT_SUFFIX))


def repair(storage: Storage, receipt: dict[str, Any]) -> None:
    """Write what a commit that was cut off after its receipt still owed."""
    if not storage.exists(stac_path(receipt["tile_id"], receipt["period"]["label"])):
        write_item(storage, receipt)


def verify_tile(storage: Storage, receipt: dict[str, Any], *, zarr: bool = True) -> list[str]:
    """What is wrong with a committed tile on storage; empty when nothing is.

    Checks checksum, tags, lengths of the vectors, agreement of COG, Zarr store and status.
    """
    return list(_problems(storage, receipt, zarr))


def _problems(storage: Storage, receipt: dict[str, Any], zarr: bool) -> Iterator[str]:
    path = receipt["data"]["path"]
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        yield f"{path}: missing"
        return
    if hashlib.sha256(data).hexdigest() != receipt["data"]["sha256"]:
        yield f"{path}: checksum differs from the receipt's"
    try:
        codes, tags = read_codes(data)
    except OSError as error:
        yield f"{path}: cannot be decoded ({' '.join(str(error).split())})"
        return
    if tags.get("IDENTITY") != receipt["identity"]:
        yield f"{path}: is of identity {tags.get('IDENTITY')}, the receipt of {receipt['identity']}"
    valid = codes[0] != NODATA
    if int(valid.sum()) != receipt["pixels"][Status.VALID.name.lower()]:
        yield f"{path}: number of valid pixels differs from the receipt's"
    lengths = np.linalg.norm(dequantize(codes[:, valid], axis=0), axis=0)
    if lengths.size and not (lengths.min() > LENGTH_BOUNDS[0] and lengths.max() < LENGTH_BOUNDS[1]):
        yield f"{path}: vectors of length {lengths.min():.3f} to {lengths.max():.3f}, not 1"
    if zarr:
        tile = Tile(receipt["tile_id"], window_of(receipt))
        period = Period(receipt["period"]["start_ms"], receipt["period"]["end_ms"])
        stored, status = zarr_store.read_tile(storage, tile, period)
        if not np.array_equal(stored, codes):
            yield f"{path}: Zarr store and COG differ"
        if not np.array_equal(status == Status.VALID, valid):
            yield f"{path}: status and COG differ"


def _settle(storage: Storage, product: TileProduct, own: bytes, key: str) -> tuple[Written, NDArray[np.int8]]:
    """Have embeddings of this identity on storage: ours, or those of whoever was first."""
    path = data_path(product.tile.tile_id, product.period.label)
    for _ in range(ATTEMPTS):
        if storage.create_exclusive(path, own):
            return Written(len(own), hashlib.sha256(own).hexdigest()), product.embeddings
        try:
            there = storage.read_bytes(path)
        except FileNotFoundError:
            continue
        codes = _codes_of(there, key)
        if codes is not None and np.array_equal(codes == NODATA, product.embeddings == NODATA):
            return Written(len(there), hashlib.sha256(there).hexdigest()), codes
        # Of another identity, or not a raster at all: what an older version or a broken copy left.
        storage.delete(path)
    raise CommitConflictError(f"{storage.uri(path)} is being replaced again and again; is another run writing here?")


def _codes_of(data: bytes, key: str) -> NDArray[np.int8] | None:
    try:
        codes, tags = read_codes(data)
    except RasterioError:
        return None
    return codes if tags.get("IDENTITY") == key else None


def _is(storage: Storage, path: str, data: Written) -> bool:
    try:
        return storage.sha256(path) == data.sha256
    except FileNotFoundError:
        return False
