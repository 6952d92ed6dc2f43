"""Scenes: one acquisition of one source, normalised from whatever a catalog said, and the table of them.

A scene carries unsigned hrefs; signing happens when pixels are read. The table is GeoParquet.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import geopandas as gpd
import pandas as pd
from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True)
class Asset:
    """One file of a scene, holding one band unless said otherwise.

    Attributes:
        href: unsigned address.
        key: the catalog's asset key.
        dtype, nodata: of the stored numbers; None where the catalog does not say (a source's default then holds).
        scale, offset: effective: ``physical = stored * scale + offset``, every producer quirk already resolved.
        epsg, transform, shape: grid of the file; ``transform`` is (a, b, c, d, e, f) in metres or degrees, ``shape``
            rows and columns. None where the catalog does not say; the file's own header then holds.
        extra: format-specific facts (open_kwargs of a Zarr store, ...).
    """

    href: str
    key: str
    dtype: str | None = None
    nodata: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    epsg: int | None = None
    transform: tuple[float, ...] | None = None
    shape: tuple[int, int] | None = None
    extra: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """One acquisition of one source.

    Attributes:
        source: name of the source (``sentinel2`` ...).
        scene_id: the STAC item's id.
        catalog: name of the configured catalog; it says who signs.
        collection: STAC collection id.
        time_ms: acquisition, UTC epoch milliseconds (the middle of the validity for aggregates).
        valid_ms: validity, half-open; ``(t, t + 1)`` for an acquisition.
        footprint: WGS 84 polygon of the data.
        assets: by band name of the source (``red``, ``vv``) or role (``scl``, ``qa_pixel``, ``store``).
        facts: JSON-able producer facts: platform, relative_orbit, orbit_state, datatake, processing_baseline, ...
        item_href: unsigned address of the STAC item; empty where it is not known.
    """

    source: str
    scene_id: str
    catalog: str
    collection: str
    time_ms: int
    valid_ms: tuple[int, int]
    footprint: BaseGeometry
    assets: dict[str, Asset]
    facts: dict[str, object] = field(default_factory=dict)
    item_href: str = ""

    def scaling(self) -> str:
        """How stored numbers become physical ones, exact and short: ``0.0001*x-0.1 (blue red); 1.0*x+0.0 (scl)``."""
        bands: dict[str, list[str]] = {}
        for band, asset in sorted(self.assets.items()):
            bands.setdefault(f"{float(asset.scale)!r}*x{float(asset.offset):+}", []).append(band)
        return "; ".join(f"{formula} ({' '.join(names)})" for formula, names in sorted(bands.items()))

    def description(self) -> str:
        """Hash of all that a catalog says of the scene and that its pixels depend on.

        Of addresses their paths count, as hosts move and signatures pass; of files of this machine, whose roots move
        too, the last two parts.
        """
        files = {band: {**asdict(asset), "href": _path(asset.href)} for band, asset in self.assets.items()}
        told = [self.time_ms, self.valid_ms, self.footprint.wkb_hex, files, self.facts]
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _path(href: str) -> str:
    parts = urlsplit(href)
    if parts.scheme in ("", "file"):
        return "/".join(parts.path.rstrip("/").split("/")[-2:])
    return parts.path


def scenes_to_frame(scenes: Iterable[Scene]) -> gpd.GeoDataFrame:
    """The scene table, sorted by source, time and id so that two runs write the same bytes."""
    rows = [
        {
            "source": scene.source,
            "scene_id": scene.scene_id,
            "catalog": scene.catalog,
            "collection": scene.collection,
            "time_ms": scene.time_ms,
            "valid_start_ms": scene.valid_ms[0],
            "valid_end_ms": scene.valid_ms[1],
            "assets": json.dumps({band: asdict(asset) for band, asset in scene.assets.items()}, sort_keys=True),
            "facts": json.dumps(scene.facts, sort_keys=True),
            "item_href": scene.item_href,
            "geometry": scene.footprint,
        }
        for scene in scenes
    ]
    columns = ["source", "scene_id", "catalog", "collection", "time_ms", "valid_start_ms", "valid_end_ms"]
    frame = pd.DataFrame(rows, columns=[*columns, "assets", "facts", "item_href", "geometry"])
    frame = frame.sort_values(["source", "time_ms", "scene_id"], kind="stable", ignore_index=True)
    return gpd.GeoDataFrame(frame, geometry="geometry", crs="EPSG:4326")


def frame_to_scenes(frame: gpd.GeoDataFrame) -> list[Scene]:
    """The inverse of :func:`scenes_to_frame`."""
    return [
        Scene(
            source=row.source,
            scene_id=row.scene_id,
            catalog=row.catalog,
            collection=row.collection,
            time_ms=int(row.time_ms),
            valid_ms=(int(row.valid_start_ms), int(row.valid_end_ms)),
            footprint=row.geometry,
            assets={band: _asset(fields) for band, fields in json.loads(row.assets).items()},
            facts=json.loads(row.facts),
            item_href=row.item_href,
        )
        for row in frame.itertuples(index=False)
    ]


def read_scenes(path: str | Path) -> list[Scene]:
    """Scenes of a GeoParquet scene table."""
    return frame_to_scenes(gpd.read_parquet(path))


def _asset(fields: dict) -> Asset:
    fields = dict(fields)
    for name in ("transform", "shape"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    return Asset(**fields)
