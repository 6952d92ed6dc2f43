from __future__ import annotations

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from pipelines.coregister.engines import ENGINES, Crop, FileGrid, HeaderMismatch, cog, engine
from pipelines.coregister.engines.tiff import parse
from tests.coregister.files import EPSG, LEFT, TOP, noise, write_raster


def crops_of(tmp_path, kinds=("uint16", "uint8", "float32")) -> list[Crop]:
    crops = []
    for index, dtype in enumerate(kinds * 3):
        step = (10, 20, 60)[index % 3]
        values = noise((90, 80), index, holes=0.1).astype(dtype)
        path = write_raster(tmp_path / f"{index}.tif", values, LEFT, TOP, step)
        grid = FileGrid(EPSG, LEFT, TOP, step, -step, 90, 80)
        crops.append(Crop(str(path), grid, dtype, 0, 3 * (index % 2), 5, 40 + index, 60))
        crops.append(Crop(str(path), grid, dtype, 0, 0, 0, 80, 90))
    return crops


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("threads", [1, 4])
def test_every_engine_gives_the_files_own_pixels(tmp_path, name: str, threads: int):
    crops = crops_of(tmp_path)
    for crop, pixels in zip(crops, engine(name).read(crops, threads), strict=True):
        with rasterio.open(crop.href) as file:
            expected = file.read(1)[crop.row : crop.row + crop.height, crop.col : crop.col + crop.width]
        assert pixels.dtype == crop.dtype
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("name", ENGINES)
def test_a_broken_file_costs_only_itself(tmp_path, name: str):
    crops = crops_of(tmp_path, ("uint16",))
    crops[1] = Crop(str(tmp_path / "absent.tif"), *[getattr(crops[0], f) for f in list(Crop.__annotations__)[1:]])
    results = engine(name).read(crops, 2)
    assert isinstance(results[1], Exception)
    assert all(isinstance(result, np.ndarray) for index, result in enumerate(results) if index != 1)


@pytest.mark.parametrize("name", ENGINES)
def test_a_file_that_is_not_as_described_is_refused_with_its_own_header(tmp_path, name: str):
    path = write_raster(tmp_path / "a.tif", noise((50, 50), 0), LEFT, TOP, 10)
    shifted = FileGrid(EPSG, LEFT + 10, TOP, 10, -10, 50, 50)
    (result,) = engine(name).read([Crop(str(path), shifted, "uint16", 0, 0, 0, 50, 50)], 1)
    assert isinstance(result, HeaderMismatch)
    assert result.header.grid == FileGrid(EPSG, LEFT, TOP, 10, -10, 50, 50)


@pytest.mark.parametrize("big", ["YES", "NO"])
def test_a_mask_behind_pixels_and_overviews_is_found_once(tmp_path, monkeypatch, big: str):
    values, seen = noise((1200, 1100), 0), np.random.default_rng(1).random((1200, 1100)) < 0.8
    values[:50] = 0  # measured, as the mask says
    layout = {"compress": "deflate", "BIGTIFF": big}
    path = write_raster(tmp_path / "a.tif", values, LEFT, TOP, 10, nodata=None, layout=layout)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
        file.write_mask(seen)
    opened = []
    monkeypatch.setattr(cog, "parse", lambda head: opened.append(1) or parse(head))
    for row in (5, 300):
        crop = Crop(str(path), FileGrid(EPSG, LEFT, TOP, 10, -10, 1200, 1100), "uint16", 0, 3, row, 700, 80)
        (pixels,) = engine("cog").read([crop], 1)
        expected = np.where(seen, np.maximum(values, 1), 0)[row : row + 80, 3:703]
        np.testing.assert_array_equal(pixels, expected)
    assert len(opened) == 1


@pytest.mark.parametrize("driver", ["GTiff", "COG"])
@pytest.mark.parametrize("name", ENGINES)
def test_what_the_files_own_mask_hides_is_nodata(tmp_path, name: str, driver: str):
    values, seen = noise((90, 80), 0), np.random.default_rng(1).random((90, 80)) < 0.8
    plain = write_raster(tmp_path / "plain.tif", values, LEFT, TOP, 10, nodata=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(plain, "r+") as file:
        file.write_mask(seen)
    path = tmp_path / "a.tif"
    rasterio.shutil.copy(plain, path, driver=driver, compress="deflate")
    assert not path.with_suffix(".tif.msk").exists()
    crop = Crop(str(path), FileGrid(EPSG, LEFT, TOP, 10, -10, 90, 80), "uint16", 0, 3, 5, 70, 80)
    (pixels,) = engine(name).read([crop], 1)
    np.testing.assert_array_equal(pixels, np.where(seen, values, 0)[5:85, 3:73])


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("name", ENGINES)
def test_what_the_file_calls_nodata_is_nodata_beside_what_the_catalog_does(tmp_path, name: str, codes: bool):
    values = noise((90, 80), 0, holes=0.1)
    values[5:9] = 65535
    path = write_raster(tmp_path / "a.tif", values, LEFT, TOP, 10, nodata=65535)
    crop = Crop(str(path), FileGrid(EPSG, LEFT, TOP, 10, -10, 90, 80), "uint16", 0, 0, 0, 80, 90, codes=codes)
    (pixels,) = engine(name).read([crop], 1)
    np.testing.assert_array_equal(pixels, values if codes else np.where(values == 65535, 0, values))


@pytest.mark.parametrize("driver", ["GTiff", "COG"])
def test_overviews_before_and_behind_the_pixels_are_passed_over(tmp_path, monkeypatch, driver: str):
    values = noise((1200, 1100), 0)
    path = write_raster(tmp_path / "a.tif", values, LEFT, TOP, 10, layout={"compress": "deflate"})
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    if driver == "COG":
        path = tmp_path / "cog.tif"
        rasterio.shutil.copy(tmp_path / "a.tif", path, driver=driver, compress="deflate")
    assert (parse(path.read_bytes()[:8192]).following < 8192) == (driver == "COG")
    monkeypatch.setattr(cog, "read_crop", lambda crop: pytest.fail(f"{crop.href} went to GDAL"))
    crop = Crop(str(path), FileGrid(EPSG, LEFT, TOP, 10, -10, 1200, 1100), "uint16", 0, 3, 5, 70, 80)
    (pixels,) = engine("cog").read([crop], 1)
    np.testing.assert_array_equal(pixels, values[5:85, 3:73])


def test_unknown_engine_is_named():
    with pytest.raises(ValueError, match=r"'gdalwarp'.*stackstac"):
        engine("gdalwarp")
