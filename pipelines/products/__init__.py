"""What a tile is on storage: codes, COG, Zarr, STAC, index, receipt, and the commit that ties them."""

from pipelines.products.commit import (
    any_committed,
    commit_tile,
    committed_tiles,
    is_committed,
    lacks_inputs,
    uncommit,
    verify_tile,
)
from pipelines.products.identity import code_digest, identity
from pipelines.products.index import read_index, rebuild_index
from pipelines.products.quantise import NODATA, dequantize, quantize
from pipelines.products.receipt import Cost, Provenance, SceneRef, read_receipt
from pipelines.products.sample import sample_points
from pipelines.products.stac import ModelDescription, write_model
from pipelines.products.statistics import Components, pca_rgb, read_moments
from pipelines.products.tile import Status, TileProduct
from pipelines.products.zarr_store import ensure_zone

__all__ = [
    "NODATA",
    "Components",
    "Cost",
    "ModelDescription",
    "Provenance",
    "SceneRef",
    "Status",
    "TileProduct",
    "any_committed",
    "code_digest",
    "commit_tile",
    "committed_tiles",
    "dequantize",
    "ensure_zone",
    "identity",
    "is_committed",
    "lacks_inputs",
    "pca_rgb",
    "quantize",
    "read_index",
    "read_moments",
    "read_receipt",
    "rebuild_index",
    "sample_points",
    "uncommit",
    "verify_tile",
    "write_model",
]
