"""Sentinel-2: optical, 13 bands at 10, 20 and 60 m, every five days.

SPEC 1.2 uses five bands; the founding explainer thirteen. Both are bands of one source: ``with_bands`` picks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.grid import parse_time_ms
from pipelines.scenes import Scene
from pipelines.sources.base import Band, Kind, Source, Transform
from pipelines.sources.facts import day, fact, label, minute, number

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


# Per cent; the paper's Cloud Score+ threshold of 0.5, for catalogs that have a cloud probability (Earth Search c1).
CLOUD_DROP = 50

# Reflectance below this, in this share of the pixels, is no measurement: an offset was subtracted twice.
IMPOSSIBLE, IMPOSSIBLE_SHARE = -0.05, 0.01
_SAMPLE_PX = 4
_LEAST_PX = 64


def trusted(masks: Mapping[str, NDArray]) -> NDArray[np.bool_] | None:
    """True where neither the scene classification nor the cloud probability hides the ground; None without both."""
    scl, cloud = masks.get("scl"), masks.get("cloud")
    clear = None if scl is None else ~np.isin(scl, SCL_DROP)
    if cloud is None:
        return clear
    return cloud < CLOUD_DROP if clear is None else clear & (cloud < CLOUD_DROP)


def contradiction(values: NDArray, scale: NDArray[np.float64], offset: NDArray[np.float64]) -> str | None:
    """Dark pixels that show that an offset is in the numbers already, although the catalog asks to add it.

    Water and shadow reflect next to nothing: with the offset of -0.1 added a second time they come out near -0.1.
    """
    for band, a, b in zip(values, scale, offset, strict=True):
        if b >= 0:
            continue
        sample = band[::_SAMPLE_PX, ::_SAMPLE_PX]
        sample = sample[sample != 0]
        share = float((sample < (IMPOSSIBLE - b) / a).mean()) if sample.size >= _LEAST_PX else 0.0
        if share > IMPOSSIBLE_SHARE:
            return (
                f"{share:.0%} of the pixels have a reflectance below {IMPOSSIBLE} with the offset {b:g} that the "
                "catalog states: it is in the numbers already"
            )
    return None


def rank(scene: Scene, epsg: int) -> tuple[float, ...]:
    """The latest processing of a tile first; 99.99 is a user's own and says nothing."""
    baseline = number(scene, "processing_baseline", "s2:processing_baseline") or 0.0
    generated = fact(scene, "generated")
    return -baseline if baseline < 99 else 0.0, -parse_time_ms(str(generated)) if generated else 0.0


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
    mask_roles=("scl", "cloud"),
    trusted=trusted,
    acquisition_key=acquisition_key,
    rank=rank,
    contradiction=contradiction,
    shift_px=2,
    max_frames=65,
)

SOURCE = FULL.with_bands(PAPER_BANDS)
