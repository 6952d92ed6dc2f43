"""The COG as other software sees it, and overviews against the slow definition."""

import numpy as np
import pytest
from rasterio.io import MemoryFile

from pipelines.products import NODATA, Status, TileProduct, dequantize, quantize
from pipelines.products.cog import BAND_NAMES, cog_bytes, counts_bytes, overview_codes
from tests.products.world import product, unit_vectors


def naive_overview(codes, level):
    """Mean of the valid decoded vectors under every overview pixel, one pixel at a time."""
    step = 2**level
    _, height, width = codes.shape
    out = np.full((64, -(-height // step), -(-width // step)), NODATA, np.int8)
    for row in range(out.shape[1]):
        for col in range(out.shape[2]):
            block = codes[:, row * step : (row + 1) * step, col * step : (col + 1) * step].reshape(64, -1)
            block = block[:, block[0] != NODATA]
            if block.shape[1]:
                mean = dequantize(block, axis=0).astype(np.float64).mean(axis=1)
                out[:, row, col] = quantize(mean / np.linalg.norm(mean), axis=0)
    return out


@pytest.mark.parametrize(
    ("height", "width", "strip"), [(64, 64, 16), (50, 37, 16), (5, 70, 256), (1, 1, 4), (33, 64, 32)]
)
def test_overviews_are_means_of_full_resolution_vectors(height, width, strip):
    vectors = unit_vectors(80)[:height, :width]
    valid = np.ones((height, width), bool)
    valid[: height // 3, : width // 2] = False
    codes = np.moveaxis(quantize(vectors, valid), -1, 0)
    made = overview_codes(codes, strip)
    assert [level.shape[1:] for level in made][-1:] in ([(1, 1)], [])
    assert len(made) == int(np.ceil(np.log2(max(height, width))))
    for level, got in enumerate(made, start=1):
        want = naive_overview(codes, level)
        assert got.shape == want.shape
        np.testing.assert_array_equal(got == NODATA, want == NODATA)
        # Sums in float32 and float64 may round to neighbouring codes.
        assert np.abs(got.astype(int) - want.astype(int)).max() <= 1
        assert (got == want).mean() > 0.999


def test_an_overview_is_nodata_only_where_all_below_is():
    codes = np.moveaxis(quantize(unit_vectors(16)), -1, 0).copy()
    codes[:, :8, :8] = NODATA
    codes[:, 3, 3] = 5
    levels = overview_codes(codes)
    assert (levels[0][:, 1, 1] != NODATA).all() and (levels[0][:, 0, 0] == NODATA).all()
    assert (levels[2][:, 0, 0] != NODATA).all()


@pytest.fixture(scope="module")
def made():
    tile = product(px=320)
    return tile, cog_bytes(tile, {"MODEL_VERSION": "tiny@1", "IDENTITY": "abc"})


def test_cog_opens_with_names_nodata_and_place(made):
    tile, data = made
    with MemoryFile(data) as memory, memory.open() as dataset:
        np.testing.assert_array_equal(dataset.read(), tile.embeddings)
        assert dataset.descriptions == BAND_NAMES
        assert dataset.dtypes == ("int8",) * 64
        assert set(dataset.nodatavals) == {-128}
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.transform == tile.tile.window.transform and dataset.transform.e == -10
        assert dataset.crs.to_epsg() == 32631
        assert len(dataset.overviews(1)) == len(dataset.overviews(64)) == 9  # 320 px down to one
        tags = dataset.tags()
    assert tags["MODEL_VERSION"] == "tiny@1" and tags["UTM_ZONE"] == "31N" and tags["PERIOD"] == "2020"
    assert "127.5" in tags["QUANTISATION"]


def test_cog_overviews_are_ours_in_every_level(made):
    tile, data = made
    for level, want in enumerate(overview_codes(tile.embeddings)):
        with MemoryFile(data) as memory, memory.open(overview_level=level) as dataset:
            assert dataset.nodata == -128
            np.testing.assert_array_equal(dataset.read(), want)


def test_cog_bytes_are_reproducible(made):
    tile, data = made
    assert cog_bytes(tile, {"IDENTITY": "abc", "MODEL_VERSION": "tiny@1"}) == data


def test_counts_keep_status_and_counts_through_overviews():
    tile = product(px=64)
    with MemoryFile(counts_bytes(tile, {})) as memory, memory.open() as dataset:
        assert dataset.descriptions == ("status", "count_sentinel1", "count_sentinel2")
        status, one, two = dataset.read()
        np.testing.assert_array_equal(status, tile.status)
        np.testing.assert_array_equal(one, tile.counts["sentinel1"])
        np.testing.assert_array_equal(two, tile.counts["sentinel2"])


def test_status_says_why():
    base = product(px=64)
    vectors, counts = unit_vectors(64), {"sentinel2": np.ones((64, 64), np.uint16)}
    vectors[5, 5] = np.nan
    counts["sentinel2"][7, 7] = 0
    inside = np.ones((64, 64), bool)
    inside[:, :3] = False
    made = TileProduct.from_vectors(base.tile, base.period, vectors, counts, inside=inside)
    assert made.status[5, 5] == Status.FAILED
    assert made.status[7, 7] == Status.NO_OBSERVATIONS
    assert (made.status[:, :3] == Status.OUTSIDE).all()
    assert made.status_counts == {"outside": 192, "valid": 64 * 64 - 194, "no_observations": 1, "failed": 1}
    assert (made.embeddings[:, made.status != Status.VALID] == NODATA).all()


def test_contradictions_are_refused():
    good = product(px=64)
    codes = good.embeddings.copy()
    codes[3, 40, 40] = NODATA
    with pytest.raises(ValueError, match="nodata in some bands but not in all"):
        TileProduct(good.tile, good.period, codes, good.status, good.counts)
    with pytest.raises(ValueError, match="status and nodata disagree"):
        TileProduct(good.tile, good.period, good.embeddings, np.ones_like(good.status), good.counts)
    with pytest.raises(ValueError, match="embeddings are int8"):
        TileProduct(good.tile, good.period, good.embeddings[:, 1:], good.status, good.counts)
