"""Real items of real catalogs to the right scenes.

The expected values were written by reading the items and the producers' product guides, not by running the code.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from shapely import box

from pipelines.catalogs import UnusableItem, normalise, open_catalog
from pipelines.catalogs.normalise import scene_assets
from pipelines.catalogs.sign import PlanetaryComputerSigner
from pipelines.catalogs.stores import over_https
from pipelines.grid import format_time
from pipelines.sandbox.process import running_server
from pipelines.sources import source

DATA = Path(os.environ.get("AEF_REAL_DATA", "/nonexistent"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="AEF_REAL_DATA names no folder"),
]
ALL_OPTICAL = ("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "cirrus",
               "swir16", "swir22")  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What one item must become, looked at through one of its bands."""

    file: str
    source: str
    time: str
    band: str
    href_end: str
    scale: float
    offset: float
    nodata: float | None
    dtype: str | None
    epsg: int | None
    transform: tuple[float, ...] | None
    shape: tuple[int, int] | None
    facts: dict
    bands: int  # with masks


S2_COLLECTION_1 = {"platform": "sentinel-2b", "processing_baseline": "05.11", "mgrs_tile": "20EPT",
                   "datatake": "GS2B_20250731T131909_043879_N05.11", "relative_orbit": 95,
                   "sun_elevation": 4.164002081708503}  # fmt: skip
PT = (600000, 3300040)
ITEMS = [
    Expected("cassette_earth-search_sentinel-2-l2a", "sentinel2", "2025-07-31T13:19:22.930Z", "blue",
             "sentinel-s2-l2a-cogs/20/E/PT/2025/7/S2B_20EPT_20250731_0_L2A/B02.tif", 1e-4, 0.0, 0, "uint16",
             32720, (10, 0, PT[0], 0, -10, PT[1]), (10980, 10980), S2_COLLECTION_1, 13),
    Expected("cassette_earth-search_sentinel-2-c1-l2a", "sentinel2", "2025-07-31T13:19:22.930Z", "swir16",
             "sentinel-2-c1-l2a/20/E/PT/2025/7/S2B_T20EPT_20250731T131905_L2A/B11.tif", 1e-4, -0.1, 0, "uint16",
             32720, (20, 0, PT[0], 0, -20, PT[1]), (5490, 5490), S2_COLLECTION_1, 14),
    Expected("cassette_earth-search_sentinel-2-l1c", "sentinel2", "2025-07-31T13:19:22.930Z", "cirrus",
             "s3://sentinel-s2-l1c/tiles/20/E/PT/2025/7/31/0/B10.jp2", 1e-4, -0.1, 0, "uint16",
             32720, (60, 0, PT[0], 0, -60, PT[1]), (1830, 1830), S2_COLLECTION_1, 13),
    Expected("cassette_earth-search_sentinel-s2-l2a-cogs", "sentinel2", "2025-07-31T13:19:22Z", "nir08",
             "sentinel-s2-l2a-cogs/20/E/PT/2025/7/S2B_20EPT_20250731_0_L2A/B8A.tif", 1e-4, 0.0, None, None,
             32720, (20, 0, PT[0], 0, -20, PT[1]), (5490, 5490),
             {"processing_baseline": "05.11", "mgrs_tile": "20EPT", "relative_orbit": 95}, 13),
    Expected("earthsearch_v0_sentinel-s2-l2a-cogs", "sentinel2", "2020-07-14T11:55:52Z", "rededge1",
             "sentinel-s2-l2a-cogs/2020/S2A_28QCH_20200714_0_L2A/B05.tif", 1e-4, 0.0, None, None,
             32628, (20, 0, 300000, 0, -20, 2300040), (5490, 5490),
             {"platform": "sentinel-2a", "relative_orbit": 123, "cloud_cover": 2.36}, 13),
    Expected("pc_sentinel-2-l2a_odc", "sentinel2", "2019-06-29T21:25:29.024Z", "red",
             "/IMG_DATA/R10m/T06VVN_20190629T212529_B04_10m.tif", 1e-4, 0.0, None, None,
             32606, (10, 0, 399960, 0, -10, 6800040), (10980, 10980),
             {"platform": "sentinel-2b", "processing_baseline": "02.12", "mgrs_tile": "06VVN", "relative_orbit": 43,
              "orbit_state": "descending", "datatake": "GS2B_20190629T212529_012081_N02.12",
              "sun_elevation": 90 - 37.9128805424161}, 13),
    Expected("pc_sentinel-2-l2a_odc_rasterext", "sentinel2", "2019-06-29T21:25:29.024Z", "swir16",
             "/IMG_DATA/R20m/T06VVN_20190629T212529_B11_20m.tif", 1e-4, 0.0, 0, "uint16",
             32606, (20, 0, 399960, 0, -20, 6800040), (5490, 5490), {"cloud_cover": 0.314306}, 13),
    Expected("stactools_s2_l2a_N0400", "sentinel2", "2022-04-13T15:07:59.024Z", "swir16",
             "/GRANULE/L2A_T33XWJ_A026649_20220413T150756/IMG_DATA/R20m/T33XWJ_20220413T150759_B11_20m.tif",
             1e-4, -0.1, 0, "uint16", 32633, (20, 0, 499980, 0, -20, 8900040), (5490, 5490),
             {"processing_baseline": "04.00", "mgrs_tile": "33XWJ", "relative_orbit": 25}, 13),
    Expected("cassette_earth-search_landsat-c2-l2", "landsat", "2023-10-08T17:37:26.657Z", "lwir11",
             "s3://usgs-landsat/collection02/level-2/standard/oli-tirs/2023/033/032/"
             "LC08_L2SP_033032_20231008_20231017_02_T1/LC08_L2SP_033032_20231008_20231017_02_T1_ST_B10.TIF",
             0.00341802, 149, 0, "uint16", 32613, (30, 0, 449085, 0, -30, 4581915), (7831, 7711),
             {"platform": "landsat-8", "wrs_path": 33, "wrs_row": 32, "sun_elevation": 41.18722795}, 7),
    Expected("cassette_planetarycomputer_landsat-c2-l2", "landsat", "2025-07-22T23:12:16.531Z", "red",
             "LC09_L2SR_084082_20250722_20250725_02_T1_SR_B4.TIF",
             2.75e-5, -0.2, 0, "uint16", 32657, (30, 0, 466185, 0, -30, -3395085), (7831, 7781),
             {"platform": "landsat-9", "wrs_path": 84, "wrs_row": 82, "cloud_cover": 41.51}, 6),
    Expected("cassette_planetarycomputer_landsat-8-c2-l2", "landsat", "2022-03-24T10:27:05.856Z", "red",
             "LC08_L2SP_197023_20220324_20220330_02_T1_SR_B4.TIF",
             2.75e-5, -0.2, None, None, 32632, (30, 0, 263085, 0, -30, 6006915), (8151, 8061),
             {"platform": "landsat-8", "wrs_path": 197, "wrs_row": 23}, 7),
    Expected("stactools_cop-dem-glo-30", "elevation", "2021-04-22T00:00:00Z", "elevation",
             "/tests/data-files/external/Copernicus_DSM_COG_10_N53_00_W115_00_DEM.tif", 1, 0, None, "float32", 4326,
             (0.00041666666666666664, 0, -115.00020833333333, 0, -0.0002777777777777778, 54.00013888888889),
             (3600, 2400), {"platform": "tandem-x"}, 1),
]  # fmt: skip


# Bounds of the geometry in degrees, its area in square degrees, cloud cover in per cent, platform.
_ANTARCTIC = (-59.832, -60.502, -59.179, -60.381)
OUTLINES = {
    "cassette_earth-search_sentinel-2-l2a": (_ANTARCTIC, 0.0371, 26.02542, "sentinel-2b"),
    "cassette_earth-search_sentinel-2-c1-l2a": (_ANTARCTIC, 0.0371, 26.02542, "sentinel-2b"),
    "cassette_earth-search_sentinel-2-l1c": (_ANTARCTIC, 0.0371, 0, "sentinel-2b"),
    "cassette_earth-search_sentinel-s2-l2a-cogs": (_ANTARCTIC, 0.0397, 0, "sentinel-2b"),
    "earthsearch_v0_sentinel-s2-l2a-cogs": ((-16.92, 20.053, -16.726, 20.792), 0.0716, 2.36, "sentinel-2a"),
    "pc_sentinel-2-l2a_odc": ((-148.869, 60.336, -146.818, 61.334), 1.9912, 0.314306, "sentinel-2b"),
    "pc_sentinel-2-l2a_odc_rasterext": ((-148.869, 60.336, -146.818, 61.334), 1.9912, 0.314306, "sentinel-2b"),
    "stactools_s2_l2a_N0400": ((14.999, 80.11, 17.733, 80.165), 0.0706, 98.944211, "sentinel-2b"),
    "cassette_earth-search_landsat-c2-l2": ((-105.564, 39.27, -102.892, 41.383), 3.865, 0.06, "landsat-8"),
    "cassette_planetarycomputer_landsat-c2-l2": ((158.666, -32.792, 161.073, -30.694), 3.5176, 41.51, "landsat-9"),
    "cassette_planetarycomputer_landsat-8-c2-l2": ((5.374, 51.963, 9.072, 54.208), 5.2894, 0.99, "landsat-8"),
    "stactools_cop-dem-glo-30": ((-115.0, 53.0, -114.0, 54.0), 1.0, None, "tandem-x"),
}
# Sentinel-2 Products Specification, Landsat Collection 2 product guides: what files of a band are called.
FILE_OF = {
    "sentinel2": {"coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05", "rededge2": "B06",
                  "rededge3": "B07", "nir": "B08", "nir08": "B8A", "nir09": "B09", "cirrus": "B10", "swir16": "B11",
                  "swir22": "B12", "scl": "SCL", "cloud": "CLD"},
    "landsat": {"blue": "SR_B2", "green": "SR_B3", "red": "SR_B4", "nir08": "SR_B5", "swir16": "SR_B6",
                "lwir11": "ST_B10", "qa_pixel": "QA_PIXEL"},
    "elevation": {"elevation": "DEM"},
}  # fmt: skip


def read(file: str) -> dict:
    document = json.loads((DATA / "stac_items" / f"{file}.json").read_text())
    return document["features"][0] if document["type"] == "FeatureCollection" else document


@pytest.mark.parametrize("expected", ITEMS, ids=lambda expected: expected.file)
def test_real_item(expected):
    item = read(expected.file)
    wanted = source("sentinel2", ALL_OPTICAL) if expected.source == "sentinel2" else source(expected.source)
    scene = normalise(item, wanted, "cat", base="https://host/a/b/c/item.json")
    assert scene.scene_id == item["id"]
    assert format_time(scene.time_ms) == expected.time
    assert scene.valid_ms == (scene.time_ms, scene.time_ms + 1)
    asset = scene.assets[expected.band]
    assert asset.href.endswith(expected.href_end) and "://" in asset.href and "/./" not in asset.href
    assert (asset.scale, asset.offset) == (expected.scale, expected.offset)
    assert (asset.nodata, asset.dtype) == (expected.nodata, expected.dtype)
    assert (asset.epsg, asset.transform, asset.shape) == (expected.epsg, expected.transform, expected.shape)
    for name, value in expected.facts.items():
        assert scene.facts[name] == value, name
    assert len(scene.assets) == expected.bands, sorted(scene.assets)
    bounds, area, cloud_cover, platform = OUTLINES[expected.file]
    assert scene.footprint.bounds == pytest.approx(bounds, abs=1e-3) and scene.footprint.is_valid
    assert scene.footprint.area == pytest.approx(area, abs=1e-4)
    assert (scene.facts.get("cloud_cover"), scene.facts["platform"]) == (cloud_cover, platform)
    for band, found in scene.assets.items():
        assert FILE_OF[expected.source][band] in found.href.rsplit("/", 1)[1].removesuffix(".tif").split(".")[0], band
    masks = {"scl", "cloud", "qa_pixel"} & set(scene.assets)
    assert all((scene.assets[mask].scale, scene.assets[mask].offset) == (1, 0) for mask in masks)
    json.dumps(scene.facts)


def test_a_zarr_store_offered_by_two_protocols_is_one_store():
    scene = normalise(read("pc_zarr_item_terraclimate"), source("era5"), "cat", collection="terraclimate")
    assert list(scene.assets) == ["store"]
    assert scene.assets["store"].href == "https://ai4edataeuwest.blob.core.windows.net/gridmet/gridmet.zarr"
    assert scene.assets["store"].extra["open_kwargs"] == {"consolidated": True}
    assert [format_time(ms) for ms in scene.valid_ms] == ["1958-01-01T00:00:00Z", "2019-12-01T00:00:00Z"]


def era5_pds():
    """An item of the real collection, whose template names the assets, their options and Azure's account."""
    template = read("pc_era5-pds_collection_template")
    account = template["storage:schemes"]["azure"]
    assert (account["account"], account["container"]) == ("cpdataeuwest", "era5")
    assets = {
        key: {**{k: v for k, v in asset.items() if k != "title"}, "href": f"abfs://era5/ERA5/2020/12/{key}.zarr"}
        for key, asset in template["item_assets"].items()
    }
    interval = {"start_datetime": "2020-12-01T00:00:00Z", "end_datetime": "2020-12-31T23:00:00Z", "datetime": None}
    whole = [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": "era5-pds-2020-12-an", "collection": "era5-pds",
        "geometry": {"type": "Polygon", "coordinates": whole}, "properties": interval, "assets": assets, "links": [],
    }  # fmt: skip


def test_era5_pds_has_a_store_a_variable_behind_azures_web_address():
    scene = normalise(era5_pds(), source("era5"), "cat")
    assert set(scene.assets) == {
        "surface_air_pressure", "air_temperature_at_2_metres", "dew_point_temperature_at_2_metres",
        "precipitation_amount_1hour_Accumulation",
    }  # fmt: skip
    pressure = scene.assets["surface_air_pressure"]
    assert pressure.href == "https://cpdataeuwest.blob.core.windows.net/era5/ERA5/2020/12/surface_air_pressure.zarr"
    assert pressure.extra["open_kwargs"] == {"consolidated": True}
    account, container = urlsplit(pressure.href).netloc, urlsplit(pressure.href).path.split("/")[1]
    assert PlanetaryComputerSigner().token_url(pressure.href).endswith(f"/{account.split('.')[0]}/{container}")
    assert [format_time(ms) for ms in scene.valid_ms] == ["2020-12-01T00:00:00Z", "2020-12-31T23:00:01Z"]


@pytest.mark.parametrize(
    ("href", "storage", "expected", "left"),
    [
        ("abfs://c/a/b.zarr", {"account_name": "acc"}, "https://acc.blob.core.windows.net/c/a/b.zarr", {}),
        ("abfss://c@acc.dfs.core.windows.net/b.zarr", {}, "https://acc.blob.core.windows.net/c/b.zarr", {}),
        (
            "az://c/b.zarr",
            {"account_name": "acc", "credential": None},
            "https://acc.blob.core.windows.net/c/b.zarr",
            {},
        ),
        ("abfs://c/b.zarr", {}, "abfs://c/b.zarr", {}),
        ("s3://bucket/b.zarr", {"anon": True}, "s3://bucket/b.zarr", {"anon": True}),
    ],
)
def test_azure_addresses(href, storage, expected, left):
    assert over_https(href, storage) == (expected, left)


def test_an_excerpt_of_copernicus_dataspace():
    """STAC 1.1, projection 2 and raster 2 on the asset, keys with a resolution."""
    item = read("cdse_sentinel-2-l2a_EXCERPT")
    blue = scene_assets(item, source("sentinel2"))["blue"]
    assert blue.href.startswith("s3://eodata/Sentinel-2/MSI/L2A/2025/03/30/") and blue.href.endswith("_B02_10m.jp2")
    assert (blue.key, blue.dtype, blue.nodata, blue.scale, blue.offset) == ("B02_10m", "uint16", 0, 1e-4, -0.1)
    assert (blue.epsg, blue.transform) == (32633, (10, 0, 499980, 0, -10, 5400000))
    with pytest.raises(UnusableItem, match="no geometry"):
        normalise(item, source("sentinel2"), "cat")


@pytest.mark.parametrize(
    ("file", "name", "reason"),
    [
        ("cassette_earth-search_sentinel-1-grd", "sentinel1", "without a map grid"),
        ("stactools_s1_grd", "sentinel1", "without a map grid"),
        ("pc_sentinel-1-grd_item_raw", "sentinel1", "without a map grid"),
        ("cassette_earth-search_cop-dem-glo-30", "elevation", "no geometry"),
    ],
)
def test_real_items_that_cannot_be_used(file, name, reason):
    with pytest.raises(UnusableItem, match=reason):
        normalise(read(file), source(name), "cat")


def test_every_item_file_is_looked_at():
    covered = {expected.file for expected in ITEMS} | {
        "pc_zarr_item_terraclimate", "cdse_sentinel-2-l2a_EXCERPT", "cassette_earth-search_sentinel-1-grd",
        "stactools_s1_grd", "pc_sentinel-1-grd_item_raw", "cassette_earth-search_cop-dem-glo-30",
    }  # fmt: skip
    files = {path.stem for path in (DATA / "stac_items").glob("*.json") if "collection_template" not in path.stem}
    assert covered == files


# The README's table and collection counts.
COUNTS = {"sentinel2": ("sentinel-2-l2a", 406), "sentinel1": ("sentinel-1-rtc", 323), "landsat": ("landsat-c2-l2", 108),
          "elevation": ("cop-dem-glo-30", 4), "era5": ("agera5-daily", 4), "gedi": ("GEDI02_A_002", 1)}  # fmt: skip
PATCHES = {
    "0000280849BAC91C": (72, 80, 61),
    "000028085BF08E7E": (146, 157, 30),
    "TZA1101950": (136, 60, 0),
    "36MXB": (21, 16, 15),
    "GFMAP-A": (12, 10, 0),
    "GFMAP-B": (19, 0, 0),
}


@pytest.fixture(scope="module")
def server():
    with running_server(DATA / "real" / "stac") as url:
        yield url


@pytest.mark.parametrize("kind", ["static", "sandbox"])
def test_the_real_fixtures_through_the_api_and_from_the_folder(kind, server):
    catalog = open_catalog("real", kind, server if kind == "sandbox" else str(DATA / "real" / "stac"))
    patch_of = {}
    for path in (DATA / "real" / "stac").glob("*/items/*.json"):
        item = json.loads(path.read_text())
        patch_of[item["id"]] = item["properties"].get("fixture:patch")
    per_patch: Counter = Counter()
    for name, (collection, count) in COUNTS.items():
        wanted = source("sentinel2", ALL_OPTICAL) if name == "sentinel2" else source(name)
        found = catalog.search(wanted, [collection], box(-180, -90, 180, 90), None)
        assert len(found) == count and not found.refused, (name, found.refused)
        per_patch.update((patch_of[scene.scene_id], name) for scene in found)
    for patch, numbers in PATCHES.items():
        assert tuple(per_patch[patch, name] for name in ("sentinel2", "sentinel1", "landsat")) == numbers


def test_real_fixture_reflectance_is_offset_as_its_readme_says():
    """Before 04.00, user-run 99.99, and an offset that the backend removed: none of them has an offset left."""
    found = open_catalog("real", "static", str(DATA / "real" / "stac")).search(
        source("sentinel2", ALL_OPTICAL), ["sentinel-2-l2a"], box(-180, -90, 180, 90), None
    )
    seen = Counter(
        (scene.facts["processing_baseline"], asset.scale, asset.offset)
        for scene in found
        for band, asset in scene.assets.items()
        if band != "scl"
    )
    assert {baseline for baseline, _, _ in seen} == {"02.07", "02.14", "03.00", "03.01", "05.09", "05.10", "99.99"}
    assert {(scale, offset) for _, scale, offset in seen} == {(1e-4, 0.0)}
