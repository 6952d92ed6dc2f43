"""What one tile holds before it is written: codes, why a pixel has none, and how much was seen of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.grid import Period, Tile, zone_name
from pipelines.products.quantise import DIMENSIONS, NODATA, quantize


class Status(IntEnum):
    """Why a pixel has an embedding or none."""

    OUTSIDE = 0  # outside the area asked for, or owned by the neighbouring zone
    VALID = 1
    NO_OBSERVATIONS = 2  # inside, but no input source measured it in the period
    FAILED = 3  # inside, observed, but its inputs could not be read or the model gave no finite vector


@dataclass(frozen=True)
class TileProduct:
    """One tile of output.

    Attributes:
        tile: where.
        period: the valid period that the embeddings summarise.
        embeddings: ``(64, H, W)`` int8 codes, -128 in all bands where the status is not VALID.
        status: ``(H, W)`` uint8 of :class:`Status`.
        counts: per input source ``(H, W)`` uint16, observations that were clear at the pixel.
    """

    tile: Tile
    period: Period
    embeddings: NDArray[np.int8]
    status: NDArray[np.uint8]
    counts: Mapping[str, NDArray[np.uint16]]

    def __post_init__(self) -> None:
        shape = self.tile.window.shape
        if self.embeddings.shape != (DIMENSIONS, *shape) or self.embeddings.dtype != np.int8:
            raise ValueError(
                f"tile {self.tile.tile_id}: embeddings are {self.embeddings.dtype} {self.embeddings.shape}, "
                f"not int8 {(DIMENSIONS, *shape)}"
            )
        layers: list[tuple[str, NDArray[Any], type]] = [("status", self.status, np.uint8)]
        layers += [(f"count of {source}", count, np.uint16) for source, count in self.counts.items()]
        for name, array, dtype in layers:
            if array.shape != shape or array.dtype != dtype:
                raise ValueError(
                    f"tile {self.tile.tile_id}: {name} is {array.dtype} {array.shape}, not {dtype.__name__} {shape}"
                )
        missing = self.embeddings == NODATA
        if not np.array_equal(missing.any(axis=0), missing.all(axis=0)):
            raise ValueError(f"tile {self.tile.tile_id}: a pixel is nodata in some bands but not in all")
        if not np.array_equal(~missing[0], self.status == Status.VALID):
            raise ValueError(f"tile {self.tile.tile_id}: status and nodata disagree")

    @property
    def zone(self) -> str:
        return zone_name(self.tile.window.epsg)

    @property
    def status_counts(self) -> dict[str, int]:
        """Pixels by status, in lower-case names."""
        found = np.bincount(self.status.reshape(-1), minlength=len(Status))
        return {status.name.lower(): int(found[status]) for status in Status}

    @classmethod
    def from_vectors(
        cls,
        tile: Tile,
        period: Period,
        vectors: NDArray[np.floating],
        counts: Mapping[str, NDArray[np.uint16]],
        *,
        inside: NDArray[np.bool_] | None = None,
    ) -> TileProduct:
        """Quantise the model's output and say for every pixel why it has a vector or none.

        Args:
            tile: where.
            period: the valid period.
            vectors: ``(H, W, 64)`` float, NaN where the model was not run.
            counts: clear observations per input source, ``(H, W)``. A pixel with none of any source is nodata even
                if it has a vector: the model would be inventing it.
            inside: ``(H, W)``, False outside the area asked for; pixels of the neighbouring zone are always outside.
        """
        owned = tile.window.owned()
        inside = owned if inside is None else owned & inside
        seen = np.zeros(tile.window.shape, bool)
        for count in counts.values():
            seen |= count > 0
        codes = np.ascontiguousarray(np.moveaxis(quantize(vectors, inside & seen), -1, 0))
        status = np.full(tile.window.shape, Status.FAILED, np.uint8)
        status[codes[0] != NODATA] = Status.VALID
        status[inside & ~seen] = Status.NO_OBSERVATIONS
        status[~inside] = Status.OUTSIDE
        return cls(tile, period, codes, status, {name: np.asarray(c, np.uint16) for name, c in sorted(counts.items())})


def base_path(tile_id: str, zone: str, period_label: str) -> str:
    """Path of a tile's objects without their endings."""
    return f"embeddings/v1/{period_label}/{zone}/{tile_id}"


def data_path(tile_id: str, period_label: str) -> str:
    """Path of a tile's embedding COG; the zone is the part of the tile id before ``_``."""
    return base_path(tile_id, tile_id.split("_", 1)[0], period_label) + ".tiff"


def counts_path(tile_id: str, period_label: str) -> str:
    """Path of a tile's status and observation counts."""
    return base_path(tile_id, tile_id.split("_", 1)[0], period_label) + "_counts.tiff"


def moments_path(tile_id: str, period_label: str) -> str:
    """Path of a tile's sums for the principal components."""
    return base_path(tile_id, tile_id.split("_", 1)[0], period_label) + "_moments.npy"


def receipt_path(tile_id: str, period_label: str) -> str:
    """Path of a tile's receipt."""
    return base_path(tile_id, tile_id.split("_", 1)[0], period_label) + ".receipt.json"


def zarr_path(zone: str) -> str:
    """Path of a zone's Zarr group."""
    return f"embeddings/zarr/{zone}.zarr"


def stac_path(tile_id: str, period_label: str) -> str:
    """Path of a tile's STAC item."""
    return f"embeddings/stac/items/{period_label}/{tile_id.split('_', 1)[0]}/{tile_id}_{period_label}.json"
