"""Reading STAC items whatever their version: times, grids, stored numbers. Knows neither providers nor sensors.

STAC 1.0 and 1.1; projection extension 1 (``proj:epsg``) and 2 (``proj:code``); raster extension 1 (``raster:bands``)
and 2 (``raster:scale`` beside ``nodata`` and ``data_type`` on the asset, or within ``bands``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import numpy as np
from shapely import make_valid, transform, union_all
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipelines.catalogs.base import UnusableItem
from pipelines.catalogs.credentials import unsigned
from pipelines.grid import DAY_MS, parse_time_ms, turned_back

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """What an item says about the numbers in a file; None where it says nothing."""

    dtype: str | None
    nodata: float | None
    scale: float | None
    offset: float | None


@dataclass(frozen=True)
class FileGrid:
    """What an item says about the grid of a file; None where it says nothing."""

    epsg: int | None
    transform: tuple[float, ...] | None
    shape: tuple[int, int] | None


def footprint(item: Fields) -> BaseGeometry:
    """The item's geometry, mended where it is not valid.

    Raises:
        UnusableItem: no geometry, or an empty one.
    """
    if not item.get("geometry"):
        raise UnusableItem("the item has no geometry")
    geometry = shape(item["geometry"])
    geometry = geometry if geometry.is_valid else make_valid(geometry)
    if geometry.is_empty:
        raise UnusableItem("the item's geometry is empty")
    return geometry


def split_at_antimeridian(geometry: BaseGeometry) -> BaseGeometry:
    """A footprint of a scene with polygons from 179 to -179 degrees as what they mean: pieces on both sides of 180.

    No scene spans half the Earth, so a polygon wider than that goes round the other way (RFC 7946 asks producers to cut
    it, and not all do).
    """
    return union_all([_cut(part) for part in getattr(geometry, "geoms", [geometry])])


def _cut(part: BaseGeometry) -> BaseGeometry:
    west, _, east, _ = part.bounds
    if east - west <= 180:
        return part
    turned = make_valid(transform(part, lambda x, y: (np.where(x < 0, x + 360, x), y), interleaved=False))
    return turned_back(turned)


def moment_ms(item: Fields) -> int:
    """The item's ``datetime``, or the middle of its interval.

    Raises:
        UnusableItem: neither is given.
    """
    properties = item.get("properties") or {}
    if properties.get("datetime"):
        return parse_time_ms(properties["datetime"])
    interval = interval_ms(item)
    if interval is None:
        raise UnusableItem("the item has neither datetime nor start_datetime and end_datetime")
    return (interval[0] + interval[1]) // 2


def interval_ms(item: Fields) -> tuple[int, int] | None:
    """The half-open validity from ``start_datetime`` and ``end_datetime``, None without them.

    STAC's end is inclusive: ``23:59:59Z`` names the whole of that second. Producers who mean an exclusive end write
    midnight, which is therefore taken as it is.
    """
    properties = item.get("properties") or {}
    start_text, end_text = properties.get("start_datetime"), properties.get("end_datetime")
    if not start_text or not end_text:
        return None
    start_ms, end_ms = parse_time_ms(start_text), parse_time_ms(end_text)
    if end_ms < start_ms:
        raise UnusableItem("the item's end_datetime lies before its start_datetime")
    if end_ms % DAY_MS == 0 and end_ms > start_ms:
        return start_ms, end_ms
    return start_ms, end_ms + (1 if end_ms % 1000 else 1000)


def grid(item: Fields, asset: Fields) -> FileGrid:
    """The grid of an asset: its own fields, else the item's.

    Transform and shape are taken from the same level: an item's 30 m transform says nothing of a 15 m asset.
    """
    properties = item.get("properties") or {}
    epsg = _epsg(asset) if _says_crs(asset) else _epsg(properties)
    level = asset if asset.get("proj:transform") or asset.get("proj:shape") else properties
    transform, size = level.get("proj:transform"), level.get("proj:shape")
    return FileGrid(
        epsg,
        tuple(float(number) for number in transform[:6]) if transform else None,
        (int(size[0]), int(size[1])) if size else None,
    )


def stored(asset: Fields) -> Stored:
    """Type, nodata, scale and offset of an asset's first band."""
    bands = asset.get("raster:bands") or asset.get("bands") or [{}]
    first = bands[0]
    found: dict[str, Any] = {}
    for ours, names in {
        "dtype": ("data_type",),
        "nodata": ("nodata",),
        "scale": ("scale", "raster:scale"),
        "offset": ("offset", "raster:offset"),
    }.items():
        found[ours] = next(
            (level[name] for level in (first, asset) for name in names if level.get(name) is not None), None
        )
    scale, offset = found["scale"], found["offset"]
    if scale is not None and offset is None:
        offset = 0.0  # the extension's default; a producer who states a scale states that too
    return Stored(
        dtype=_dtype(found["dtype"]),
        nodata=None if found["nodata"] is None else float(found["nodata"]),
        scale=None if scale is None else float(scale),
        offset=None if offset is None else float(offset),
    )


def _dtype(said: Any) -> str | None:
    """A type of real numbers in numpy's words; None, so that the file decides, for anything else ("other")."""
    try:
        dtype = np.dtype(str(said).lower())
    except (TypeError, ValueError, SyntaxError):
        return None
    return dtype.name if dtype.kind in "iuf" else None


def absolute(href: str, base: str | None) -> str:
    """An href made absolute against the address of its item, without any signature."""
    if "://" in href or href.startswith("/") or base is None:
        return unsigned(href)
    # urljoin normalises dots in plain paths too, but only rooted ones keep their root.
    rooted = "://" in base or base.startswith("/")
    return unsigned(urljoin(base, href) if rooted else urljoin("/" + base, href)[1:])


def self_href(item: Fields) -> str | None:
    """The address the item gives for itself."""
    return next((link.get("href") for link in item.get("links") or [] if link.get("rel") == "self"), None)


def _says_crs(level: Fields) -> bool:
    return "proj:code" in level or "proj:epsg" in level


def _epsg(level: Fields) -> int | None:
    if level.get("proj:epsg") is not None:
        return int(level["proj:epsg"])
    authority, _, code = str(level.get("proj:code") or "").partition(":")
    return int(code) if authority.upper() == "EPSG" and code.isdigit() else None
