"""Zarr, STAC, identity, sampling and colours."""

import json

import numpy as np
import pystac
import pytest
import xarray as xr
import zarr

from pipelines.grid import Period, Tile, transformer
from pipelines.products import (
    Components,
    ModelDescription,
    commit_tile,
    dequantize,
    identity,
    pca_rgb,
    read_moments,
    rebuild_index,
    sample_points,
    write_model,
)
from pipelines.products.identity import code_digest, meaning
from pipelines.products.quantise import NODATA
from pipelines.products.statistics import moments
from pipelines.products.tile import stac_path
from pipelines.products.zarr_store import read_tile, write_product, zone_window
from pipelines.storage import Storage
from tests.products.world import COST, EPSG, LAT, LON, PX, YEAR, memory, prepare, product, provenance, tile_at

MODEL = ModelDescription("tiny@1", "m0del", 1000, {"sentinel2": ("red", "nir")}, "checkpoints/a.pt")


def test_zarr_as_xarray_sees_it(tmp_path):
    storage, made = Storage(str(tmp_path)), product()
    prepare(storage)
    write_product(storage, made)
    data = xr.open_zarr(tmp_path / "embeddings/zarr/31N.zarr", consolidated=False, chunks=None, mask_and_scale=False)
    assert data["embeddings"].dims == ("time", "band", "y", "x")
    assert str(data["time"].values[0])[:10] == "2020-01-01"
    assert data.attrs["proj:code"] == "EPSG:32631"
    x, y = made.tile.window.centres()
    got = data["embeddings"].sel(x=x, y=y).isel(time=0).values
    np.testing.assert_array_equal(got, made.embeddings)
    outside = data["embeddings"].sel(x=x[0] - 10, y=y[0]).values
    assert (outside == NODATA).all()


def test_zarr_keeps_the_conventions(tmp_path):
    storage = Storage(str(tmp_path))
    prepare(storage)
    attributes = zarr.open_group(str(tmp_path / "embeddings/zarr/31N.zarr"), mode="r").attrs.asdict()
    assert {convention["name"] for convention in attributes["zarr_conventions"]} == {"geoemb:", "proj:", "spatial:"}
    for key in ("geoemb:type", "geoemb:dimensions", "geoemb:model", "geoemb:source_data", "geoemb:data_type"):
        assert attributes[key]
    a, b, c, d, e, f = attributes["spatial:transform"]
    window = zone_window(EPSG, PX)
    assert (c, f) == (window.left_m, window.top_m) and (a, b, d, e) == (10, 0, 0, -10)
    table = attributes["aef:dequantisation"]["lookup_table"]
    np.testing.assert_array_equal(
        np.array(table[1:], np.float32), dequantize(np.arange(-127, 128, dtype=np.int8)[None])[0]
    )


def test_one_tile_is_one_shard_and_neighbours_stay_apart(tmp_path):
    storage = Storage(str(tmp_path))
    prepare(storage)
    first = tile_at()
    row, col = (int(part[1:]) for part in first.tile_id.split("_")[1:])
    tiles = [Tile.at(EPSG, row + dy, col + dx, PX) for dy in (0, 1) for dx in (0, 1)]
    for seed, tile in enumerate(tiles):
        write_product(storage, product(tile, seed=seed))
    assert len(storage.list("embeddings/zarr/31N.zarr/embeddings/c")) == 4
    for seed, tile in enumerate(tiles):
        np.testing.assert_array_equal(read_tile(storage, tile, YEAR)[0], product(tile, seed=seed).embeddings)


def test_periods_are_added_without_moving_what_is_there():
    storage = memory()
    years = [Period.calendar_year(year) for year in (2019, 2020, 2021)]
    prepare(storage, years[1:2])
    write_product(storage, product())
    before = storage.read_bytes("embeddings/zarr/31N.zarr/zarr.json")
    prepare(storage, years[1:2])
    assert storage.read_bytes("embeddings/zarr/31N.zarr/zarr.json") == before
    prepare(storage, years)
    write_product(storage, product(period=years[0], seed=2))
    np.testing.assert_array_equal(read_tile(storage, product().tile, years[1])[0], product().embeddings)
    np.testing.assert_array_equal(read_tile(storage, product().tile, years[0])[0], product(seed=2).embeddings)
    assert (read_tile(storage, product().tile, years[2])[0] == NODATA).all()


def test_making_a_zone_may_be_interrupted(monkeypatch):
    storage = memory()
    with monkeypatch.context() as patched:
        patched.setattr(Storage, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            prepare(storage)
    prepare(storage)
    write_product(storage, product())
    np.testing.assert_array_equal(read_tile(storage, product().tile, YEAR)[0], product().embeddings)


def test_zarr_refuses_what_does_not_fit():
    storage = memory()
    with pytest.raises(ValueError, match="does not exist; call ensure_zone"):
        write_product(storage, product())
    prepare(storage)
    with pytest.raises(ValueError, match="no period 2021"):
        write_product(storage, product(period=Period.calendar_year(2021)))
    with pytest.raises(ValueError, match="not on the grid"):
        write_product(storage, product(px=32))
    with pytest.raises(ValueError, match="choose another root"):
        prepare(storage, model_digest="other")


def test_southern_zones_fit():
    storage, tile = memory(), tile_at(lon=25.0, lat=-33.9, epsg=32735)
    prepare(storage, epsg=32735)
    write_product(storage, product(tile))
    np.testing.assert_array_equal(read_tile(storage, tile, YEAR)[0], product(tile).embeddings)


def test_stac_item_reads_as_stac_and_links_resolve(tmp_path):
    storage, made = Storage(str(tmp_path)), product()
    prepare(storage)
    write_model(storage, MODEL)
    commit_tile(storage, made, provenance(), COST)
    rebuild_index(storage)
    path = tmp_path / stac_path(made.tile.tile_id, "2020")
    item = pystac.Item.from_file(str(path))
    assert set(item.assets) >= {"embeddings", "counts"}
    for asset in item.assets.values():
        assert (path.parent / asset.href).resolve().exists(), asset.href
    raw = json.loads(path.read_text())
    sources = [link for link in raw["links"] if link["rel"] == "emb:source-data"]
    assert [link["href"] for link in sources] == ["urn:stac:sentinel-1-rtc:S1A_1", "https://example.org/items/S2A_1"]
    for link in raw["links"]:
        if link["rel"] != "emb:source-data":
            assert (path.parent / link["href"]).resolve().exists(), link
    assert (path.parent / raw["properties"]["emb:quantization"]["link"]).resolve().exists()
    west, south, east, north = item.bbox
    assert west < LON < east and south < LAT < north
    assert raw["properties"]["start_datetime"] == "2020-01-01T00:00:00Z"
    collection = pystac.Collection.from_file(str(tmp_path / "embeddings/stac/collection.json"))
    assert [found.id for found in collection.get_items()] == [item.id]
    assert pystac.Item.from_file(str(tmp_path / "embeddings/stac/model.json")).properties["mlm:name"] == "tiny@1"


def test_two_models_are_never_mixed():
    storage = memory()
    write_model(storage, MODEL)
    write_model(storage, MODEL)
    with pytest.raises(ValueError, match="two models"):
        write_model(storage, ModelDescription("tiny@2", "0ther", 1000, {}, "b.pt"))


def test_identity_depends_on_everything_that_matters_and_on_nothing_else():
    tile, base = tile_at(), provenance()
    key = base.identity(tile, YEAR)
    assert base.identity(tile, YEAR) == provenance(inputs=tuple(reversed(base.inputs))).identity(tile, YEAR) == key
    assert provenance(model_id="renamed").identity(tile, YEAR) == key
    changed = [
        provenance(model_digest="x").identity(tile, YEAR),
        provenance(code_digest="x").identity(tile, YEAR),
        provenance(parameters={"margin_px": 17}).identity(tile, YEAR),
        provenance(inputs=base.inputs[:1]).identity(tile, YEAR),
        base.identity(tile_at(lon=2.6), YEAR),
        base.identity(tile, Period.calendar_year(2021)),
    ]
    assert len({key, *changed}) == 7
    assert identity({"b": 1, "a": np.float32(2)}, {}, "", "") == identity({"a": 2.0, "b": 1}, {}, "", "")
    with pytest.raises(TypeError, match="cannot be part of an identity"):
        identity({1, 2}, {}, "", "")


PROGRAM = '''
"""Docstring."""
import logging
log = logging.getLogger(__name__)

def area(width, height):
    """Square metres."""
    log.info("computing %s", width)
    if width < 0:
        print("negative")
    return width * height  # comment
'''


def test_code_digest_sees_meaning_only():
    quiet = PROGRAM.replace('    log.info("computing %s", width)\n', "").replace("  # comment", "")
    assert meaning(PROGRAM) == meaning(quiet.replace("Square metres", "m2"))
    assert meaning(PROGRAM) == meaning(PROGRAM.replace("print(", "log.warning("))
    assert meaning(PROGRAM) != meaning(PROGRAM.replace("width * height", "width + height"))
    assert meaning(PROGRAM) != meaning(PROGRAM.replace("width < 0", "width < 1"))


def test_code_digest_of_packages_and_modules():
    import pipelines.shards
    import pipelines.shards.codec

    assert code_digest("pipelines.shards") == code_digest(pipelines.shards)
    assert code_digest("pipelines.shards") != code_digest("pipelines.shards.codec")
    assert code_digest("pipelines.shards", "pipelines.shards.codec") == code_digest(pipelines.shards)


def test_points_are_sampled_from_the_pixel_that_holds_them():
    storage = memory()
    prepare(storage)
    tiles = [tile_at(), tile_at(lon=2.52)]
    assert tiles[0] != tiles[1]
    made = {tile.tile_id: product(tile, seed=seed) for seed, tile in enumerate(tiles)}
    for one in made.values():
        commit_tile(storage, one, provenance(), COST)
    r = np.random.default_rng(0)
    picks = [(tiles[k], *r.integers(0, PX, 2)) for k in r.integers(0, 2, 40)]
    east = [tile.window.left_m + 10 * col + 9.9 for tile, _, col in picks]
    north = [tile.window.top_m - 10 * row - 9.9 for tile, row, _ in picks]
    lon, lat = transformer(EPSG, 4326).transform(np.array(east), np.array(north))
    lon, lat = np.append(lon, [LON, 100.0]), np.append(lat, [LAT + 1, 10.0])
    vectors, valid = sample_points(storage, lon, lat, YEAR)
    want = [made[tile.tile_id].embeddings[:, row, col] for tile, row, col in picks]
    expected = dequantize(np.array(want), renormalise=True)
    np.testing.assert_array_equal(vectors[:40], expected)
    assert valid[:40].tolist() == [codes[0] != NODATA for codes in want]
    assert not valid[40:].any() and np.isnan(vectors[40:]).all()
    np.testing.assert_allclose(np.linalg.norm(vectors[valid], axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(sample_points(storage, lon, lat, "2020")[1], valid)


def test_an_uncommitted_tile_gives_no_vector():
    storage = memory()
    prepare(storage)
    receipt = commit_tile(storage, product(), provenance(), COST)
    lon, lat = transformer(EPSG, 4326).transform(product().tile.window.left_m + 500, product().tile.window.top_m - 500)
    assert sample_points(storage, np.array([lon]), np.array([lat]), YEAR)[1].all()
    storage.delete(receipt["data"]["path"].replace(".tiff", ".receipt.json"))
    assert not sample_points(storage, np.array([lon]), np.array([lat]), YEAR)[1].any()


def test_components_from_moments_are_those_of_all_vectors_together():
    storage = memory()
    prepare(storage)
    tiles = [tile_at(), tile_at(lon=2.52)]
    paths, every = [], []
    for seed, tile in enumerate(tiles):
        made = product(tile, seed=seed)
        paths.append(commit_tile(storage, made, provenance(), COST)["moments_path"])
        every.append(dequantize(made.embeddings.reshape(64, -1).T, renormalise=True).astype(np.float64))
    vectors = np.concatenate(every)
    vectors = vectors[np.isfinite(vectors[:, 0])]
    components = Components.of(read_moments(storage, paths))
    centred = vectors - vectors.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(components.mean, vectors.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(np.abs((components.axes * axes[:3]).sum(axis=1)), 1, atol=1e-6)
    np.testing.assert_allclose(components.sigma, singular[:3] / np.sqrt(len(vectors)), rtol=1e-4)
    np.testing.assert_allclose(components.explained, (singular**2 / (singular**2).sum())[:3], rtol=1e-4)


def test_pictures_are_of_one_colour_scheme():
    made = product()
    components = Components.of(moments(made.embeddings))
    whole = pca_rgb(made.embeddings, components)
    np.testing.assert_array_equal(whole[:, :30], pca_rgb(made.embeddings[:, :, :30], components))
    np.testing.assert_array_equal(whole[..., 3] > 0, made.embeddings[0] != NODATA)
    assert whole[..., :3][whole[..., 3] > 0].std(axis=0).min() > 30
    with pytest.raises(ValueError, match="no valid embedding"):
        Components.of(moments(np.full((64, 4, 4), NODATA, np.int8)))
