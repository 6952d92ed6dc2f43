"""A tile's receipt: what it was made from, by what, at what cost. Where there is a receipt, the tile is committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.grid import RESOLUTION_M, Period, Tile, Window, format_time, zone_name
from pipelines.products.identity import identity
from pipelines.products.tile import TileProduct, counts_path, data_path, moments_path, receipt_path
from pipelines.scenes import Scene
from pipelines.storage import Storage, Written

RECEIPT_VERSION = 1


@dataclass(frozen=True, order=True)
class SceneRef:
    """An input scene.

    Attributes:
        scene_id: id of the STAC item.
        source: name of the source.
        collection: STAC collection id.
        href: address of the STAC item, where known; not part of a tile's identity.
        scaling: how its stored numbers become physical ones; see :meth:`pipelines.scenes.Scene.scaling`.
        description: hash of all that its pixels depend on; see :meth:`pipelines.scenes.Scene.description`.
    """

    scene_id: str
    source: str
    collection: str
    href: str = ""
    scaling: str = ""
    description: str = ""

    @classmethod
    def of(cls, scene: Scene) -> SceneRef:
        return cls(
            scene.scene_id, scene.source, scene.collection, scene.item_href, scene.scaling(), scene.description()
        )

    def to_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True)
class Provenance:
    """Everything that determines a tile's embeddings, beside place and period.

    Attributes:
        model_id: name and version for people.
        model_digest: hash of weights, configuration and normalisation.
        code_digest: of the code that computes; see :func:`pipelines.products.identity.code_digest`.
        parameters: JSON-able settings that change the result (margin, sources, precision).
        inputs: scenes that may be read.
    """

    model_id: str
    model_digest: str
    code_digest: str
    parameters: Mapping[str, Any]
    inputs: tuple[SceneRef, ...]

    def identity(self, tile: Tile, period: Period) -> str:
        """The key under which a tile made from this is committed."""
        window = tile.window
        place = [tile.tile_id, window.epsg, *window.bounds_m, window.resolution_m, period.start_ms, period.end_ms]
        scenes = sorted([scene.source, scene.collection, scene.scene_id, scene.description] for scene in self.inputs)
        return identity([place, scenes], self.parameters, self.model_digest, self.code_digest)


@dataclass(frozen=True)
class Cost:
    """What a tile took; not part of its identity.

    Attributes:
        seconds: wall time.
        peak_memory_bytes: of the process that made it.
        device: name of the processor.
        failed_inputs: scene id -> reason, for scenes that could not be read.
    """

    seconds: float = 0.0
    peak_memory_bytes: int = 0
    device: str = ""
    failed_inputs: Mapping[str, str] = field(default_factory=dict)


def make_receipt(product: TileProduct, provenance: Provenance, cost: Cost, data: Written) -> dict[str, Any]:
    """The receipt of a tile whose data lies on storage as ``data`` says."""
    tile, period, window = product.tile, product.period, product.tile.window
    label = period.label
    return {
        "receipt_version": RECEIPT_VERSION,
        "tile_id": tile.tile_id,
        "zone": zone_name(window.epsg),
        "epsg": window.epsg,
        "bounds_m": list(window.bounds_m),
        "shape": list(window.shape),
        "period": {
            "label": label,
            "start": format_time(period.start_ms),
            "end": format_time(period.end_ms),
            "start_ms": period.start_ms,
            "end_ms": period.end_ms,
        },
        "identity": provenance.identity(tile, period),
        "model_id": provenance.model_id,
        "model_digest": provenance.model_digest,
        "code_digest": provenance.code_digest,
        "parameters": dict(provenance.parameters),
        "inputs": [scene.to_json() for scene in sorted(provenance.inputs)],
        "data": {"path": data_path(tile.tile_id, label), "bytes": data.size, "sha256": data.sha256},
        "counts_path": counts_path(tile.tile_id, label),
        "moments_path": moments_path(tile.tile_id, label),
        "pixels": product.status_counts,
        "mean_observations": {name: round(float(count.mean()), 4) for name, count in product.counts.items()},
        "run": {
            "seconds": round(cost.seconds, 3),
            "peak_memory_bytes": cost.peak_memory_bytes,
            "device": cost.device,
            "failed_inputs": dict(cost.failed_inputs),
        },
    }


def read_receipt(storage: Storage, tile_id: str, period_label: str) -> dict[str, Any] | None:
    """A tile's receipt, or None where the tile is not committed."""
    try:
        receipt: dict[str, Any] = storage.read_json(receipt_path(tile_id, period_label))
    except FileNotFoundError:
        return None
    return receipt


def window_of(receipt: Mapping[str, Any]) -> Window:
    """The window of a receipt's tile."""
    west, south, east, north = receipt["bounds_m"]
    return Window(receipt["epsg"], west, north, (east - west) // RESOLUTION_M, (north - south) // RESOLUTION_M)
