"""Tiles as cloud-optimised GeoTIFFs in the layout of the public AlphaEarth dataset, north up.

GDAL can only average codes, and the mean of codes is not the code of the mean: at a reduction of 32 the cosine to the
right vector falls to 0.97. So overviews are made here, from the full-resolution vectors, and handed to GDAL by a VRT.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile

from pipelines.grid import Window, format_time
from pipelines.products.quantise import DIMENSIONS, NODATA, POWER, SCALE, dequantize, quantize
from pipelines.products.tile import TileProduct
from pipelines.storage import Storage, StorageFullError

BAND_NAMES = tuple(f"A{band:02d}" for band in range(DIMENSIONS))
BLOCK_PX = 256
SMALL_BLOCK_PX = 128
"""GDAL's smallest; every overview of a small tile is padded to a block in all 64 bands."""
FULL_BELOW_BYTES = 1 << 20
STRIP_PX = 256
"""Rows held as floats while overviews are made; a power of two."""


def overview_codes(codes: NDArray[np.int8], strip_px: int = STRIP_PX) -> list[NDArray[np.int8]]:
    """All overviews of a tile, each half of the one before (rounded up), down to one pixel.

    Every overview pixel is the mean of the valid full-resolution vectors beneath it, scaled back to length 1; nodata
    only where none of them is valid.

    Args:
        codes: ``(64, H, W)``.
        strip_px: rows decoded at a time, a power of two; bounds the memory, does not change the result by more than
            rounding.
    """
    depth = strip_px.bit_length() - 1
    strips: list[list[NDArray[np.int8]]] = []
    sums: list[NDArray[np.float32]] = []
    for top in range(0, codes.shape[1], strip_px):
        vectors = np.nan_to_num(dequantize(codes[:, top : top + strip_px], axis=0), copy=False)
        levels, rest = _reduce(vectors, depth)
        strips.append(levels)
        sums.append(rest)
    overviews = [np.concatenate([strip[level] for strip in strips], axis=1) for level in range(depth)]
    # The coarsest sums of all strips are one small image; go on from there.
    wanted = math.ceil(math.log2(max(codes.shape[1:])))
    more, _ = _reduce(np.concatenate(sums, axis=1), max(0, wanted - depth))
    return [*overviews, *more][:wanted]


def cog_bytes(product: TileProduct, tags: Mapping[str, str], scratch: str | None = None) -> bytes:
    """A tile's embeddings as one COG.

    Args:
        product: the tile.
        tags: written as file metadata beside those that describe period, zone and quantisation.
        scratch: folder for temporary files of about three times the tile's size; the system's by default.
    """
    window, codes = product.tile.window, product.embeddings
    tags = {**_common_tags(product), **tags}
    with tempfile.TemporaryDirectory(prefix="aef_cog_", dir=scratch) as folder:
        files = []
        with _clear_space(folder):
            for level, data in enumerate([codes, *overview_codes(codes)]):
                files.append((f"{folder}/level_{level:02d}.tif", data.shape[2], data.shape[1]))
                _write_plain(files[-1][0], data, window, level)
        vrt = Path(folder, "tile.vrt")
        vrt.write_text(_vrt(files, window, tags), encoding="utf-8")
        target = Path(folder, "tile.tiff")
        with rasterio.Env(GDAL_NUM_THREADS="1"), _clear_space(folder):
            rasterio.shutil.copy(vrt, target, driver="COG", OVERVIEWS="FORCE_USE_EXISTING", **_creation_options(window))
        return target.read_bytes()


def counts_bytes(product: TileProduct, tags: Mapping[str, str]) -> bytes:
    """Status and observation counts as one COG of uint16 bands ``status``, ``count_<source>``; overviews pick."""
    names = ["status", *(f"count_{source}" for source in product.counts)]
    bands = np.stack([product.status.astype(np.uint16), *product.counts.values()])
    window = product.tile.window
    with MemoryFile() as plain, MemoryFile() as target:
        with plain.open(driver="GTiff", dtype="uint16", count=len(bands), **_grid(window)) as dataset:
            dataset.write(bands)
            dataset.descriptions = names
            dataset.update_tags(
                **_common_tags(product), **tags, STATUS="0 outside, 1 valid, 2 no observations, 3 failed"
            )
        with plain.open() as dataset, rasterio.Env(GDAL_NUM_THREADS="1"):
            options = _creation_options(window) | {"OVERVIEW_RESAMPLING": "NEAREST"}
            rasterio.shutil.copy(dataset, target.name, driver="COG", **options)
        return bytes(target.read())


@contextmanager
def open_raster(storage: Storage, path: str) -> Iterator[DatasetReader]:
    """A raster on storage, read by ranges where GDAL knows the store."""
    if storage.root.startswith("memory://"):
        with MemoryFile(storage.read_bytes(path)) as memory, memory.open() as dataset:
            yield dataset
        return
    # Sidecar files are never written; looking for them costs requests.
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), rasterio.open(storage.gdal_path(path)) as dataset:
        yield dataset


def read_codes(data: bytes) -> tuple[NDArray[np.int8], dict[str, str]]:
    """Codes ``(64, H, W)`` and tags of a tile's COG."""
    with MemoryFile(data) as memory, memory.open() as dataset:
        return dataset.read(), dataset.tags()


@contextmanager
def _clear_space(folder: str) -> Iterator[None]:
    """GDAL reports a full disk as a failed write; say which disk it was."""
    try:
        yield
    except (RasterioError, CPLE_BaseError) as error:
        if shutil.disk_usage(folder).free < FULL_BELOW_BYTES:
            raise StorageFullError(
                f"no space left for temporary files in {Path(folder).parent}; free space or set TMPDIR, then run again"
            ) from error
        raise


def _reduce(sums: NDArray[np.float32], depth: int) -> tuple[list[NDArray[np.int8]], NDArray[np.float32]]:
    """Halve sums of vectors ``(64, H, W)`` ``depth`` times; the codes of each level, and the last sums.

    The mean's direction is the sum's, so no counts are needed.
    """
    levels = []
    for _ in range(depth):
        _, height, width = sums.shape
        padded = np.pad(sums, ((0, 0), (0, height % 2), (0, width % 2)))
        sums = padded.reshape(len(sums), (height + 1) // 2, 2, (width + 1) // 2, 2).sum(axis=(2, 4))
        length = np.sqrt((sums * sums).sum(axis=0))
        levels.append(quantize(sums / np.where(length == 0, 1, length), axis=0))
    return levels, sums


def _creation_options(window: Window) -> dict[str, str | int]:
    return {
        "COMPRESS": _compression(),
        "PREDICTOR": "YES",
        "BLOCKSIZE": SMALL_BLOCK_PX if max(window.shape) <= SMALL_BLOCK_PX else BLOCK_PX,
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": 1,
    }


@lru_cache(maxsize=1)
def _compression() -> str:
    """ZSTD, or DEFLATE where GDAL was built without it, which only an attempt tells."""
    grid = {"width": 1, "height": 1, "count": 1, "dtype": "uint8", "transform": Affine.scale(10, -10)}
    try:
        with MemoryFile() as memory, memory.open(driver="GTiff", compress="ZSTD", **grid) as dataset:
            dataset.write(np.zeros((1, 1, 1), np.uint8))
    except RasterioError:
        return "DEFLATE"
    return "ZSTD"


def _common_tags(product: TileProduct) -> dict[str, str]:
    return {
        "TILE_ID": product.tile.tile_id,
        "UTM_ZONE": product.zone,
        "PERIOD": product.period.label,
        "TIME_START": format_time(product.period.start_ms),
        "TIME_END": format_time(product.period.end_ms),
        "QUANTISATION": f"x = sign(q) * (abs(q) / {SCALE}) ** {POWER:g}; -128 is nodata; renormalise to length 1",
    }


def _grid(window: Window) -> dict[str, object]:
    return {
        "width": window.width_px,
        "height": window.height_px,
        "crs": CRS.from_epsg(window.epsg),
        "transform": window.transform,
    }


def _write_plain(path: str, data: NDArray[np.int8], window: Window, level: int) -> None:
    _, height, width = data.shape
    profile = {
        "driver": "GTiff",
        "dtype": "int8",
        "count": len(data),
        "height": height,
        "width": width,
        "nodata": NODATA,
        "crs": CRS.from_epsg(window.epsg),
        "transform": window.transform @ Affine.scale(2**level),
        "interleave": "band",
        "BIGTIFF": "IF_SAFER",
    }
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(data)


def _vrt(files: list[tuple[str, int, int]], window: Window, tags: Mapping[str, str]) -> str:
    """A VRT whose first file is the image and whose others are its overviews."""
    root = ElementTree.Element("VRTDataset", rasterXSize=str(window.width_px), rasterYSize=str(window.height_px))
    ElementTree.SubElement(root, "SRS").text = f"EPSG:{window.epsg}"
    ElementTree.SubElement(root, "GeoTransform").text = ", ".join(str(number) for number in window.transform.to_gdal())
    metadata = ElementTree.SubElement(root, "Metadata")
    for key in sorted(tags):
        ElementTree.SubElement(metadata, "MDI", key=key).text = str(tags[key])
    for band, name in enumerate(BAND_NAMES, start=1):
        element = ElementTree.SubElement(root, "VRTRasterBand", dataType="Int8", band=str(band))
        ElementTree.SubElement(element, "Description").text = name
        ElementTree.SubElement(element, "NoDataValue").text = str(NODATA)
        source = ElementTree.SubElement(element, "SimpleSource")
        for parent, (path, width, height) in [
            (source, files[0]),
            *((ElementTree.SubElement(element, "Overview"), file) for file in files[1:]),
        ]:
            ElementTree.SubElement(parent, "SourceFilename", relativeToVRT="0").text = path
            ElementTree.SubElement(parent, "SourceBand").text = str(band)
            if parent is source:
                extent = {"xOff": "0", "yOff": "0", "xSize": str(width), "ySize": str(height)}
                ElementTree.SubElement(parent, "SrcRect", extent)
                ElementTree.SubElement(parent, "DstRect", extent)
    return ElementTree.tostring(root, encoding="unicode")
