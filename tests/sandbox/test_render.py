"""What the sensors write: grids, offsets, clouds, speckle, nights, a catalog that others can open."""

import json
from collections import defaultdict
from dataclasses import replace

import geopandas as gpd
import h5py
import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from shapely.geometry import shape

from pipelines.sandbox import schedule, sentinel1, sentinel2
from pipelines.sandbox.build import build, outline, split_lines
from pipelines.sandbox.layers import ZONES, layer_grids, sensor_grid, write_layers
from pipelines.sandbox.legend import CLASSES, CODE, LAND_COVER
from pipelines.sandbox.noise import generator
from pipelines.sandbox.parameters import parameters_for
from pipelines.sandbox.raster import trim_mantissa
from pipelines.sandbox.world import world_of

P = parameters_for("tiny", 3)


def items(tiny, collection):
    paths = sorted((tiny.path / "catalog" / collection / "items").glob("*.json"))
    return [json.loads(path.read_text()) for path in paths]


def asset(tiny, item, key):
    base = tiny.path / "catalog" / item["collection"] / "items"
    return (base / item["assets"][key]["href"]).resolve()


def read(tiny, item, key):
    with rasterio.open(asset(tiny, item, key)) as file:
        return file.read(1)


def test_pystac_opens_the_catalog_and_finds_every_asset(tiny):
    catalog = pystac.Catalog.from_file(str(tiny.catalog))
    found = defaultdict(int)
    for item in catalog.get_items(recursive=True):
        found[item.collection_id] += 1
        for one in item.make_asset_hrefs_absolute().assets.values():
            assert one.href.startswith(str(tiny.path)), one.href
            assert (tiny.path / one.href).exists(), one.href
        assert item.geometry and item.bbox
    assert dict(found) == tiny.items
    assert set(found) == {child.id for child in catalog.get_children()}


def test_region_and_split_are_known_without_building(tiny):
    region = json.loads((tiny.path / "region.geojson").read_text())["features"][0]["geometry"]
    assert shape(region).equals_exact(outline(P), 0)
    split = json.loads((tiny.path / "manifest.json").read_text())["split"]
    assert split_lines(P) == (split["train_max"], split["test_min"])


def test_building_again_does_nothing_and_other_parameters_are_refused(tiny):
    again = build(tiny.path, "tiny", seed=3, workers=0)
    assert again.built == 0 and again.items == tiny.items
    with pytest.raises(ValueError, match="other parameters"):
        build(tiny.path, "tiny", seed=4, workers=0)


def test_a_killed_build_goes_on_and_gives_the_same_bytes(tmp_path):
    few = replace(P, years=(2021,), max_dates=1, gedi_granules=1, landsat_night=0, text_articles=2, text_records=2)

    class Killed(Exception):
        pass

    def kill(done, total, label):
        if done == 20:
            raise Killed

    with pytest.raises(Killed):
        build(tmp_path / "killed", workers=0, progress=kill, parameters=few)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "assets").rglob("*.tif*")}
    seen = []
    result = build(
        tmp_path / "killed",
        workers=2,
        progress=lambda done, total, label: seen.append((done, total)),
        parameters=few,
    )
    straight = build(tmp_path / "straight", workers=0, parameters=few)
    assert result.items == straight.items and 0 < result.built < straight.built == sum(straight.items.values())
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert before and all(path.stat().st_mtime_ns == when for path, when in before.items())
    files = [path for path in sorted(straight.path.rglob("*")) if path.is_file()]
    assert len(files) > 120
    for path in files:
        other = tmp_path / "killed" / path.relative_to(straight.path)
        assert path.read_bytes() == other.read_bytes(), path
    assert len(list(result.path.rglob("*"))) == len(list(straight.path.rglob("*")))


def test_sentinel2_bands_have_their_grids(tiny):
    item = items(tiny, "sentinel-2-l2a")[0]
    assert set(item["assets"]) == {*sentinel2.BANDS, "scl"}
    edges = set()
    for key, one in item["assets"].items():
        with rasterio.open(asset(tiny, item, key)) as file:
            assert file.res == (one["gsd"],) * 2
            assert list(file.transform)[:6] == one["proj:transform"] and list(file.shape) == one["proj:shape"]
            assert file.nodata == 0 and file.dtypes[0] == ("uint8" if key == "scl" else "uint16")
            assert file.bounds.left % 60 == 0 and file.bounds.top % 60 == 0
            assert file.crs.to_epsg() == item["properties"]["proj:epsg"]
            edges.add(tuple(file.bounds))
    assert len(edges) == 1
    assert {one["gsd"] for one in item["assets"].values()} == {10, 20, 60}


def test_landsat_grid_is_half_a_pixel_off_and_pan_centres_match(tiny):
    item = items(tiny, "landsat-c2-l1")[0]
    with rasterio.open(asset(tiny, item, "red")) as file:
        left, top = file.bounds.left, file.bounds.top
    assert left % 30 == 15 and top % 30 == 15
    with rasterio.open(asset(tiny, item, "pan")) as file:
        assert file.res == (15, 15) and (file.bounds.left - left, top - file.bounds.top) == (7.5, 7.5)


def test_numbers_jump_by_the_offset_at_the_baseline_and_the_item_says_so(tiny):
    dark = {"03.01": [], "04.00": []}
    for item in items(tiny, "sentinel-2-l2a"):
        red, scl = read(tiny, item, "red"), read(tiny, item, "scl").repeat(2, 0).repeat(2, 1)
        baseline = item["properties"]["s2:processing_baseline"]
        offset = item["assets"]["red"]["raster:bands"][0]["offset"]
        assert (baseline == "04.00") == (item["properties"]["datetime"] >= "2022-01-25") == (offset == -0.1)
        good = np.isin(scl, (4, 5)) & (red > 0)
        if good.sum() > 200:
            dark[baseline].append((np.percentile(red[good], 2), np.median(red[good] * 1e-4 + offset)))
    stored = {key: np.median([low for low, _ in values]) for key, values in dark.items()}
    physical = {key: np.median([middle for _, middle in values]) for key, values in dark.items()}
    assert 700 < stored["04.00"] - stored["03.01"] < 1400
    assert abs(physical["04.00"] - physical["03.01"]) < 0.05


def test_tiles_of_one_datatake_overlap_with_equal_pixels_and_both_zones_are_there(tiny):
    takes = defaultdict(list)
    for item in items(tiny, "sentinel-2-l2a"):
        takes[item["properties"]["s2:datatake_id"]].append(item)
    full = next(group for group in takes.values() if len(group) == 4)
    assert {item["properties"]["proj:epsg"] for item in full} == set(ZONES)
    south, north = sorted(
        (item for item in full if item["properties"]["proj:epsg"] == ZONES[0]),
        key=lambda item: item["assets"]["red"]["proj:transform"][5],
    )
    a, b = read(tiny, south, "red"), read(tiny, north, "red")
    shift = int(north["assets"]["red"]["proj:transform"][5] - south["assets"]["red"]["proj:transform"][5]) // 10
    overlap = b.shape[0] - shift
    assert overlap >= 40
    np.testing.assert_array_equal(b[shift:], a[:overlap])


def test_swath_edges_leave_nodata_in_both_orbits(tiny):
    share = defaultdict(list)
    for item in items(tiny, "sentinel-2-l2a"):
        share[item["properties"]["sat:relative_orbit"]].append((read(tiny, item, "red") == 0).mean())
    assert set(share) == {8, 108}
    assert all(0.02 < max(values) < 0.9 for values in share.values())


def test_cloud_masks_are_useful_but_not_right(tiny):
    hits, called, missed = 0, 0, 0
    for item in items(tiny, "sentinel-2-l2a"):
        blue = read(tiny, item, "blue").astype(float) * 1e-4 + item["assets"]["blue"]["raster:bands"][0]["offset"]
        scl = read(tiny, item, "scl").repeat(2, 0).repeat(2, 1)
        bright, cloud = (blue > 0.19) & (scl > 0), np.isin(scl, (8, 9))
        hits, called, missed = hits + (bright & cloud).sum(), called + cloud.sum(), missed + (bright & ~cloud).sum()
    assert hits / called > 0.6
    assert missed > 0.005 * hits


def test_speckle_has_the_stated_looks(tmp_path):
    grey = sentinel1.speckle((400, 400), 4.4, generator(1, "speckle"))
    assert grey.mean() == pytest.approx(1, abs=0.01)
    assert 1 / grey.var() == pytest.approx(4.4, rel=0.05)
    one = next(k for k in schedule.passes(P, "sentinel1") if sentinel1.polarisations(P, k) == ("vv", "vh"))
    name = f"sentinel1_{sentinel1.zone_of(one)}_10"
    write_layers(P, name, tmp_path)
    power = sentinel1.render(P, one, tmp_path)["vv"]
    parcel = np.load(tmp_path / name / "parcel.npy")
    edge = np.load(tmp_path / name / "edge_m.npy")
    classes = world_of(P).parcels.classes[:, 0]
    looks = []
    for k in np.unique(parcel):
        inside = (parcel == k) & (edge > 20)
        if inside.sum() > 150 and classes[k] not in (CODE["built_up"], CODE["water"]):
            looks.append(power[inside].mean() ** 2 / power[inside].var())
    assert 2.5 < np.median(looks) < 4.6  # texture and terrain add to speckle, so never above its own


def test_sentinel1_carries_angles_orbits_and_several_polarisations(tiny):
    states, angles = set(), {}
    for item in items(tiny, "sentinel-1-rtc"):
        state = item["properties"]["sat:orbit_state"]
        states.add((state, item["properties"]["proj:epsg"]))
        angles[state] = float(read(tiny, item, "angle").mean())
        keys = set(item["assets"]) - {"angle"}
        assert keys == {name.lower() for name in item["properties"]["sar:polarizations"]}
        vv = read(tiny, item, min(keys))
        assert vv.dtype == np.float32 and vv.min() > 0
    assert states == {("ascending", ZONES[0]), ("descending", ZONES[1])}
    assert abs(angles["ascending"] - angles["descending"]) > 2
    kinds = {sentinel1.polarisations(P2, one) for P2 in (parameters_for("small", 7),) for one in _passes(P2)}
    assert kinds == {("vv",), ("vv", "vh"), ("hh", "hv")}


def _passes(p):
    return schedule.passes(p, "sentinel1")


def test_schedules_of_small_are_as_designed():
    p = parameters_for("small", 7)
    for mission, low, high in (("sentinel2", 34, 48), ("sentinel1", 14, 22)):
        for year in p.years:
            assert low <= sum(_year(one) == year for one in schedule.passes(p, mission)) <= high
    day = [one for one in schedule.passes(p, "landsat") if not one.night]
    assert 18 <= len(day) <= 38 and {one.platform for one in day} == {"8", "9"}


def _year(one):
    return int(np.datetime64(one.time_ms, "ms").astype("datetime64[Y]").astype(int)) + 1970


def test_night_scenes_are_there_and_dark(tiny):
    found = items(tiny, "landsat-c2-l1")
    night = [item for item in found if item["properties"]["view:sun_elevation"] < 0]
    day = [item for item in found if item["properties"]["view:sun_elevation"] > 5]
    assert len(night) == 2 and len(day) + len(night) == len(found)
    for item in night:
        assert item["properties"]["sat:orbit_state"] == "ascending"
        red = read(tiny, item, "red") * 2e-5 - 0.1
        kelvin = read(tiny, item, "lwir11") * 0.00341802 + 149
        assert abs(red.mean()) < 1e-3 and 200 < kelvin.mean() < 300
    quality = np.concatenate([read(tiny, item, "qa_pixel").ravel() for item in day])
    for bit in (1, 3, 4, 6):
        assert ((quality >> bit) & 1).any(), bit


def test_era5_is_physical_and_covers_both_years(tiny):
    item = items(tiny, "era5-land")[0]
    data = xr.open_zarr(asset(tiny, item, "zarr"), **item["assets"]["zarr"]["xarray:open_kwargs"]).load()
    assert set(data.data_vars) == {"t2m", "d2m", "sp", "tp"} and data.sizes["time"] == 2 * 8760
    t2m, d2m = data.t2m.values, data.d2m.values
    assert (d2m < t2m).all() and 240 < t2m.min() and t2m.max() < 320
    july, january = (t2m[np.asarray(data.time.dt.month) == month].mean() for month in (7, 1))
    assert july - january > 12
    yearly = data.tp.sel(time="2021").sum("time").mean().item()
    assert 0.3 < yearly < 2.0
    lon, lat = data.longitude.values, data.latitude.values
    west, south, east, north = json.loads((tiny.path / "manifest.json").read_text())["bbox"]
    assert lon.min() < west and lon.max() > east and lat.min() < south and lat.max() > north


def test_gedi_heights_follow_the_truth_where_quality_is_good(tiny):
    world, shots, flags = world_of(P), [], []
    for item in items(tiny, "GEDI02_A_002"):
        year = int(item["properties"]["datetime"][:4])
        with h5py.File(asset(tiny, item, "data")) as file:
            for beam in file.values():
                x, y = world.to_plane(beam["lon_lowestmode"][:], beam["lat_lowestmode"][:], 4326)
                rh = beam["rh"][:]
                assert rh.shape[1] == 101 and (np.diff(rh, axis=1) >= -1e-4)[beam["quality_flag"][:] == 1].all()
                good = beam["quality_flag"][:] == 1
                flags.append(good)
                _, edge = world.locate(x, y)
                keep = good & (edge > 20)
                shots.append(np.column_stack([rh[keep, 98], world.height_at(x[keep], y[keep], year)]))
                step = np.hypot(np.diff(x), np.diff(y))
                assert np.median(step) == pytest.approx(60, abs=3)
    pair = np.concatenate(shots)
    assert len(pair) > 40 and np.corrcoef(pair.T)[0, 1] > 0.8
    assert 0.02 < np.mean(np.concatenate(flags)) < 0.99


def test_dem_is_in_degrees_and_near_the_ground(tiny):
    world = world_of(P)
    for item in items(tiny, "cop-dem-glo-30"):
        with rasterio.open(asset(tiny, item, "data")) as file:
            assert file.crs.to_epsg() == 4326 and file.res[0] == pytest.approx(1 / 3600)
            z = file.read(1)
            rows, columns = np.indices(z.shape)
            t = file.transform
            lon, lat = t.c + t.a * (columns + 0.5), t.f + t.e * (rows + 0.5)
        ground = world.elevation_m(*world.to_plane(lon, lat, 4326))
        assert np.abs(np.median(z - ground)) < 3 and (z - ground).max() < 30


def test_public_map_is_coarse_often_right_and_has_holes(tiny):
    from pipelines.sandbox.layers import evaluate
    from pipelines.sandbox.legend import to_map

    item = next(one for one in items(tiny, "land-cover") if one["id"] == "lc_31N_2021")
    codes = read(tiny, item, "map")
    truth = to_map(world_of(P).parcels.classes[evaluate(world_of(P), sensor_grid(P, "sentinel2", ZONES[0])).parcel, 0])
    mapped = codes > 0
    assert 0.05 < 1 - mapped.mean() < 0.6
    assert 0.75 < np.mean(codes[mapped] == truth[mapped]) < 0.95
    assert len(np.unique(codes[mapped])) >= 5


def test_labels_are_one_point_a_parcel_a_year_inside_and_true(tiny):
    table = gpd.read_parquet(tiny.path / "truth" / "labels.parquet")
    assert not table.duplicated(["parcel_id", "year"]).any() and table.point_id.is_unique
    assert set(table.land_cover) <= set(LAND_COVER) and table.changed.any()
    assert (table.crop.notna() == (table.land_cover == "annual_crop")).all()
    assert (table.edge_m >= 15).mean() > 0.85
    world = world_of(P)
    x, y = world.to_plane(table.geometry.x.to_numpy(), table.geometry.y.to_numpy(), 4326)
    for year, group in table.groupby("year"):
        at = np.array(CLASSES)[world.class_at(x[group.index], y[group.index], year)]
        assert (at == group.class16).all()
        zone = np.where(x[group.index] < 0, ZONES[0], ZONES[1])
        legend = json.loads((tiny.path / "truth" / "legend.json").read_text())["land_cover"]
        for epsg in ZONES:
            with rasterio.open(tiny.path / "truth" / f"{epsg % 100}N_{year}_land_cover.tif") as file:
                mine = group[zone == epsg]
                east, north = world.from_plane(x[mine.index], y[mine.index], epsg)
                values = [int(v[0]) for v in file.sample(zip(east, north, strict=True))]
            right = [legend.get(str(v)) == name for v, name in zip(values, mine.land_cover, strict=True)]
            assert np.mean(right) > 0.97  # a pixel's centre may lie in the next parcel


def test_texts_are_long_dated_and_in_the_region(tiny):
    item = items(tiny, "texts")[0]
    table = gpd.read_parquet(asset(tiny, item, "data"))
    assert set(table.kind) == {"article", "occurrence"}
    articles = table[table.kind == "article"]
    assert articles.text.str.split().str.len().min() >= 100
    assert articles.text.is_unique
    assert (table.end_ms > table.start_ms).all() and table.uncertainty_m.between(1, 1000).all()


def test_trimmed_floats_stay_within_their_precision():
    values = np.geomspace(1e-4, 10, 1000).astype(np.float32)
    trimmed = trim_mantissa(values)
    assert np.abs(trimmed / values - 1).max() <= 2.0**-12
    assert len(np.unique(trimmed.view(np.uint32) & 0xFFF)) == 1


def test_grids_divide(tiny):
    grids = layer_grids(P)
    for epsg in ZONES:
        assert grids[f"sentinel2_{epsg}_10"].bounds_m == grids[f"sentinel2_{epsg}_60"].bounds_m
    with pytest.raises(ValueError, match="does not divide"):
        grids[f"sentinel2_{ZONES[0]}_60"].at(7.3)
