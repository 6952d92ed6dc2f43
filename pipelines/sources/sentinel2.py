"""Sentinel-2: optical, 13 bands at 10, 20 and 60 m, every five days.

SPEC 1.2 uses five bands; the founding explainer thirteen. Both are bands of one source: ``with_bands`` picks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.scenes import Scene
from pipelines.sources.base import Band, Kind, Source, Transform
from pipelines.sources.facts import day, label, minute

ALL_BANDS = (
    "coastal",
    "blue",
    "green",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "nir",
    "nir08",
    "nir09",
    "cirrus",
    "swir16",
    "swir22",
)
PAPER_BANDS = ("blue", "green", "red", "nir", "swir16")

# Scene classification codes that do not count in the loss: nodata, saturated, cloud shadow, cloud medium and high
# probability, thin cirrus, snow.
SCL_DROP = (0, 1, 3, 8, 9, 10, 11)


def trusted(masks: Mapping[str, NDArray]) -> NDArray[np.bool_] | None:
    """True where the scene classification calls the ground visible; None without a classification."""
    scl = masks.get("scl")
    return None if scl is None else ~np.isin(scl, SCL_DROP)


def acquisition_key(scene: Scene) -> str:
    """One datatake seen through overlapping tiles and zones is one frame.

    Without a datatake id, platform, relative orbit and date stand for it: a platform flies a relative orbit once in
    ten days. Without an orbit, the minute: pieces of one place lie seconds apart.
    """
    datatake = label(scene, "datatake", "s2:datatake_id", "datatake_id")
    if datatake:
        # GS2A_20200601T105031_025819_N02.14: the last part is the baseline, not the datatake.
        return "_".join(datatake.split("_")[:3])
    orbit = label(scene, "relative_orbit")
    platform = label(scene, "platform")
    return f"{platform}_{orbit}_{day(scene) if orbit and platform else minute(scene)}"


FULL = Source(
    name="sentinel2",
    kind=Kind.FRAMES,
    # Log of the digital number: reflectance x 10000, which is what the instrument team ships.
    bands=tuple(Band(name, "reflectance", Transform.LOG, factor=10_000.0) for name in ALL_BANDS),
    dtype="uint16",
    nodata=0,
    is_input=True,
    mask_roles=("scl",),
    trusted=trusted,
    acquisition_key=acquisition_key,
    shift_px=2,
    max_frames=65,
)

SOURCE = FULL.with_bands(PAPER_BANDS)
