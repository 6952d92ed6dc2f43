"""The block engine: the same bits as GDAL for every layout, few bytes, and no stale ones."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import patience
from pipelines.coregister.engines import Crop, FileGrid, HeaderMismatch, cog, engine, ranges
from pipelines.coregister.engines.blocks import BLOCK_CACHE_BYTES, BlockCache
from pipelines.coregister.engines.scratch import BlockKey
from pipelines.coregister.engines.tiff import TooShort, Unsupported, parse
from tests.coregister.files import EPSG, LEFT, TOP, write_raster
from tests.coregister.served import serve

HEIGHT, WIDTH = 150, 133


def write(path, dtype="uint16", height=HEIGHT, width=WIDTH, nodata=0, seed=0, values=None, **options):
    rng = np.random.default_rng(seed)
    if values is None:
        values = rng.normal(1000, 400, (height, width)).clip(1, 250 if np.dtype(dtype).itemsize == 1 else 9000)
        values = values.astype(dtype)
    write_raster(path, values, LEFT, TOP, 10, nodata=nodata, layout=options)
    return values


def crop_of(href, dtype="uint16", col=0, row=0, width=WIDTH, height=HEIGHT, size=(HEIGHT, WIDTH), **fields) -> Crop:
    grid = FileGrid(EPSG, LEFT, TOP, 10, -10, *size)
    return Crop(str(href), grid, dtype, 0, col, row, width, height, **fields)


def read(crop: Crop):
    (found,) = engine("cog").read([crop], 1)
    if isinstance(found, Exception):
        raise found
    return found


@pytest.fixture(autouse=True)
def nothing_kept():
    cog.forget_files()


@pytest.fixture
def without_gdal(monkeypatch):
    """Fails where GDAL would be asked."""
    monkeypatch.setattr(cog, "read_crop", lambda crop: pytest.fail(f"{crop.href} went to GDAL"))


TILED = {"tiled": True, "blockxsize": 64, "blockysize": 48}
LAYOUTS = {
    "tiles": TILED,
    "strips": {"blockysize": 7},
    "one strip": {"blockysize": HEIGHT},
    "big": {**TILED, "BIGTIFF": "YES"},
}
CODINGS = {
    "plain": {},
    "deflate": {"compress": "deflate"},
    "differences": {"compress": "deflate", "predictor": 2},
    "planes": {"compress": "deflate", "predictor": 3},
}


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize(("layout", "coding"), product(LAYOUTS, CODINGS))
def test_every_layout_gives_gdals_bits(tmp_path, without_gdal, dtype, layout, coding):
    if (coding == "planes") != (dtype.startswith("float") and coding == "planes"):
        pytest.skip("planes are of floating-point numbers")
    if coding == "differences" and dtype == "float64":
        pytest.skip("differences of eight bytes are left to GDAL")
    path = tmp_path / "a.tif"
    write(path, dtype, **LAYOUTS[layout], **CODINGS[coding])
    with rasterio.open(path) as file:
        expected = file.read(1)
    for col, row, width, height in ((0, 0, WIDTH, HEIGHT), (31, 47, 70, 60), (64, 48, 64, 48), (132, 149, 1, 1)):
        found = read(crop_of(path, dtype, col, row, width, height))
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, expected[row : row + height, col : col + width])


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "lzw"},
        {"compress": "zstd"},
        {"compress": "deflate", "ENDIANNESS": "BIG"},
        {"driver": "COG", "compress": "lerc"},
    ],
)
def test_what_it_does_not_know_goes_to_gdal(tmp_path, options):
    path = tmp_path / "a.tif"
    values = write(path, **options)
    np.testing.assert_array_equal(read(crop_of(path, col=3, row=5, width=20, height=30)), values[5:35, 3:23])


def test_a_file_that_is_not_as_described_is_refused_with_its_own_header(tmp_path):
    path = tmp_path / "a.tif"
    write(path, **TILED, compress="deflate")
    for crop in (crop_of(path, "int16"), crop_of(path, size=(HEIGHT, WIDTH - 1)), crop_of(path, width=10)):
        moved = replace(crop, grid=replace(crop.grid, left=LEFT + 10))
        (found,) = engine("cog").read([moved], 1)
        assert isinstance(found, HeaderMismatch) and found.header.grid.left == LEFT


def test_pixels_whose_centres_are_stated_lie_half_a_pixel_off(tmp_path, without_gdal):
    """AREA_OR_POINT=Point: the tie point is the centre of the first pixel, GDAL gives its corner."""
    path = tmp_path / "a.tif"
    values = write(path)
    with rasterio.open(path, "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    with rasterio.open(path) as file:
        assert file.transform.c == LEFT
    np.testing.assert_array_equal(read(crop_of(path)), values)


def test_blocks_that_were_never_written_are_nodata(tmp_path, without_gdal):
    path = tmp_path / "a.tif"
    values = np.full((HEIGHT, WIDTH), 7, np.uint16)
    values[:48] = 500
    write(path, values=values, nodata=7, SPARSE_OK=True, compress="deflate", **TILED)
    image = parse(path.read_bytes())
    assert (image.counts == 0).any()
    np.testing.assert_array_equal(read(replace(crop_of(path), nodata=7)), values)


def test_overviews_and_masks_behind_the_image_do_not_disturb(tmp_path, without_gdal):
    path = tmp_path / "a.tif"
    values = write(path, height=1200, width=1100, driver="COG", blocksize=256, compress="deflate", predictor="YES")
    found = read(crop_of(path, col=100, row=200, width=900, height=800, size=(1200, 1100)))
    np.testing.assert_array_equal(found, values[200:1000, 100:1000])


def test_a_cut_file_is_corrupt_and_never_a_hole(tmp_path):
    path = tmp_path / "a.tif"
    write(path, height=800, width=800, compress="deflate", **TILED)
    path.write_bytes(path.read_bytes()[:200_000])
    (found,) = engine("cog").read([crop_of(path, size=(800, 800), width=800, height=800)], 1)
    assert isinstance(found, OSError)


def test_a_file_that_is_written_again_is_read_again(tmp_path, without_gdal):
    path = tmp_path / "a.tif"
    first = write(path, seed=1, **TILED)
    np.testing.assert_array_equal(read(crop_of(path)), first)
    second = write(tmp_path / "b.tif", seed=2, **TILED)
    os.replace(tmp_path / "b.tif", path)
    np.testing.assert_array_equal(read(crop_of(path)), second)


def test_headers_that_are_cut_say_how_much_they_need(tmp_path):
    write(tmp_path / "a.tif", height=2000, width=2000, tiled=True, blockxsize=16, blockysize=16)
    content = (tmp_path / "a.tif").read_bytes()
    with pytest.raises(TooShort) as short:
        parse(content[:200])
    assert 200 < short.value.needed <= len(content)
    np.testing.assert_array_equal(read(crop_of(tmp_path / "a.tif", size=(2000, 2000))).shape, (HEIGHT, WIDTH))
    with pytest.raises(ValueError, match="not a TIFF"):
        parse(b"<html>" + bytes(100))
    with pytest.raises(Unsupported, match="big-endian"):
        parse(b"MM\x00*" + bytes(100))


# -- over HTTP -------------------------------------------------------------------------------------------------------

BIG = {"height": 3000, "width": 2900, "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
SIZE = (3000, 2900)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    folder = tmp_path_factory.mktemp("big")
    return folder, write(folder / "a.tif", predictor=2, **BIG)


def test_a_window_is_a_header_and_one_request_a_row_of_blocks(big, without_gdal):
    folder, values = big
    with serve(folder) as server:
        crop = crop_of(f"{server.url}/a.tif?token=1", col=300, row=700, width=1024, height=1024, size=SIZE)
        np.testing.assert_array_equal(read(crop), values[700:1724, 300:1324])
        assert len(server.requests) == 1 + 3
        assert {line.split()[0] for line in server.requests} == {"GET"}


def test_neighbouring_windows_fetch_their_common_blocks_once(big, without_gdal):
    """2 x 2 windows, all of whose blocks are 5 x 5: without sharing 36 are fetched."""
    folder, values = big
    with serve(folder) as server:
        for row, col in product((700, 1724), (300, 1324)):
            crop = crop_of(f"{server.url}/a.tif", col=col, row=row, width=1024, height=1024, size=SIZE)
            np.testing.assert_array_equal(read(crop), values[row : row + 1024, col : col + 1024])
        sizes = parse((folder / "a.tif").read_bytes()).counts
        assert server.sent < 1.02 * sizes[1:6, 0:5].sum() + 2**16


@pytest.mark.parametrize("fault", [404, 403, 503, "truncate"])
def test_faults_come_back_as_errors_and_a_second_try_starts_afresh(big, fault):
    folder, values = big
    # As often as one range is asked for; the header is sound.
    times = {404: patience.ABSENT, 403: patience.FINAL}.get(fault, patience.PASSING)
    with serve(folder, lambda path, seen: fault if 2 <= seen < 2 + times else None) as server:
        crop = crop_of(f"{server.url}/a.tif", col=0, row=0, width=1500, height=1500, size=SIZE)
        (found,) = engine("cog").read([crop], 1)
        assert isinstance(found, OSError)
        assert str(fault) in str(found) or fault == "truncate"
        np.testing.assert_array_equal(read(replace(crop, again=True)), values[:1500, :1500])


def test_a_file_that_is_replaced_between_two_ranges_is_no_mixture(big, tmp_path):
    folder, _ = big
    content = (folder / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content)

    def spoil(path, seen):
        if seen == 1:
            write(tmp_path / "a.tif", seed=9, **BIG)
        return None

    with serve(tmp_path, spoil) as server:
        crop = crop_of(f"{server.url}/a.tif", col=0, row=0, width=1500, height=1500, size=SIZE)
        (found,) = engine("cog").read([crop], 1)
        assert isinstance(found, ConnectionError) and "another version" in str(found)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_window_after_any_others_is_the_files(big, data):
    """Whatever is kept from earlier windows, and however little may be kept."""
    folder, values = big
    cog.BLOCKS.limit_bytes = data.draw(st.sampled_from([0, 2**19, BLOCK_CACHE_BYTES]))
    try:
        for _ in range(3):
            row, col = data.draw(st.integers(0, 2900)), data.draw(st.integers(0, 2800))
            height, width = data.draw(st.integers(1, 3000 - row)), data.draw(st.integers(1, 2900 - col))
            found = read(crop_of(folder / "a.tif", col=col, row=row, width=width, height=height, size=SIZE))
            np.testing.assert_array_equal(found, values[row : row + height, col : col + width])
    finally:
        cog.BLOCKS.limit_bytes = BLOCK_CACHE_BYTES


def key(address, number):
    return BlockKey(address, "1", number)


def test_the_cache_keeps_its_bound_and_drops_what_is_used_up():
    cache = BlockCache(100)
    for block in range(5):
        cache.put(key("a", block), bytes(40), 10)
    assert cache.held_bytes == 80 and cache.take(key("a", 2), 1) is None
    assert cache.take(key("a", 3), 4) == bytes(40)
    assert cache.take(key("a", 3), 6) == bytes(40)  # the last pixels
    assert cache.take(key("a", 3), 1) is None and cache.held_bytes == 40
    cache.put(key("b", 0), bytes(200), 10)  # larger than the bound
    assert cache.held_bytes == 40
    cache.forget("a")
    assert cache.held_bytes == 0


@pytest.mark.parametrize("fault", [503, 429, 500, "truncate"])
def test_a_range_that_fails_is_asked_for_again_by_itself(tmp_path, without_gdal, fault):
    values = write(tmp_path / "a.tif", height=900, width=700, **TILED, compress="deflate")
    whole = {"width": 700, "height": 900, "size": (900, 700)}
    with serve(tmp_path) as server:
        assert np.array_equal(read(crop_of(f"{server.url}/a.tif", **whole)), values)
        sound = len(server.requests)
    cog.forget_files()
    with serve(tmp_path, lambda path, seen: fault if seen == 1 else None) as server:
        assert np.array_equal(read(crop_of(f"{server.url}/a.tif", **whole)), values)
        assert len(server.requests) == sound + 1 > 2


def spoiled(monkeypatch, times):
    """The first so many answers after the header arrive whole, with other bytes."""
    ask, left = ranges.HttpBytes._ask, [times]

    def _ask(self, url, start, end):
        content, identity = ask(self, url, start, end)
        if start and left[0]:
            left[0] -= 1
            content = b"\x07" * len(content)
        return content, identity

    monkeypatch.setattr(ranges.HttpBytes, "_ask", _ask)


def test_a_block_that_cannot_be_inflated_is_fetched_once_more(tmp_path, monkeypatch, without_gdal):
    values = write(tmp_path / "a.tif", height=900, width=700, **TILED, compress="deflate")
    whole = {"width": 700, "height": 900, "size": (900, 700)}
    blocks = -(-700 // 64) * -(-900 // 48)
    spoiled(monkeypatch, 1)
    with serve(tmp_path) as server:
        assert np.array_equal(read(crop_of(f"{server.url}/a.tif", **whole)), values)
        assert len(server.requests) <= 2 + blocks
    cog.forget_files()
    spoiled(monkeypatch, 10_000)
    with serve(tmp_path) as server, pytest.raises(cog.CorruptBlock, match="cannot be inflated"):
        read(crop_of(f"{server.url}/a.tif", **whole))
    assert len(server.requests) == 3


@pytest.mark.parametrize("layout", [{"blockysize": HEIGHT}, {"tiled": True, "blockxsize": 256, "blockysize": 256}])
def test_no_flipped_bit_of_a_block_that_is_used_to_its_end_passes(tmp_path, layout):
    """Deflate has a checksum behind its last byte; a tile's last rows lie beyond the image."""
    path = tmp_path / "a.tif"
    values = write(path, compress="deflate", predictor=2, **layout)
    whole = path.read_bytes()
    image = parse(whole)
    start, size = int(image.offsets[0, 0]), int(image.counts[0, 0])
    rng = np.random.default_rng(0)
    for at, bit in zip(rng.integers(start, start + size, 200), rng.integers(0, 8, 200), strict=True):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << bit
        path.write_bytes(flipped)
        cog.forget_files()
        (found,) = engine("cog").read([crop_of(path)], 1)
        assert isinstance(found, Exception) or np.array_equal(found, values), (at, bit)
