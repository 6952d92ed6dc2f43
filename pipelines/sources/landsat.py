"""Landsat 8 and 9: optical at 30 m, panchromatic at 15 m, thermal, every eight days.

Pixel edges lie at 15 m modulo 30 m, half a pixel off the Sentinel-2 grid.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.scenes import Scene
from pipelines.sources.base import Band, Kind, Source, Transform
from pipelines.sources.facts import fact, label, number

# Bits of QA_PIXEL (USGS Collection 2): fill, dilated cloud, cirrus, cloud, cloud shadow. Snow (5) stays in: SPEC 1.2
# masks clouds and their shadows only. 0 never occurs in the product: it marks pixels outside the file.
QA_DROP = 0b11111


def trusted(masks: Mapping[str, NDArray]) -> NDArray[np.bool_] | None:
    """True where QA_PIXEL reports neither fill nor any cloud or shadow; None without it."""
    qa = masks.get("qa_pixel")
    return None if qa is None else (qa != 0) & ((qa & np.asarray(QA_DROP, qa.dtype)) == 0)


def keep(scene: Scene) -> bool:
    """Refuses night scenes: the sun below the horizon, or, where no sun is stated, an ascending pass."""
    sun = number(scene, "sun_elevation", "view:sun_elevation", "sun_elevation_deg")
    if sun is not None:
        return sun > 0
    return label(scene, "orbit_state") != "ascending"


def acquisition_key(scene: Scene) -> str:
    """Rows of one path overlap: those of one pass are one frame."""
    path = fact(scene, "wrs_path", "landsat:wrs_path")
    return f"{label(scene, 'platform')}_{'' if path is None else int(str(path))}"


def rank(scene: Scene, epsg: int) -> tuple[float, ...]:
    """SPEC 1.2: of overlapping rows the one whose UTM central longitude is closest, then the most recent."""
    zones = {asset.epsg % 100 for asset in scene.assets.values() if asset.epsg is not None}
    own = epsg % 100
    steps = min((min((zone - own) % 60, (own - zone) % 60) for zone in zones), default=30)
    return steps, -scene.time_ms


_OPTICAL = ("blue", "green", "red", "nir08", "swir16", "pan")

SOURCE = Source(
    name="landsat",
    kind=Kind.FRAMES,
    bands=(
        # The paper does not say which scale it logs; the same as Sentinel-2, so that one reflectance is one number.
        *(Band(name, "reflectance", Transform.LOG, factor=10_000.0) for name in _OPTICAL),
        Band("lwir11", "kelvin", valid=(100.0, 400.0)),
    ),
    dtype="uint16",
    nodata=0,
    is_input=True,
    mask_roles=("qa_pixel",),
    trusted=trusted,
    keep=keep,
    acquisition_key=acquisition_key,
    rank=rank,
    regrid_px=3,
    max_frames=21,
)
