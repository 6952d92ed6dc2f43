"""Landsat Collection 2 in catalogs: asset keys, and scales where the items state none."""

from __future__ import annotations

from collections.abc import Mapping
from math import radians, sin
from typing import Any

from pipelines.catalogs.base import UnusableItem

# Our band -> keys of the USGS product; Planetary Computer's first collection used them.
_USGS = {
    "coastal": ("SR_B1", "B1"),
    "blue": ("SR_B2", "B2"),
    "green": ("SR_B3", "B3"),
    "red": ("SR_B4", "B4"),
    "nir08": ("SR_B5", "B5"),
    "swir16": ("SR_B6", "B6"),
    "swir22": ("SR_B7", "B7"),
    "pan": ("B8",),
    "cirrus": ("B9",),
    "lwir11": ("ST_B10", "B10"),
    "qa_pixel": ("QA_PIXEL",),
}
# USGS Landsat Collection 2 Level-2 Science Product Guide, tables 6-1 and 6-2.
_SURFACE_REFLECTANCE = (2.75e-5, -0.2)
_SURFACE_TEMPERATURE = (0.00341802, 149.0)
# Landsat 8-9 Data Users Handbook, section 5: REFLECTANCE_MULT_BAND and _ADD_BAND, before the sun's elevation.
_TOP_OF_ATMOSPHERE = (2e-5, -0.1)
# SPEC 1.2: Landsat 8 and 9, Collection 2, Tier 1. The older sensors' band numbers mean other wavelengths.
_PLATFORMS = ("8", "9")
_TIER = "T1"


def require_tier_1(item: Mapping[str, Any]) -> None:
    """Refuse what is not Landsat 8 or 9, Tier 1, where the item says so; an item that does not say is taken.

    Raises:
        UnusableItem: another satellite, or a scene whose geometry or radiometry did not reach Tier 1.
    """
    properties = item.get("properties") or {}
    platform = str(properties.get("platform") or "").lower().replace("_", "-").replace(" ", "-")
    if platform.startswith("landsat-") and platform.removeprefix("landsat-") not in _PLATFORMS:
        raise UnusableItem(f"{platform} is not Landsat 8 or 9")
    tier = properties.get("landsat:collection_category")
    if tier is not None and tier != _TIER:
        raise UnusableItem(f"collection category {tier} is not Tier 1")


def asset_keys(band: str) -> tuple[str, ...]:
    """Asset keys under which providers give a band, best first."""
    return band, *_USGS.get(band, ())


def default_scaling(band: str, item: Mapping[str, Any], collection: str) -> tuple[float, float] | None:
    """Scale and offset of a band whose item states none; None where no linear scaling exists.

    Level-1 thermal bands are radiances, which a scale and offset do not bring to kelvin.
    """
    if is_level_1(item, collection):
        elevation = (item.get("properties") or {}).get("view:sun_elevation")
        if band == "lwir11" or elevation is None or elevation <= 0:
            return None
        scale, offset = _TOP_OF_ATMOSPHERE
        return scale / sin(radians(elevation)), offset / sin(radians(elevation))
    return _SURFACE_TEMPERATURE if band == "lwir11" else _SURFACE_REFLECTANCE


def is_level_1(item: Mapping[str, Any], collection: str) -> bool:
    """Whether the product is top-of-atmosphere."""
    properties = item.get("properties") or {}
    level = str(properties.get("landsat:correction") or properties.get("landsat:processing_level") or "")
    return level.startswith("L1") or (not level and collection.replace("_", "-").endswith(("-l1", "l1")))
