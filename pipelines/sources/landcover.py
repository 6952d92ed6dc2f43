"""Annual maps of land cover: class codes; targets with a reduced weight (SPEC 3.1, v2.1).

``landcover`` is any map with a legend of the configuration, ESA WorldCover by default; maps that may be wanted beside
one another have modules of their own (:mod:`nlcd`, :mod:`cdl`, :mod:`worldcover`), made by :func:`class_map`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pipelines.scenes import Scene
from pipelines.sources.base import Band, Kind, Source

BAND = "land_cover"

# ESA WorldCover codes (product user manual v200, table 4).
WORLDCOVER = {
    10: "tree cover",
    20: "shrubland",
    30: "grassland",
    40: "cropland",
    50: "built-up",
    60: "bare or sparse vegetation",
    70: "snow and ice",
    80: "permanent water",
    90: "herbaceous wetland",
    95: "mangroves",
    100: "moss and lichen",
}


def acquisition_key(scene: Scene) -> str:
    """Tiles of one edition of the map are one frame."""
    return f"{scene.collection}_{scene.valid_ms[0]}_{scene.valid_ms[1]}"


def class_map(name: str, legend: Mapping[int, str]) -> Source:
    """A map of classes as a target.

    Raises:
        ValueError: a code outside 1..255 (0 is nodata).
    """
    return with_classes(
        Source(
            name=name,
            kind=Kind.CLASSES,
            bands=(Band(BAND, "class"),),
            dtype="uint8",
            nodata=0,
            acquisition_key=acquisition_key,
            metric="cross_entropy",
            loss_weight=0.25,
            regrid_px=3,
        ),
        legend,
    )


def with_classes(source: Source, legend: Mapping[int, str]) -> Source:
    """A map with another legend.

    Raises:
        ValueError: a code outside 1..255 (0 is nodata).
    """
    for code in legend:
        if not 0 < code < 256:
            raise ValueError(f"land-cover code {code} ({legend[code]!r}) is outside 1..255; 0 is kept for nodata")
    codes = tuple(sorted(legend))
    return replace(source, classes=codes, class_names=tuple(legend[code] for code in codes))


SOURCE = class_map("landcover", WORLDCOVER)
