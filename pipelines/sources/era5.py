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

# Names of each quantity in stores; daily extremes and means end in ENDINGS. ERA5, ERA5-Land, AgERA5, ARCO, and last
# the CF names of era5-pds, one store a variable and month.
SAMPLED = {
    "temperature_2m": ("t2m", "2m_temperature", "temperature_2m", "air_temperature_at_2_metres"),
    "dewpoint_2m": (
        "d2m",
        "2m_dewpoint_temperature",
        "dewpoint_temperature_2m",
        "dewpoint_2m",
        "dew_point_temperature_at_2_metres",
    ),
    "surface_pressure": ("sp", "surface_pressure", "surface_air_pressure"),
}
PRECIPITATION = (
    "tp",
    "total_precipitation",
    "tp_sum",
    "total_precipitation_sum",
    "precipitation_amount_1hour_Accumulation",
)
ENDINGS = ("", "_mean", "_min", "_max")
STORED = frozenset(
    {*PRECIPITATION, *(f"{name}{end}" for names in SAMPLED.values() for name in names for end in ENDINGS)}
)
