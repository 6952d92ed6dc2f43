"""Units of the climate: what brings variables to metres of water, kelvin and pascal. An unknown one is an error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

_WATER = {
    "m": 1.0,
    "metre": 1.0,
    "metres": 1.0,
    "meter": 1.0,
    "meters": 1.0,
    "m of water": 1.0,
    "m of water equivalent": 1.0,
    "cm": 1e-2,
    "mm": 1e-3,
    "millimetre": 1e-3,
    "millimetres": 1e-3,
    "millimeter": 1e-3,
    "millimeters": 1e-3,
    "mm of water equivalent": 1e-3,
    # A kilogram of water on a square metre stands a millimetre high.
    "kg m-2": 1e-3,
    "kg/m2": 1e-3,
}
# Water in a time: the depth of one step is the rate times the step.
_SECONDS = {
    "s-1": 1.0,
    "/s": 1.0,
    "h-1": 3600.0,
    "hr-1": 3600.0,
    "hour-1": 3600.0,
    "per hour": 3600.0,
    "/h": 3600.0,
    "/hr": 3600.0,
    "/hour": 3600.0,
    "d-1": 86_400.0,
    "day-1": 86_400.0,
    "per day": 86_400.0,
    "/d": 86_400.0,
    "/day": 86_400.0,
}
_RATES = {
    f"{depth}{'' if per.startswith('/') else ' '}{per}": (metres, seconds)
    for depth, metres in _WATER.items()
    for per, seconds in _SECONDS.items()
}
_TEMPERATURE = {
    **dict.fromkeys(("k", "kelvin", "kelvins", "degk"), (1.0, 0.0)),
    **dict.fromkeys(
        (
            "c",
            "degc",
            "deg c",
            "celsius",
            "°c",
            "degree_celsius",
            "degrees_celsius",
            "degree celsius",
            "degrees celsius",
        ),
        (1.0, 273.15),
    ),
    **dict.fromkeys(
        ("f", "degf", "deg f", "fahrenheit", "°f", "degree_fahrenheit", "degrees_fahrenheit", "degrees fahrenheit"),
        (5 / 9, 273.15 - 32 * 5 / 9),
    ),
}
_PRESSURE = {
    **dict.fromkeys(("pa", "pascal", "pascals"), 1.0),
    **dict.fromkeys(("hpa", "hectopascal", "hectopascals", "mbar", "mb", "millibar", "millibars"), 100.0),
    **dict.fromkeys(("kpa", "kilopascal", "kilopascals"), 1000.0),
    "bar": 100_000.0,
}


def to_si(
    array: xr.DataArray, quantity: str, units: Mapping[str, str] | None, step_s: float | None
) -> tuple[float, float]:
    """Factor and summand that bring an array to metres, kelvin or pascal.

    The unit is the array's own, or what ``units`` says of it where it has none or one that is not known here. An array
    without any is in metres, kelvin or pascal, as ECMWF's are.

    Args:
        array: with its name and attributes.
        quantity: total_precipitation, temperature_2m, dewpoint_2m or surface_pressure.
        units: by variable, what the catalog says.
        step_s: seconds from one sample to the next, for rates; None: not known.

    Raises:
        ValueError: the unit is not known, or a rate without the step that it holds for.
    """
    stated = [said for said in (array.attrs.get("units"), (units or {}).get(str(array.name))) if said not in (None, "")]
    if not stated:
        return 1.0, 0.0
    for said in stated:
        found = _meaning(_plain(str(said)), quantity, step_s)
        if found is not None:
            return found
    raise ValueError(
        f"variable {array.name} of the store is in {' or '.join(repr(str(said)) for said in stated)}, which is no unit "
        f"of {quantity} known here{' or a rate without a regular step' if _is_rate(stated) else ''}; name one in "
        f"catalogs.NAME.options.units, as {{{array.name}: {_EXAMPLES.get(quantity, 'K')}}}"
    )


def step_of(time: xr.DataArray) -> float | None:
    """Seconds from one sample to the next, the usual distance on a time axis; None for a single moment."""
    moments = pd.DatetimeIndex(time.to_numpy())
    return float(np.median(np.diff(moments.to_numpy()) / np.timedelta64(1, "s"))) if len(moments) > 1 else None


_EXAMPLES = {"total_precipitation": "mm", "surface_pressure": "hPa"}


def _meaning(unit: str, quantity: str, step_s: float | None) -> tuple[float, float] | None:
    if quantity == "total_precipitation":
        if unit in _RATES and step_s is not None:
            metres, seconds = _RATES[unit]
            return metres * step_s / seconds, 0.0
        return (_WATER[unit], 0.0) if unit in _WATER else None
    if quantity == "surface_pressure":
        return (_PRESSURE[unit], 0.0) if unit in _PRESSURE else None
    return _TEMPERATURE.get(unit)


def _is_rate(stated: list[str]) -> bool:
    return any(_plain(str(said)) in _RATES for said in stated)


def _plain(unit: str) -> str:
    """One spelling: small letters, single spaces, powers without a sign (``kg m**-2``, ``kg m^-2``, ``kg·m-2``)."""
    for sign, instead in (("**", ""), ("^", ""), ("·", " "), ("⁻¹", "-1"), ("⁻²", "-2"), ("²", "2")):
        unit = unit.replace(sign, instead)
    return " ".join(unit.lower().split())
