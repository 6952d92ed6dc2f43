"""Units by name, exactly; what is not known is told instead of taken for SI."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pipelines.coregister.climate import read_climate
from pipelines.coregister.months import aggregate
from pipelines.coregister.units import step_of, to_si
from pipelines.grid import Period
from tests.coregister.files import window
from tests.coregister.test_climate import ERA5, YEAR, by_name, hourly, scene, write

HOUR, DAY = 3600.0, 86_400.0


def array(unit: str | None, name: str = "tp") -> xr.DataArray:
    return xr.DataArray([1.0], dims="time", name=name, attrs={} if unit is None else {"units": unit})


@pytest.mark.parametrize(
    ("unit", "step_s", "metres"),
    [
        ("m", HOUR, 1.0),
        ("m of water equivalent", HOUR, 1.0),
        ("cm", HOUR, 0.01),
        ("mm", HOUR, 0.001),
        ("kg m**-2", HOUR, 0.001),
        ("kg m-2", None, 0.001),
        ("kg m^-2", HOUR, 0.001),
        ("kg/m2", HOUR, 0.001),
        ("mm d-1", DAY, 0.001),
        ("mm/day", DAY, 0.001),
        ("mm/hour", HOUR, 0.001),
        ("mm h-1", DAY, 0.024),
        ("mm s-1", HOUR, 3.6),
        ("kg m**-2 s**-1", HOUR, 3.6),
        ("m/s", HOUR, 3600.0),
        (None, HOUR, 1.0),
    ],
)
def test_water(unit, step_s, metres: float):
    factor, shift = to_si(array(unit), "total_precipitation", None, step_s)
    assert factor == pytest.approx(metres, rel=1e-12) and shift == 0


@pytest.mark.parametrize(
    ("quantity", "unit", "value", "si"),
    [
        ("temperature_2m", "K", 300.0, 300.0),
        ("temperature_2m", "degC", 20.0, 293.15),
        ("dewpoint_2m", "degF", 50.0, 283.15),
        ("dewpoint_2m", "°F", -40.0, 233.15),
        ("surface_pressure", "Pa", 1.0, 1.0),
        ("surface_pressure", "hPa", 1013.0, 101_300.0),
        ("surface_pressure", "kPa", 101.3, 101_300.0),
        ("surface_pressure", "millibar", 1013.0, 101_300.0),
        ("surface_pressure", None, 7.0, 7.0),
    ],
)
def test_temperature_and_pressure(quantity: str, unit, value: float, si: float):
    factor, shift = to_si(array(unit), quantity, None, HOUR)
    assert value * factor + shift == pytest.approx(si, rel=1e-12)


@pytest.mark.parametrize(
    ("quantity", "unit", "step_s"),
    [
        ("total_precipitation", "inch", HOUR),
        ("total_precipitation", "K", HOUR),
        ("total_precipitation", "mm s-1", None),
        ("temperature_2m", "m", HOUR),
        ("surface_pressure", "mm", HOUR),
        ("surface_pressure", "mmHg", HOUR),
    ],
)
def test_anything_else_is_an_error_that_names_variable_unit_and_remedy(quantity: str, unit: str, step_s):
    with pytest.raises(ValueError, match=r"variable v of the store is in .*catalogs\.NAME\.options\.units") as error:
        to_si(array(unit, "v"), quantity, None, step_s)
    assert repr(unit) in str(error.value) and quantity in str(error.value)


def test_the_catalog_helps_where_the_store_says_nothing_that_is_known_and_only_there():
    given = {"tp": "cm"}
    assert to_si(array(None), "total_precipitation", given, HOUR) == (0.01, 0.0)
    assert to_si(array("1"), "total_precipitation", given, HOUR) == (0.01, 0.0)
    assert to_si(array("mm"), "total_precipitation", given, HOUR) == (0.001, 0.0)


def test_the_step_of_an_axis_is_its_usual_one():
    hours = pd.date_range("2020-01-01", periods=48, freq="h").delete(7)
    assert step_of(xr.DataArray(hours, dims="time")) == HOUR
    assert step_of(xr.DataArray(hours[:1], dims="time")) is None


def test_a_store_of_an_unknown_unit_is_unusable_until_the_catalog_says(tmp_path):
    data = hourly()
    data["tp"].attrs["units"], data["sp"].attrs["units"] = "thou", "kPa"
    href = write(data, tmp_path / "a.zarr")
    frames, failures = read_climate([scene(href)], window(), YEAR, ERA5)
    assert (
        frames is None
        and failures[0].kind == "unusable"
        and "variable tp of the store is in 'thou'" in failures[0].reason
    )
    frames, failures = read_climate([scene(href, units={"tp": "mm"})], window(), YEAR, ERA5)
    assert failures == []
    np.testing.assert_allclose(by_name(frames)["total_precipitation_sum"], [31 * 0.024, 29 * 0.024 - 0.001], rtol=1e-6)
    np.testing.assert_allclose(by_name(frames)["surface_pressure_mean"], 1_013_000)
    region, months = (2.8, 50.5, 3.1, 50.7), Period.from_iso("2020-01-01", "2020-03-01")
    with pytest.raises(ValueError, match="'thou'"):
        aggregate(href, str(tmp_path / "b.zarr"), region, months)
    assert aggregate(href, str(tmp_path / "b.zarr"), region, months, units={"tp": "mm"}) == 2
    told, _ = read_climate([scene(str(tmp_path / "b.zarr"))], window(), YEAR, ERA5)
    np.testing.assert_allclose(told.values, frames.values, rtol=1e-6)
