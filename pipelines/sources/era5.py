"""ERA5-Land: monthly weather of the cell that a window lies in; a target, never an input."""

from __future__ import annotations

from pipelines.sources.base import Band, Kind, Source

_BANDS = (
    ("total_precipitation", "metre", ("sum", "min", "max")),
    ("temperature_2m", "kelvin", ("mean", "min", "max")),
    ("dewpoint_2m", "kelvin", ("mean", "min", "max")),
    ("surface_pressure", "pascal", ("mean", "min", "max")),
)

SOURCE = Source(
    name="era5",
    kind=Kind.SERIES,
    bands=tuple(Band(f"{quantity}_{statistic}", unit) for quantity, unit, kinds in _BANDS for statistic in kinds),
    dtype="float32",
    nodata=float("nan"),
    max_frames=12,
)
