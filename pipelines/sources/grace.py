"""GRACE and GRACE-FO: liquid water equivalent thickness, monthly and far coarser than a window; an optional target."""

from __future__ import annotations

from pipelines.sources.base import Band, Kind, Source

SOURCE = Source(
    name="grace",
    kind=Kind.SERIES,
    bands=(Band("lwe_thickness", "centimetre"),),
    dtype="float32",
    nodata=float("nan"),
    loss_weight=0.5,
    regrid_px=128,
    max_frames=12,
)
