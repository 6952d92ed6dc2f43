"""Sentinel-2 in catalogs: asset keys of every provider, and the one place that decides on the radiometric offset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pipelines.catalogs.base import UnusableItem

SCALE = 1e-4  # reflectance per digital number, every product since 2015
OFFSET = -0.1  # RADIO_ADD_OFFSET / BOA_ADD_OFFSET of -1000, products of baseline 04.00 (25 January 2022) and later
OFFSET_SINCE = (4, 0)
LARGEST_OFFSET = 0.5
SCALES = (1e-5, 1e-3)  # between which a reflectance per digital number lies
# The producer's own files, which no catalog has changed: its word on what it did to its copies says nothing of them.
PRODUCERS_BUCKETS = frozenset({"sentinel-s2-l1c", "sentinel-s2-l2a", "eodata"})
USER_RUN = (99, 99)  # Sen2Cor run by a user: the number says nothing about the offset

# Our band -> the instrument's, and the ground sample distance in metres that the instrument has.
_INSTRUMENT = {
    "coastal": ("B01", 60),
    "blue": ("B02", 10),
    "green": ("B03", 10),
    "red": ("B04", 10),
    "rededge1": ("B05", 20),
    "rededge2": ("B06", 20),
    "rededge3": ("B07", 20),
    "nir": ("B08", 10),
    "nir08": ("B8A", 20),
    "nir09": ("B09", 60),
    "cirrus": ("B10", 60),
    "swir16": ("B11", 20),
    "swir22": ("B12", 20),
    "scl": ("SCL", 20),
}


def asset_keys(band: str) -> tuple[str, ...]:
    """Asset keys under which providers give a band, best first.

    Earth Search v1 has common names, Planetary Computer and Earth Search v0 the instrument's, CDSE the instrument's
    with a resolution: of several the sampled one, then the others from fine to coarse.
    """
    if band == "cloud":
        return "cloud", "CLD_20m", "CLD", "MSK_CLDPRB_20m", "MSK_CLDPRB_60m", "MSK_CLDPRB"
    if band not in _INSTRUMENT:
        return (band,)
    name, own_m = _INSTRUMENT[band]
    others = [size_m for size_m in (10, 20, 60) if size_m != own_m]
    return band, name, *(f"{name}_{size_m}m" for size_m in (own_m, *others))


def effective_offset(
    *,
    baseline: tuple[int, int] | None,
    already_applied: bool | None,
    stated: float | None,
) -> float:
    """What to add to ``digital number * 1e-4`` for reflectance. The only place that decides it; where
    pixels are read, :func:`pipelines.sources.sentinel2.contradiction` refuses an offset that they show to be applied.

    * The catalog says that its file already has the offset in it (Earth Search's ``boa_offset_applied``): nothing is
      added, although its ``raster:bands`` go on stating -0.1. A file in the producer's bucket is not the catalog's.
    * A producer's baseline before 04.00: there was no offset yet, whatever a catalog copied into the item.
    * The item states an offset (Earth Search v1 and Collection 1, CDSE, user-run products): that one.
    * The item states none (Planetary Computer, Earth Search v0): -0.1 since baseline 04.00.

    Args:
        baseline: of the processor, None when unknown.
        already_applied: the catalog's flag, None when it has no such flag for this file.
        stated: offset in the item's raster fields, None when there are none.

    Raises:
        UnusableItem: nothing of this is known, so that reflectance could be wrong by 0.1; or what is stated is no
            reflectance.
    """
    if already_applied:
        return 0.0
    if baseline is not None and baseline < OFFSET_SINCE:
        return 0.0
    if stated is not None:
        if abs(stated) > LARGEST_OFFSET:
            raise UnusableItem("Sentinel-2 offset of the item is no reflectance (digital numbers?)")
        return stated
    if baseline is None or baseline == USER_RUN:
        raise UnusableItem("Sentinel-2 offset unknown: neither raster:bands nor a producer's processing baseline")
    return OFFSET


def effective_scale(stated: float | None) -> float:
    """Reflectance per digital number.

    Raises:
        UnusableItem: what the item states cannot be that.
    """
    if stated is None:
        return SCALE
    if not SCALES[0] <= stated <= SCALES[1]:
        raise UnusableItem("Sentinel-2 scale of the item is no reflectance per digital number")
    return stated


def processing_baseline(item: Mapping[str, Any]) -> tuple[int, int] | None:
    """Version of the producer's processor as (major, minor), None when the item does not tell."""
    properties = item.get("properties") or {}
    for name in ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version"):
        if found := re.fullmatch(r"0?(\d{1,2})\.(\d{2})", str(properties.get(name) or "")):
            return int(found[1]), int(found[2])
    product = _product_name(item)
    return (int(product["major"]), int(product["minor"])) if product else None


def already_applied(item: Mapping[str, Any], href: str) -> bool | None:
    """Earth Search's flag that a file has had the offset added; None where the catalog has no such flag.

    The flag is about the catalog's own COGs. The same item names the producer's JPEG 2000 files in the producer's
    bucket, which have it never.
    """
    parts = urlsplit(href)
    # https addresses name the bucket as a host, as a first label of one or as a first folder.
    names = {parts.netloc, parts.netloc.split(".")[0], parts.path.lstrip("/").split("/")[0]}
    if "://" in href and names & PRODUCERS_BUCKETS:
        return None
    properties = item.get("properties") or {}
    for name in ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"):
        if name in properties:
            return str(properties[name]).strip().lower() not in ("false", "0", "no", "none", "")
    return None


def relative_orbit(item: Mapping[str, Any]) -> int | None:
    """From the product's name, which every catalog has in some field."""
    name = _product_name(item)
    return int(name["orbit"]) if name else None


def mgrs_tile(item: Mapping[str, Any]) -> str | None:
    """Name of the 100 km tile, ``31UES``."""
    properties = item.get("properties") or {}
    if str(properties.get("grid:code") or "").startswith("MGRS-"):
        return str(properties["grid:code"])[5:]
    if properties.get("s2:mgrs_tile"):
        return str(properties["s2:mgrs_tile"])
    for prefix in ("mgrs", "sentinel"):
        parts = [properties.get(f"{prefix}:{name}") for name in ("utm_zone", "latitude_band", "grid_square")]
        if all(parts):
            return f"{int(str(parts[0])):02d}{parts[1]}{parts[2]}"
    product = _product_name(item)
    return product["tile"] if product else None


# S2A_MSIL2A_20200714T115221_N0214_R123_T28QCH_20200714T191310; Planetary Computer's ids leave the baseline out.
_PRODUCT = re.compile(r"_N(?P<major>\d{2})(?P<minor>\d{2})_R(?P<orbit>\d{3})_T(?P<tile>\d{2}[A-Z]{3})_")


def _product_name(item: Mapping[str, Any]) -> re.Match[str] | None:
    properties = item.get("properties") or {}
    names = (properties.get("s2:product_uri"), properties.get("sentinel:product_id"), item.get("id"))
    return next((found for name in names if (found := _PRODUCT.search(str(name or "")))), None)
