"""GEDI L2A: relative heights of the energy return in 25 m lidar footprints; a sparse target."""

from __future__ import annotations

from pipelines.sources.base import Band, Kind, Source

SOURCE = Source(
    name="gedi",
    kind=Kind.POINTS,
    bands=tuple(Band(f"rh{percent}", "metre") for percent in range(101)),
    dtype="float32",
    nodata=float("nan"),
    regrid_px=2,
)
