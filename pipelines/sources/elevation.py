"""Copernicus GLO-30: elevation, with slope and aspect computed after projection; a target that holds for all times."""

from __future__ import annotations

from pipelines.scenes import Scene
from pipelines.sources.base import Band, Kind, Source

FILE_BAND = "elevation"


def acquisition_key(scene: Scene) -> str:
    """All tiles together are one frame."""
    return scene.collection


SOURCE = Source(
    name="elevation",
    kind=Kind.STATIC,
    bands=(
        Band(FILE_BAND, "metre"),
        Band("slope_sin", "1"),
        Band("slope_cos", "1"),
        Band("aspect_sin", "1"),
        Band("aspect_cos", "1"),
    ),
    dtype="float32",
    nodata=-32768.0,
    acquisition_key=acquisition_key,
    regrid_px=3,
)
