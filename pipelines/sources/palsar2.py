"""ALOS PALSAR-2, ScanSAR L2.2 and the yearly mosaic: L-band backscatter, an optional target.

The native digital number is an amplitude: gamma0 = 10 log10(DN^2) - 83 dB (JAXA), hence 20 log10(DN) - 83.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, radians, sin

import numpy as np
from numpy.typing import NDArray

from pipelines.scenes import Scene
from pipelines.sources.base import Band, Kind, Source, Transform
from pipelines.sources.facts import label

# Transform.DECIBEL is 10 log10(x): fed the amplitude it gives half the power in decibels. Statistics and the L1 loss
# see an affine copy of gamma0, which z-scoring makes identical.
_HALF_DB_OF_DN = Transform.DECIBEL


# MSK, bits 0 to 2: 1 valid, 5 invalid (Earth Engine's catalog entry of the ScanSAR product).
_MSK_QUALITY, _MSK_VALID = 0b111, 1
# The mosaic's mask: water and land; 100 is layover, 150 shadow, 0 nothing (JAXA's description of the data set).
_MOSAIC_MEASURED = (50, 255)


def trusted(masks: Mapping[str, NDArray]) -> NDArray[np.bool_] | None:
    """True where the product calls the measurement valid; None without its mask."""
    if (msk := masks.get("msk")) is not None:
        return (msk & np.asarray(_MSK_QUALITY, msk.dtype)) == _MSK_VALID
    mosaic = masks.get("mosaic_mask")
    return None if mosaic is None else np.isin(mosaic, _MOSAIC_MEASURED)


def geometry(scene: Scene) -> tuple[float, ...]:
    """Sine and cosine of the flight direction, and the antenna side (1 right, -1 left, 0 unknown)."""
    state = label(scene, "orbit_state")
    side = {"right": 1.0, "left": -1.0}.get(label(scene, "observation_direction"), 0.0)
    if not state:
        return 0.0, 0.0, side
    heading = radians(-10.0 if state == "ascending" else 190.0)
    return sin(heading), cos(heading), side


def acquisition_key(scene: Scene) -> str:
    """Frames of one path."""
    return f"{label(scene, 'relative_orbit', 'path')}_{label(scene, 'orbit_state')}"


SOURCE = Source(
    name="palsar2",
    kind=Kind.FRAMES,
    bands=(
        Band("hh", "digital number", _HALF_DB_OF_DN),
        Band("hv", "digital number", _HALF_DB_OF_DN),
        Band("lin", "degree", Transform.RADIANS),
    ),
    dtype="uint16",
    nodata=0,
    geometry_names=("heading_sin", "heading_cos", "antenna_side"),
    geometry=geometry,
    mask_roles=("msk", "mosaic_mask"),
    trusted=trusted,
    acquisition_key=acquisition_key,
    regrid_px=3,
)
