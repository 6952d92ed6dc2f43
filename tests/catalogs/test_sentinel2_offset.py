"""The one place that decides on Sentinel-2's offset: each provider's case, and that reflectance shows no step."""

from __future__ import annotations

import pytest

from pipelines.catalogs import UnusableItem
from pipelines.catalogs.normalise import scene_assets
from pipelines.catalogs.sentinel2 import (
    SCALE,
    already_applied,
    asset_keys,
    effective_offset,
    effective_scale,
    processing_baseline,
    relative_orbit,
)
from pipelines.sources import source


@pytest.mark.parametrize(
    ("case", "baseline", "applied", "stated", "offset"),
    [
        ("Earth Search v1, offset already in the COG", (5, 11), True, -0.1, 0.0),
        ("Earth Search v1, offset not in the COG", (4, 0), False, -0.1, -0.1),
        ("Earth Search v1 before 04.00", (2, 14), False, 0.0, 0.0),
        ("Earth Search v1 before 04.00, template copied", (3, 1), False, -0.1, 0.0),
        ("Earth Search Collection 1", (5, 11), None, -0.1, -0.1),
        ("Earth Search v0, offset in the COG", (5, 11), True, None, 0.0),
        ("Planetary Computer before 04.00", (2, 12), None, None, 0.0),
        ("Planetary Computer at 04.00", (4, 0), None, None, -0.1),
        ("Planetary Computer after 04.00", (5, 10), None, None, -0.1),
        ("CDSE", (5, 11), None, -0.1, -0.1),
        ("Sen2Cor run by a user, raster:bands without offset", (99, 99), False, 0.0, 0.0),
        ("Sen2Cor run by a user, raster:bands with offset", (99, 99), None, -0.1, -0.1),
        ("baseline not told, offset stated", None, None, -0.1, -0.1),
    ],
)
def test_effective_offset(case, baseline, applied, stated, offset):
    assert effective_offset(baseline=baseline, already_applied=applied, stated=stated) == offset


@pytest.mark.parametrize("baseline", [None, (99, 99)])
def test_an_offset_that_nothing_decides_is_not_guessed(baseline):
    with pytest.raises(UnusableItem, match="offset unknown"):
        effective_offset(baseline=baseline, already_applied=None, stated=None)


@pytest.mark.parametrize("stated", [-1000.0, 1000.0, 1.0])
def test_an_offset_in_digital_numbers_is_refused(stated):
    with pytest.raises(UnusableItem, match="offset of the item is no reflectance"):
        effective_offset(baseline=(5, 9), already_applied=None, stated=stated)


@pytest.mark.parametrize(("stated", "scale"), [(None, 1e-4), (1e-4, 1e-4), (5e-5, 5e-5)])
def test_scales_of_reflectance(stated, scale):
    assert effective_scale(stated) == scale


@pytest.mark.parametrize("stated", [1.0, 0.0, 10_000.0, -1e-4])
def test_a_scale_that_gives_no_reflectance_is_refused(stated):
    with pytest.raises(UnusableItem, match="scale of the item"):
        effective_scale(stated)


@pytest.mark.parametrize(
    ("said", "applied"), [("false", False), ("False", False), (False, False), ("true", True), (True, True)]
)
def test_a_flag_may_be_written_as_text(said, applied):
    item = {"properties": {"earthsearch:boa_offset_applied": said}}
    assert already_applied(item, "https://sentinel-cogs.s3.us-west-2.amazonaws.com/B04.tif") is applied


def test_one_ground_has_one_reflectance_on_both_sides_of_the_change():
    """A field of reflectance 0.0732 as each producer stores it."""
    stored = {
        732: effective_offset(baseline=(3, 1), already_applied=None, stated=None),
        1732: effective_offset(baseline=(4, 0), already_applied=None, stated=None),
    }
    stored_by_earth_search = {732: effective_offset(baseline=(4, 0), already_applied=True, stated=-0.1)}
    for number, offset in (*stored.items(), *stored_by_earth_search.items()):
        assert number * SCALE + offset == pytest.approx(0.0732)


def test_baseline_from_whatever_tells_it():
    assert processing_baseline({"properties": {"s2:processing_baseline": "05.11"}}) == (5, 11)
    assert processing_baseline({"properties": {"s2:processing_baseline": "99.99"}}) == (99, 99)
    product = "S2A_MSIL2A_20200714T115221_N0214_R123_T28QCH_20200714T191310"
    assert processing_baseline({"properties": {"sentinel:product_id": product}}) == (2, 14)
    assert relative_orbit({"properties": {"s2:product_uri": product + ".SAFE"}}) == 123
    assert processing_baseline({"id": "S2A_31UES_20200714_0_L2A", "properties": {}}) is None


def test_the_flag_is_none_where_a_catalog_has_none():
    cog = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/20/E/PT/2025/7/S2B/B02.tif"
    assert already_applied({"properties": {}}, cog) is None
    assert already_applied({"properties": {"earthsearch:boa_offset_applied": False}}, cog) is False
    assert already_applied({"properties": {"sentinel:boa_offset_applied": True}}, cog) is True


@pytest.mark.parametrize(
    "href",
    [
        "s3://sentinel-s2-l2a/tiles/20/E/PT/2025/7/31/0/R10m/B02.jp2",
        "https://sentinel-s2-l2a.s3.amazonaws.com/tiles/20/E/PT/2025/7/31/0/R10m/B02.jp2",
        "https://s3.eu-central-1.amazonaws.com/sentinel-s2-l1c/tiles/20/E/PT/2025/7/31/0/B02.jp2",
        "s3://eodata/Sentinel-2/MSI/L2A/2025/07/31/B02_10m.jp2",
    ],
)
def test_the_flag_is_about_the_catalogs_copies_and_not_the_producers_files(href):
    """One item of Earth Search v1 names both; only its COG has had the offset added."""
    flagged = {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.11"}
    band = {"raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 1e-4, "offset": -0.1}]}
    cog = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/20/E/PT/2025/7/S2B/B02.tif"
    for address, offset in ((href, -0.1), (cog, 0.0)):
        item = {"id": "x", "properties": flagged, "assets": {"blue": {"href": address, **band}}}
        assert scene_assets(item, source("sentinel2"))["blue"].offset == offset


def test_of_several_resolutions_the_sampled_one_is_first():
    assert asset_keys("coastal") == ("coastal", "B01", "B01_60m", "B01_10m", "B01_20m")
    assert asset_keys("red")[:3] == ("red", "B04", "B04_10m")
    assert asset_keys("swir16")[:3] == ("swir16", "B11", "B11_20m")
    assert asset_keys("nir08")[:3] == ("nir08", "B8A", "B8A_20m")
