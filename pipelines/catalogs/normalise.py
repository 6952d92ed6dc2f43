"""From a STAC item, as a plain dict, to a scene: one rule set for all providers, sensors' quirks in their modules.

Items must come as they were served: pystac 1.12 and later rewrites items on reading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit, urlunsplit

from pipelines.catalogs import landsat, sentinel2
from pipelines.catalogs.base import UnusableItem
from pipelines.catalogs.stac_fields import (
    Fields,
    absolute,
    footprint,
    grid,
    interval_ms,
    moment_ms,
    self_href,
    split_at_antimeridian,
    stored,
)
from pipelines.catalogs.stores import stores
from pipelines.scenes import Asset, Scene
from pipelines.sources.base import Kind, Source

# Our fact <- properties that hold it, first one wins. Numbers stay numbers.
_FACTS: dict[str, tuple[str, ...]] = {
    "platform": ("platform",),
    "relative_orbit": ("sat:relative_orbit",),
    "absolute_orbit": ("sat:absolute_orbit",),
    "orbit_state": ("sat:orbit_state",),
    "observation_direction": ("sar:observation_direction",),
    "datatake": ("s2:datatake_id", "s1:datatake_id"),
    "processing_baseline": ("s2:processing_baseline", "sentinel:processing_baseline"),
    "product": ("s2:product_uri", "sentinel:product_id", "landsat:scene_id", "s1:product_identifier"),
    "generated": ("s2:generation_time", "landsat:product_generated", "s1:processing_datetime"),
    "sun_elevation": ("view:sun_elevation",),
    "sun_azimuth": ("view:sun_azimuth", "s2:mean_solar_azimuth"),
    "view_azimuth": ("view:azimuth",),
    "incidence_angle": ("view:incidence_angle",),
    "off_nadir": ("view:off_nadir",),
    "cloud_cover": ("eo:cloud_cover",),
    "wrs_path": ("landsat:wrs_path",),
    "wrs_row": ("landsat:wrs_row",),
    "level": ("landsat:correction", "landsat:processing_level"),
    "polarizations": ("sar:polarizations",),
    "instrument_mode": ("sar:instrument_mode",),
    "version": ("version",),
}
_PLATFORMS = {"sentinel2": "sentinel-2", "sentinel1": "sentinel-1", "landsat": "landsat", "palsar2": "alos"}
_INTEGERS = ("wrs_path", "wrs_row", "relative_orbit", "absolute_orbit")

# Single-file sources: our name of the file <- asset keys, best first, then media types or endings.
_CLASSES = ("map", "data", "land_cover", "landcover", "classification", "cropland")
_FILES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "elevation": ("elevation", ("data", "elevation", "dem"), ()),
    **{name: ("land_cover", _CLASSES, ()) for name in ("landcover", "nlcd", "cdl", "worldcover")},
    "gedi": ("data", ("data",), (".h5", ".hdf5")),
    "grace": ("store", ("data",), (".nc", ".nc4")),
    "text": ("data", ("data",), (".parquet", ".geoparquet", ".geojson", ".json")),
}


def normalise(
    item: Fields,
    source: Source,
    catalog: str,
    *,
    collection: str | None = None,
    base: str | None = None,
) -> Scene:
    """The scene of an item.

    Args:
        item: STAC item as served, version 1.0 or 1.1.
        source: which of its assets are wanted, and what kind of measurement they are.
        catalog: configured name of the catalog; the scene remembers it.
        collection: used where the item names none.
        base: address of the item, against which relative hrefs are resolved; default its own "self" link.

    Raises:
        UnusableItem: the item lacks something without which its pixels cannot be placed in space, time or units, or
            is of a sensor or grade that the source is not.
    """
    collection = str(item.get("collection") or collection or "")
    _require_platform_of(source.name, item)
    if source.name == "landsat":
        landsat.require_tier_1(item)
    outline = footprint(item)
    if source.kind in (Kind.FRAMES, Kind.POINTS):
        outline = split_at_antimeridian(outline)
    time_ms, valid_ms = _times(item, source.kind)
    assets = scene_assets(item, source, collection=collection, base=base)
    return Scene(
        source=source.name,
        scene_id=str(item["id"]),
        catalog=catalog,
        collection=collection,
        time_ms=time_ms,
        valid_ms=valid_ms,
        footprint=outline,
        assets=assets,
        facts=facts(item),
        item_href=item_href(item, base),
    )


def _require_platform_of(source_name: str, item: Fields) -> None:
    """Refuse another known satellite's item; a name that is nobody's says nothing."""
    properties = item.get("properties") or {}
    platform = str(properties.get("platform") or properties.get("constellation") or "")
    owner = next((name for name, prefix in _PLATFORMS.items() if _spelled(platform).startswith(prefix)), None)
    if owner is not None and source_name in _PLATFORMS and owner != source_name:
        raise UnusableItem(f"item of {platform}, which is no satellite of source {source_name}; see its collections")


def _spelled(platform: str) -> str:
    """A platform's name as STAC spells it: lower case with hyphens."""
    return platform.lower().replace("_", "-").replace(" ", "-")


def item_href(item: Fields, base: str | None) -> str:
    """Address of an item for others to follow, without user name, password, token or query; empty where unknown."""
    href = base or self_href(item) or ""
    if "://" not in href:
        return href if href.startswith("/") else ""
    parts = urlsplit(href)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def scene_assets(item: Fields, source: Source, *, collection: str = "", base: str | None = None) -> dict[str, Asset]:
    """The files of an item that a source reads, by band name or role.

    Raises:
        UnusableItem: there is none, or its numbers cannot be given units.
    """
    given: Fields = item.get("assets") or {}
    base = base or self_href(item)
    if source.kind is Kind.SERIES:
        found = stores(item, given, source, base)
        if not found and source.name in _FILES:
            found = _single_file(item, given, source.name, base)
    elif source.name in _FILES:
        found = _single_file(item, given, source.name, base)
    else:
        found = _bands(item, given, source, collection, base)
    if not any(name not in source.mask_roles for name in found):
        raise UnusableItem(f"no asset of the item holds a band of {source.name}")
    return found


def facts(item: Fields) -> dict[str, object]:
    """Producer facts under our names, JSON-able; absent ones are left out."""
    properties = item.get("properties") or {}
    found: dict[str, object] = {}
    for ours, names in _FACTS.items():
        value = next((properties[name] for name in names if properties.get(name) is not None), None)
        if value is not None:
            found[ours] = int(value) if ours in _INTEGERS else value
    if "platform" in found:
        found["platform"] = _spelled(str(found["platform"]))
    if "sun_elevation" not in found and properties.get("s2:mean_solar_zenith") is not None:
        found["sun_elevation"] = 90.0 - float(properties["s2:mean_solar_zenith"])
    if (tile := sentinel2.mgrs_tile(item)) is not None:
        found["mgrs_tile"] = tile
        if "relative_orbit" not in found and (orbit := sentinel2.relative_orbit(item)) is not None:
            found["relative_orbit"] = orbit
    return found


def _times(item: Fields, kind: Kind) -> tuple[int, tuple[int, int]]:
    """Time and half-open validity: an instant for acquisitions, the item's interval for everything else."""
    interval = interval_ms(item)
    if kind is Kind.FRAMES or interval is None:
        time_ms = moment_ms(item)
        return time_ms, (time_ms, time_ms + 1)
    if kind in (Kind.SERIES, Kind.CLASSES, Kind.TEXT):
        return (interval[0] + interval[1]) // 2, interval
    return moment_ms(item), interval


def _bands(item: Fields, given: Fields, source: Source, collection: str, base: str | None) -> dict[str, Asset]:
    keys_of = _KEYS.get(source.name, _own_name)
    found: dict[str, Asset] = {}
    for name in (*source.band_names, *source.mask_roles):
        key = next((key for key in keys_of(name) if given.get(key, {}).get("href")), None)
        if key is None:
            continue
        asset = _asset(item, given[key], key, name, source, collection, base)
        # Earth Search's cloud probabilities of sentinel-2-l2a lie in a requester-pays bucket beside open bands: a mask
        # that asks for other access than the bands is done without.
        if asset is not None and (name not in source.mask_roles or _scheme(asset) in map(_scheme, found.values())):
            found[name] = asset
    if source.name == "sentinel1":
        _require_map_grid(found)
    return found


def _asset(
    item: Fields, asset: Fields, key: str, name: str, source: Source, collection: str, base: str | None
) -> Asset | None:
    numbers, place = stored(asset), grid(item, asset)
    scale, offset = (1.0 if numbers.scale is None else numbers.scale), numbers.offset or 0.0
    if name in source.mask_roles:
        scale, offset = 1.0, 0.0
    elif source.name == "sentinel2":
        scale = sentinel2.effective_scale(numbers.scale)
        offset = sentinel2.effective_offset(
            baseline=sentinel2.processing_baseline(item),
            already_applied=sentinel2.already_applied(item, absolute(asset["href"], base)),
            stated=numbers.offset,
        )
    elif source.name == "landsat" and numbers.scale is None:
        scaling = landsat.default_scaling(name, item, collection)
        if scaling is None:
            return None
        scale, offset = scaling
    return Asset(
        href=absolute(asset["href"], base),
        key=key,
        dtype=numbers.dtype,
        nodata=numbers.nodata,
        scale=scale,
        offset=offset,
        epsg=place.epsg,
        transform=place.transform,
        shape=place.shape,
    )


def _scheme(asset: Asset) -> str:
    return urlsplit(asset.href).scheme.removesuffix("s")


def _require_map_grid(found: Mapping[str, Asset]) -> None:
    """Refuse radar in the geometry of its acquisition: GRD files carry ground control points, not a grid."""
    if any(asset.epsg in (None, 4326) for asset in found.values()):
        raise UnusableItem("radar without a map grid (GRD geometry); use a terrain-corrected (RTC) collection")


def _single_file(item: Fields, given: Fields, source_name: str, base: str | None) -> dict[str, Asset]:
    ours, keys, endings = _FILES[source_name]
    key = next((key for key in keys if given.get(key, {}).get("href")), None)
    if key is None:
        # https before s3: it needs no cloud account.
        candidates = sorted(
            (not str(asset.get("href")).startswith("http"), key)
            for key, asset in given.items()
            if endings and str(asset.get("href", "")).split("?")[0].lower().endswith(endings)
        )
        key = candidates[0][1] if candidates else None
    if key is None:
        return {}
    numbers, place = stored(given[key]), grid(item, given[key])
    asset = Asset(
        href=absolute(given[key]["href"], base),
        key=key,
        dtype=numbers.dtype,
        nodata=numbers.nodata,
        scale=1.0 if numbers.scale is None else numbers.scale,
        offset=numbers.offset or 0.0,
        epsg=place.epsg,
        transform=place.transform,
        shape=place.shape,
    )
    return {ours: asset}


def _own_name(band: str) -> tuple[str, ...]:
    return (band,)


def _palsar2_keys(band: str) -> tuple[str, ...]:
    return (band, band.upper(), *{"lin": ("linci",), "mosaic_mask": ("mask",)}.get(band, ()))


_KEYS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "sentinel2": sentinel2.asset_keys,
    "landsat": landsat.asset_keys,
    "palsar2": _palsar2_keys,
}
