"""The sources: one module a sensor. ``source("sentinel2")`` finds one by name."""

from __future__ import annotations

from pipelines.sources import (
    cdl,
    elevation,
    era5,
    gedi,
    grace,
    landcover,
    landsat,
    nlcd,
    palsar2,
    sentinel1,
    sentinel2,
    text,
    worldcover,
)
from pipelines.sources.base import Band, Kind, Source, Transform

_MODULES = (sentinel2, sentinel1, landsat, era5, gedi, elevation, landcover, text)
# Targets that a configuration may add.
_OPTIONAL = (palsar2, grace, nlcd, cdl, worldcover)

SOURCES: dict[str, Source] = {module.SOURCE.name: module.SOURCE for module in (*_MODULES, *_OPTIONAL)}

__all__ = ["SOURCES", "Band", "Kind", "Source", "Transform", "source"]


def source(name: str, bands: tuple[str, ...] | list[str] | None = None) -> Source:
    """A source by name, restricted to some of its bands where given.

    ``source("sentinel2")`` has the paper's five bands; any of the thirteen can be named.

    Raises:
        ValueError: no such source, or no such band.
    """
    if name not in SOURCES:
        raise ValueError(f"there is no source {name!r}; choose among {', '.join(SOURCES)}")
    if bands is None:
        return SOURCES[name]
    return (sentinel2.FULL if name == "sentinel2" else SOURCES[name]).with_bands(bands)
