"""Sentinel-1: C-band radar backscatter, one or two polarisations a scene, with the incidence angle beside them.

The native numbers are linear power (Planetary Computer's RTC product); decibels are this source's model space.
"""

from __future__ import annotations

from math import cos, radians, sin

from pipelines.scenes import Scene
from pipelines.sources.base import Band, Kind, Source, Transform
from pipelines.sources.facts import label, number

# Platform heading at mid latitudes, degrees clockwise from north, and inclination of the sun-synchronous orbit
# (Sentinel-1 product guide: 98.18 degrees).
HEADING_DEG = {"ascending": -13.0, "descending": 193.0}
INCLINATION_DEG = 98.18

# SPEC 1.2: values below -30 dB or above 10 dB are masked.
VALID_DB = (-30.0, 10.0)


def geometry(scene: Scene) -> tuple[float, ...]:
    """Sine and cosine of the platform heading, orbital inclination in radians; zeros where the pass is unknown."""
    heading = number(scene, "platform_heading", "heading")
    if heading is None:
        heading = HEADING_DEG.get(label(scene, "orbit_state", "sat:orbit_state"))
    inclination = number(scene, "inclination", "orbital_inclination")
    inclination_rad = radians(INCLINATION_DEG if inclination is None else inclination)
    if heading is None:
        return 0.0, 0.0, inclination_rad
    return sin(radians(heading)), cos(radians(heading)), inclination_rad


def acquisition_key(scene: Scene) -> str:
    """Slices of one pass are one frame: platform, orbit and its direction."""
    return "_".join(label(scene, name) for name in ("platform", "relative_orbit", "orbit_state"))


SOURCE = Source(
    name="sentinel1",
    kind=Kind.FRAMES,
    bands=(
        *(Band(name, "linear power", Transform.DECIBEL, valid=VALID_DB) for name in ("vv", "vh", "hh", "hv")),
        Band("angle", "degree", Transform.RADIANS),
    ),
    dtype="float32",
    nodata=-32768.0,
    # No echo is without power: border noise that was cut away, and corners of files that nobody filled with nodata.
    unmeasured=(0.0,),
    is_input=True,
    geometry_names=("heading_sin", "heading_cos", "inclination_rad"),
    geometry=geometry,
    acquisition_key=acquisition_key,
    shift_px=2,
    max_frames=17,
)
