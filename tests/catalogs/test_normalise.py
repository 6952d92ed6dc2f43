"""Items of every STAC version and provider style to scenes, on small items made for one question each."""

from __future__ import annotations

import pytest
from shapely import Point, box

from pipelines.catalogs import UnusableItem, normalise
from pipelines.catalogs.base import SceneSearch
from pipelines.catalogs.items import collect
from pipelines.catalogs.normalise import scene_assets
from pipelines.catalogs.stac_fields import absolute, grid, interval_ms, stored
from pipelines.grid import Period, parse_time_ms
from pipelines.sources import source

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}


def item(assets, collection="c", geometry=SQUARE, **properties):
    properties = {"datetime": "2020-05-01T10:00:00.250Z", **properties}
    return {"id": "x", "collection": collection, "geometry": geometry, "properties": properties, "assets": assets}


BASELINE = {"s2:processing_baseline": "02.14"}


@pytest.mark.parametrize(
    ("asset", "expected"),
    [
        ({"raster:bands": [{"data_type": "uint16", "nodata": 0, "scale": 2.0, "offset": 3.0}]}, ("uint16", 0, 2, 3)),
        ({"data_type": "int16", "nodata": -1, "raster:scale": 2.0, "raster:offset": 3.0}, ("int16", -1, 2, 3)),
        ({"bands": [{"data_type": "uint8", "raster:scale": 2.0}], "nodata": 7}, ("uint8", 7, 2, 0)),
        ({"bands": [{"name": "B02"}], "data_type": "uint16", "raster:scale": 0.5}, ("uint16", None, 0.5, 0)),
        ({"raster:bands": [{"data_type": "uint16"}]}, ("uint16", None, None, None)),
        ({}, (None, None, None, None)),
    ],
)
def test_stored_numbers_of_raster_extension_1_and_2(asset, expected):
    numbers = stored(asset)
    assert (numbers.dtype, numbers.nodata, numbers.scale, numbers.offset) == expected


def ways_to_say(epsg, transform, shape, numbers):
    """Item properties and asset fields that say the same in each pair of versions of the two extensions."""
    old_place, new_place = {"proj:epsg": epsg}, {"proj:code": f"EPSG:{epsg}"}
    size = {"proj:transform": transform, "proj:shape": shape}
    old = {"raster:bands": [numbers]}
    plain = {name: numbers[name] for name in ("data_type", "nodata")}
    scaled = {f"raster:{name}": numbers[name] for name in ("scale", "offset")}
    band = {"bands": [{"name": "B04", **plain, **scaled}]}
    mixed = {"bands": [{"name": "B04", **scaled}], **plain}
    for version, place, raster in (
        ("1.0.0", old_place, old),
        ("1.0.0", old_place, {**plain, **scaled}),
        ("1.1.0", new_place, {**plain, **scaled}),
        ("1.1.0", new_place, band),
        ("1.1.0", new_place, mixed),
        ("1.1.0", new_place, old),
    ):
        yield version, place, {**size, **raster}
        yield version, {**place, **size}, raster  # the grid on the item
        yield version, {}, {**place, **size, **raster}  # and all of it on the asset


def test_every_version_of_stac_and_its_extensions_gives_the_same_scene():
    numbers = {"data_type": "uint16", "nodata": 0, "scale": 1e-4, "offset": -0.1}
    found = []
    for version, properties, fields in ways_to_say(32631, [10, 0, 600000, 0, -10, 5700000], [10980, 5490], numbers):
        served = item(
            {"red": {"href": "https://h/r.tif", **fields}}, **properties, **{"s2:processing_baseline": "05.09"}
        )
        found.append(normalise({**served, "stac_version": version}, source("sentinel2"), "cat"))
    assert len(found) == 18
    red = found[0].assets["red"]
    assert (red.epsg, red.transform, red.shape) == (32631, (10, 0, 600000, 0, -10, 5700000), (10980, 5490))
    assert (red.dtype, red.nodata, red.scale, red.offset) == ("uint16", 0, 1e-4, -0.1)
    assert all(one == found[0] for one in found)


def test_a_nodata_of_nan_written_as_text():
    assert stored({"nodata": "nan"}).nodata != stored({"nodata": "nan"}).nodata


@pytest.mark.parametrize(
    ("properties", "asset", "expected"),
    [
        ({"proj:epsg": 32631}, {}, 32631),
        ({"proj:code": "EPSG:32631"}, {}, 32631),
        ({"proj:epsg": 32631}, {"proj:code": "EPSG:32632"}, 32632),
        ({"proj:code": "EPSG:32631"}, {"proj:epsg": 32632}, 32632),
        ({"proj:code": "IAU_2015:30100"}, {}, None),
        ({"proj:epsg": 32631}, {"proj:epsg": None}, None),
        ({}, {}, None),
    ],
)
def test_crs_of_projection_extension_1_and_2(properties, asset, expected):
    assert grid(item({}, **properties), asset).epsg == expected


def test_transform_and_shape_come_from_one_level():
    on_item = {"proj:transform": [30, 0, 15, 0, -30, 15, 0, 0, 1], "proj:shape": [10, 20]}
    inherited = grid(item({}, **on_item), {})
    assert (inherited.transform, inherited.shape) == ((30, 0, 15, 0, -30, 15), (10, 20))
    own = grid(item({}, **on_item), {"proj:shape": [20, 40]})
    assert (own.transform, own.shape) == (None, (20, 40))


@pytest.mark.parametrize(
    ("start", "end", "half_open_end"),
    [
        ("2020-01-01T00:00:00Z", "2020-12-31T23:59:59Z", "2021-01-01T00:00:00Z"),
        ("2020-01-01T00:00:00Z", "2020-12-31T23:59:59.999Z", "2021-01-01T00:00:00Z"),
        ("2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z", "2021-01-01T00:00:00Z"),
        ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z", "2020-01-01T00:00:01Z"),
    ],
)
def test_an_inclusive_end_becomes_a_half_open_one(start, end, half_open_end):
    found = interval_ms(item({}, start_datetime=start, end_datetime=end))
    assert found == (parse_time_ms(start), parse_time_ms(half_open_end))


def test_an_annual_map_holds_for_its_year():
    annual = item(
        {"map": {"href": "https://a/m.tif", "data_type": "uint8"}},
        datetime=None,
        start_datetime="2020-01-01T00:00:00Z",
        end_datetime="2020-12-31T23:59:59Z",
    )
    scene = normalise(annual, source("landcover"), "cat")
    assert Period(*scene.valid_ms) == Period.calendar_year(2020)
    assert scene.time_ms == parse_time_ms("2020-07-02T00:00:00Z")
    assert list(scene.assets) == list(source("landcover").band_names)


def test_an_acquisition_is_an_instant_whatever_interval_it_is_given():
    day = {"start_datetime": "2020-05-01T00:00:00Z", "end_datetime": "2020-05-01T23:59:59Z"}
    scene = normalise(item({"blue": {"href": "/b.tif"}}, **day, **BASELINE), source("sentinel2"), "cat")
    assert scene.time_ms == parse_time_ms("2020-05-01T10:00:00.250Z")
    assert scene.valid_ms == (scene.time_ms, scene.time_ms + 1)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (item({"blue": {"href": "/b.tif"}}, geometry=None, **BASELINE), "no geometry"),
        (item({"blue": {"href": "/b.tif"}}, geometry={"type": "Polygon", "coordinates": []}, **BASELINE), "empty"),
        (item({"thumbnail": {"href": "/b.png"}}, **BASELINE), "no asset"),
        (item({"scl": {"href": "/scl.tif"}}, **BASELINE), "no asset"),
        (item({}, **BASELINE), "no asset"),
        (item({"blue": {"href": "/b.tif"}}, datetime=None, **BASELINE), "neither datetime"),
        (item({"blue": {"href": "/b.tif"}}), "offset unknown"),
    ],
)
def test_items_that_cannot_be_used_say_why_without_naming_themselves(broken, reason):
    with pytest.raises(UnusableItem, match=reason) as error:
        normalise(broken, source("sentinel2"), "cat")
    assert "x" != str(error.value) and "'x'" not in str(error.value)


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"platform": "landsat-8", "landsat:collection_category": "T1"}, None),
        ({"platform": "LANDSAT_9", "landsat:collection_category": "T1"}, None),
        ({"platform": "landsat-8"}, None),
        ({"landsat:collection_category": "T1"}, None),
        ({}, None),
        ({"platform": "landsat-7", "landsat:collection_category": "T1"}, "landsat-7 is not Landsat 8 or 9"),
        ({"platform": "LANDSAT_5"}, "landsat-5 is not"),
        ({"platform": "Landsat 4"}, "landsat-4 is not"),
        ({"platform": "landsat-9", "landsat:collection_category": "T2"}, "category T2 is not Tier 1"),
        ({"platform": "landsat-8", "landsat:collection_category": "RT"}, "category RT is not Tier 1"),
    ],
)
def test_landsat_is_8_or_9_of_tier_1_where_the_item_says_so(properties, reason):
    one = item({"red": {"href": "/r.tif"}}, "landsat-c2-l2", **properties)
    if reason is None:
        assert normalise(one, source("landsat"), "cat").assets["red"].href == "/r.tif"
        return
    with pytest.raises(UnusableItem, match=reason):
        normalise(one, source("landsat"), "cat")


@pytest.mark.parametrize(
    ("name", "platform", "refused"),
    [
        ("landsat", "sentinel-2a", True),
        ("sentinel2", "LANDSAT_8", True),
        ("sentinel1", "Sentinel-2B", True),
        ("sentinel2", "Sentinel-2C", False),
        ("sentinel2", "S2A", False),
        ("sentinel2", None, False),
    ],
)
def test_items_of_another_satellite_are_refused(name, platform, refused):
    bands = {"sentinel1": "vv"}.get(name, "red")
    one = item({bands: {"href": "/r.tif"}}, **{"platform": platform, "s2:processing_baseline": "05.00"})
    if not refused:
        assert normalise(one, source(name), "cat").assets[bands].href == "/r.tif"
        return
    with pytest.raises(UnusableItem, match=f"item of {platform}, which is no satellite of source {name}"):
        normalise(one, source(name), "cat")


def test_refused_landsat_scenes_are_counted_by_reason():
    kinds = [("a", "landsat-8", "T1"), ("b", "landsat-7", "T1"), ("c", "landsat-7", "T2"), ("d", "landsat-9", "T2")]
    items = []
    for name, platform, tier in kinds:
        one = item({"red": {"href": "/r.tif"}}, **{"platform": platform, "landsat:collection_category": tier})
        items.append(({**one, "id": name}, None))
    found = SceneSearch()
    collect(found, items, source("landsat"), "cat", box(0, 0, 1, 1), None)
    assert [scene.scene_id for scene in found] == ["a"]
    assert found.refused == {"landsat-7 is not Landsat 8 or 9": 2, "collection category T2 is not Tier 1": 1}


def test_quality_masks_are_never_scaled():
    given = {"B04": {"href": "/r.tif"}, "SCL": {"href": "/scl.tif", "raster:scale": 1e-4, "raster:offset": -0.1}}
    assets = scene_assets(item(given, **{"s2:processing_baseline": "05.00"}), source("sentinel2"))
    assert (assets["red"].scale, assets["red"].offset) == (1e-4, -0.1)
    assert (assets["scl"].scale, assets["scl"].offset) == (1.0, 0.0)


def test_landsat_without_stated_scales():
    given = {"SR_B4": {"href": "/4"}, "ST_B10": {"href": "/10"}, "QA_PIXEL": {"href": "/q"}}
    level_2 = scene_assets(item(given, **{"landsat:processing_level": "L2SP"}), source("landsat"))
    assert (level_2["red"].scale, level_2["red"].offset) == (2.75e-5, -0.2)
    assert (level_2["lwir11"].scale, level_2["lwir11"].offset) == (0.00341802, 149.0)
    assert (level_2["qa_pixel"].scale, level_2["qa_pixel"].offset) == (1.0, 0.0)
    given = {"red": {"href": "/4"}, "lwir11": {"href": "/10"}}
    level_1 = scene_assets(item(given, **{"landsat:correction": "L1TP", "view:sun_elevation": 30.0}), source("landsat"))
    # The sun at 30 degrees lights the ground with half its strength: the sine of its elevation.
    assert (level_1["red"].scale, level_1["red"].offset) == (pytest.approx(4e-5), pytest.approx(-0.2))
    assert "lwir11" not in level_1  # radiance, which no scale brings to kelvin


def test_radar_needs_a_map_grid():
    given = {"vv": {"href": "/vv.tif"}, "angle": {"href": "/angle.tif"}}
    assert set(scene_assets(item(given, **{"proj:epsg": 32631}), source("sentinel1"))) == {"vv", "angle"}
    for place in ({"proj:epsg": 4326}, {}):
        with pytest.raises(UnusableItem, match="without a map grid"):
            scene_assets(item(given, **place), source("sentinel1"))


def test_zarr_stores():
    one = {"zarr": {"href": "a.zarr", "type": "application/vnd+zarr", "xarray:open_kwargs": {"consolidated": True}}}
    assets = scene_assets(item(one), source("era5"), base="https://host/items/x.json")
    assert assets["store"].href == "https://host/items/a.zarr"
    assert assets["store"].extra["open_kwargs"] == {"consolidated": True}
    many = {
        "t2m": {"href": "https://h/ERA5/t2m.zarr", "type": "application/vnd+zarr"},
        "sp": {"href": "https://h/ERA5/sp.zarr", "type": "application/vnd+zarr"},
    }
    assert set(scene_assets(item(many), source("era5"))) == {"t2m", "sp"}


def test_a_granule_by_its_ending_when_no_key_is_known_and_https_first():
    given = {"s3_h5": {"href": "s3://b/g.h5"}, "h5": {"href": "https://h/g.h5"}, "browse": {"href": "https://h/g.png"}}
    assert scene_assets(item(given), source("gedi"))["data"].href == "https://h/g.h5"


@pytest.mark.parametrize(
    ("href", "base", "expected"),
    [
        ("../a/b.tif", "/root/stac/items/x.json", "/root/stac/a/b.tif"),
        ("./b.tif", "https://h/p/x.json", "https://h/p/b.tif"),
        ("b.tif", "https://h/p/x.json", "https://h/p/b.tif"),
        ("s3://b/k.tif", "https://h/p/x.json", "s3://b/k.tif"),
        ("/abs.tif", "/root/x.json", "/abs.tif"),
        ("b.tif", None, "b.tif"),
    ],
)
def test_hrefs_are_made_absolute(href, base, expected):
    assert absolute(href, base) == expected


def test_facts_have_one_name_each():
    given = item(
        {"B04": {"href": "/r.tif"}},
        **{
            "platform": "Sentinel-2B",
            "sat:relative_orbit": 43,
            "sat:orbit_state": "descending",
            "s2:mgrs_tile": "06VVN",
            "s2:mean_solar_zenith": 37.5,
            "eo:cloud_cover": 0.3,
            **BASELINE,
        },
    )
    assert normalise(given, source("sentinel2"), "cat").facts == {
        "platform": "sentinel-2b",
        "relative_orbit": 43,
        "orbit_state": "descending",
        "mgrs_tile": "06VVN",
        "sun_elevation": 52.5,
        "cloud_cover": 0.3,
        "processing_baseline": "02.14",
    }


@pytest.mark.parametrize(
    ("link", "base", "expected"),
    [
        ("https://api/c/items/x", None, "https://api/c/items/x"),
        ("https://api/c/items/x", "https://host/c/x.json", "https://host/c/x.json"),
        ("https://me:secret@api/c/items/x?sig=abc&se=1#f", None, "https://api/c/items/x"),
        (None, "/catalog/x.json", "/catalog/x.json"),
        ("./x.json", None, ""),
        (None, None, ""),
    ],
)
def test_a_scene_knows_the_address_of_its_item_without_anything_secret(link, base, expected):
    served = item({"blue": {"href": "https://h/b.tif"}}, **BASELINE)
    served["links"] = [{"rel": "self", "href": link}] if link else []
    assert normalise(served, source("sentinel2"), "cat", base=base).item_href == expected


def test_a_mask_that_asks_for_other_access_than_the_bands_is_done_without():
    given = {"red": {"href": "https://open/r.tif"}, "cloud": {"href": "s3://requester-pays/cloud.jp2"}}
    assert set(scene_assets(item(given, **BASELINE), source("sentinel2"))) == {"red"}
    given["cloud"] = {"href": "https://open/cloud.tif"}
    assert set(scene_assets(item(given, **BASELINE), source("sentinel2"))) == {"red", "cloud"}


@pytest.mark.parametrize("key", ["cloud", "CLD_20m", "MSK_CLDPRB_20m"])
def test_a_cloud_probability_is_found_under_the_names_that_products_have_for_it(key):
    given = {"B04": {"href": "/r.tif"}, key: {"href": "/p.tif", "raster:scale": 0.01}}
    found = scene_assets(item(given, **BASELINE), source("sentinel2"))["cloud"]
    assert (found.href, found.scale, found.offset) == ("/p.tif", 1.0, 0.0)  # per cent, never scaled


def test_optional_targets_by_the_keys_of_their_catalogs():
    """JAXA's and Planetary Computer's keys of PALSAR-2, USDA's of CDL, PO.DAAC's file of GRACE."""
    given = {key: {"href": f"https://x/{key}.tif", "proj:epsg": 32631} for key in ("HH", "HV", "linci", "mask")}
    radar = normalise(item(given, **{"sar:observation_direction": "left"}), source("palsar2"), "cat")
    assert {band: asset.key for band, asset in radar.assets.items()} == {
        "hh": "HH",
        "hv": "HV",
        "lin": "linci",
        "mosaic_mask": "mask",
    }
    assert radar.facts["observation_direction"] == "left"
    cropland = item({"cropland": {"href": "https://x/c.tif"}, "confidence": {"href": "https://x/d.tif"}})
    assert scene_assets(cropland, source("cdl"))["land_cover"].href == "https://x/c.tif"
    mascons = item({"0001": {"href": "https://archive/GRCTellus.JPL.nc"}, "meta": {"href": "https://archive/a.xml"}})
    assert scene_assets(mascons, source("grace"))["store"].href.endswith(".nc")


def test_a_granule_of_cmr():
    """STAC 1.1 of NASA's CMR: version 002 as an underscore, data by https and s3, browse images beside it."""
    given = {
        "browse": {"href": "https://data.lpdaac.earthdatacloud.nasa.gov/a.png", "type": "image/png"},
        "002/GEDI02_A_2019108080338": {"href": "https://data.lpdaac.earthdatacloud.nasa.gov/p/GEDI02_A_2019108.h5"},
        "s3": {"href": "s3://lp-prod-protected/p/GEDI02_A_2019108.h5"},
    }
    times = {"datetime": "2019-04-18T08:03:38.000Z", "start_datetime": "2019-04-18T08:03:38.000Z"}
    granule = {**item(given, collection="GEDI02_A_002", **times, end_datetime="2019-04-18T09:36:27.000Z")}
    scene = normalise({**granule, "stac_version": "1.1.0"}, source("gedi"), "cat")
    assert list(scene.assets) == ["data"] and scene.assets["data"].href.startswith("https://data.lpdaac")
    assert scene.time_ms == parse_time_ms("2019-04-18T08:03:38Z") and scene.valid_ms[1] > scene.time_ms + 5_000_000


def test_a_granule_across_180_degrees_lies_on_both_sides_of_it():
    outline = {"type": "Polygon", "coordinates": [[[170, 10], [-170, 20], [-170, 20.1], [170, 10.1], [170, 10]]]}
    granule = {**item({"data": {"href": "https://h/g.h5"}}), "geometry": outline}
    footprint = normalise(granule, source("gedi"), "cat").footprint
    assert footprint.intersects(Point(175, 12.55)) and footprint.intersects(Point(-175, 17.55))
    assert not footprint.intersects(Point(0, 15.05))
