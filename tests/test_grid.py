from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shapely import box

from pipelines.grid import WGS84, Window, in_degrees, reproject, transformer, unwrap

LAT = -17.0  # Fiji


def across(epsg: int, size_px: int = 256) -> Window:
    """A window whose middle is at 180 degrees."""
    x, y = transformer(WGS84, epsg).transform(180.0, LAT)
    left, top = int(x) // 10 * 10 - size_px * 5, int(y) // 10 * 10 + size_px * 5
    return Window(epsg, left, top, size_px, size_px)


@pytest.mark.parametrize("epsg", [32760, 32701])
def test_a_window_across_180_degrees_has_an_outline_in_two_parts(epsg: int):
    outline = across(epsg).footprint()
    assert outline.is_valid and len(outline.geoms) == 2
    west, _, east, _ = outline.bounds
    assert (west, east) == (-180.0, 180.0)
    assert not outline.intersects(box(-170, -80, 170, 80))
    assert outline.area == pytest.approx(Window(32760, 500_000, 8_120_000, 256, 256).footprint().area, rel=0.02)


def test_elsewhere_an_outline_is_the_plain_reprojection():
    window = Window(32631, 500_000, 5_600_000, 128, 128)
    outline = window.footprint()
    assert outline.geom_type == "Polygon"
    assert outline.contains(reproject(window.polygon().centroid, 32631, WGS84))


@pytest.mark.parametrize("epsg", [32760, 32701, 32631, 32733])
def test_outlines_drawn_together_are_those_drawn_alone(epsg: int):
    """Also where some of them lie across 180 degrees, as the windows of the first two zones here do."""
    middle = across(epsg) if epsg in (32760, 32701) else Window(epsg, 500_000, 5_600_000, 256, 256)
    side = middle.width_px * 10
    windows = [
        [replace(middle, left_m=middle.left_m + col * side, top_m=middle.top_m + row * side) for col in (-2, 0, 2)]
        for row in (0, 1)
    ]
    together = in_degrees(np.array([[window.polygon() for window in line] for line in windows]), epsg, side / 8)
    assert together.shape == (2, 3)
    for line, outlines in zip(windows, together, strict=True):
        for window, outline in zip(line, outlines, strict=True):
            assert outline == window.footprint() and outline.is_valid
    parts = {outline.geom_type for outline in together.flat}
    assert parts == ({"Polygon", "MultiPolygon"} if epsg in (32760, 32701) else {"Polygon"})


def test_unwrapped_longitudes_are_near_the_meridian_and_unchanged_where_they_were():
    np.testing.assert_array_equal(unwrap(np.array([-179.5, 179.5, 170.0]), 177.0), [180.5, 179.5, 170.0])
    np.testing.assert_array_equal(unwrap(np.array([3.1234567890123]), 3.0), [3.1234567890123])
