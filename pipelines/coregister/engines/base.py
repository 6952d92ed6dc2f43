"""What a reading engine is: pure crops of files on their own pixel grid, and nothing else.

No engine warps, scales or masks; :mod:`pipelines.coregister.warp` puts crops on the target grid, the same way for all.
An engine never raises for a file: it hands the exception back in the crop's place, so that one broken file costs one
file, and the caller decides what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from math import isclose, isfinite, isinf, isnan
from typing import Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.io import DatasetReader
from rasterio.windows import Window as FileWindow

# How GDAL behaves over HTTP. EMPTY_DIR saves the probes for sidecar files (261 -> 109 requests);
# retries here are few because the caller retries by class of failure; the cache is in bytes.
GDAL_ENV = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": 2,
    "GDAL_HTTP_RETRY_DELAY": 0.2,
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_CACHEMAX": 128 * 2**20,
    "GDAL_NUM_THREADS": 1,
    "VSI_CACHE": False,
}

# GDAL remembers that an address answered 404 or 403, and would answer the same from memory: of these it does not.
FORGOTTEN = "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/:/vsiadls/:/vsioss/:/vsiswift/"

# Bytes that come with the header. A file smaller than this before compression arrives whole in one request; for large
# files 32 kB holds the header, and more would only be thrown away.
HEADER_BYTES = 32 * 2**10
SMALL_FILE_BYTES = 2**20


def same_nodata(one: float, other: float) -> bool:
    """Whether two numbers that mean "not measured" are the same; NaN is NaN."""
    return one == other or (isnan(one) and isnan(other))


def held_nodata(nodata: float, dtype: np.dtype | str) -> float | None:
    """A number that means "not measured" as pixels of a type hold it; None where they hold no such number.

    Catalogs write -999.9 and mean the single-precision number next to it.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            held = float(dtype.type(nodata))
        return None if isinf(held) and not isinf(nodata) else held
    if dtype.kind not in "iu":
        return nodata
    limits = np.iinfo(dtype)
    whole = isfinite(nodata) and nodata == int(nodata)
    return float(nodata) if whole and limits.min <= nodata <= limits.max else None


def beside(nodata: float, dtype: np.dtype) -> float:
    """The number next to nodata, for what was measured as just that."""
    if dtype.kind == "f":
        return float(np.nextafter(dtype.type(nodata), dtype.type(np.inf)))
    return nodata + 1 if nodata < np.iinfo(dtype).max else nodata - 1


@dataclass(frozen=True)
class FileGrid:
    """The pixel grid of a north-up file: ``x = left + column * step_x``, ``y = top + row * step_y`` (step_y < 0).

    Attributes:
        epsg: code of the CRS; the CRS itself, as WKT, where it has none.
    """

    epsg: int | str
    left: float
    top: float
    step_x: float
    step_y: float
    height: int
    width: int

    @classmethod
    def of(cls, epsg: int | str, transform: Sequence[float], shape: Sequence[int], href: str) -> FileGrid:
        """From STAC ``proj:transform`` and ``proj:shape``.

        Raises:
            ValueError: a rotated or south-up file.
        """
        a, b, c, d, e, f = (float(number) for number in transform[:6])
        if b or d or a <= 0 or e >= 0:
            raise ValueError(
                f"{href}: transform {tuple(transform[:6])} is not north-up; warp the file with gdalwarp first"
            )
        return cls(epsg, c, f, a, e, int(shape[0]), int(shape[1]))

    def agrees(self, other: FileGrid) -> bool:
        """The same grid within a thousandth of a pixel."""
        slack = 1e-3 * self.step_x
        return (
            (self.height, self.width) == (other.height, other.width)
            and isclose(self.left, other.left, rel_tol=0, abs_tol=slack)
            and isclose(self.top, other.top, rel_tol=0, abs_tol=slack)
            and isclose(self.step_x, other.step_x, rel_tol=1e-6)
            and isclose(self.step_y, other.step_y, rel_tol=1e-6)
        )


@dataclass(frozen=True)
class Crop:
    """A rectangle of a file, wholly inside it.

    Attributes:
        href: signed address, ready to open.
        grid: of the whole file.
        dtype: of the stored numbers.
        nodata: stored number that means "not measured"; what the file's own mask or nodata hides becomes it.
        col, row, width, height: in the file's pixels.
        settings: GDAL configuration that this address needs; may hold credentials, so it is never printed.
        again: the file was tried before; what GDAL remembers of it must not be trusted.
        name: of the file, whatever its signature; its address where it has none.
        nodata_assumed: no catalog said so; a file that says otherwise is not what the crop was planned for.
        codes: every number is a code, also the one that the file calls nodata.
        renew: a refused address to one with a new signature, for engines that can go on in mid-read.
    """

    href: str
    grid: FileGrid
    dtype: str
    nodata: float
    col: int
    row: int
    width: int
    height: int
    again: bool = False
    settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    name: str = ""
    nodata_assumed: bool = False
    codes: bool = False
    renew: Callable[[str], str] | None = field(default=None, repr=False, compare=False)

    def agrees_on_nodata(self, stated: float | None) -> bool:
        """Whether a file's own word on nodata leaves the crop's as it is."""
        return stated is None or not self.nodata_assumed or same_nodata(stated, self.nodata)

    def hides(self, stated: float | None) -> float | None:
        """A file's own nodata, where it is another than the crop's and means the same."""
        held = None if stated is None or self.codes else held_nodata(stated, self.dtype)
        return None if held is None or same_nodata(held, self.nodata) else held

    @property
    def gdal_env(self) -> dict[str, object]:
        """GDAL's settings for opening this file."""
        size = self.grid.width * self.grid.height * np.dtype(self.dtype).itemsize
        env: dict[str, object] = {**GDAL_ENV}
        env["GDAL_INGESTED_BYTES_AT_OPEN"] = max(HEADER_BYTES, size if size <= SMALL_FILE_BYTES else 0)
        if self.again:
            env["CPL_VSIL_CURL_NON_CACHED"] = FORGOTTEN
        return {**env, **dict(self.settings)}

    @property
    def window(self) -> FileWindow:
        return FileWindow(self.col, self.row, self.width, self.height)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """west, south, east, north in the file's CRS, on the file's pixel edges."""
        grid = self.grid
        west, north = grid.left + self.col * grid.step_x, grid.top + self.row * grid.step_y
        return west, north + self.height * grid.step_y, west + self.width * grid.step_x, north


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    grid: FileGrid
    dtype: str
    nodata: float | None


class HeaderMismatch(Exception):
    """The catalog described the file wrongly; carries what the file itself says."""

    def __init__(self, href: str, header: Header) -> None:
        super().__init__(f"{href}: the file's header differs from the catalog: {header}")
        self.header = header

    def __reduce__(self) -> tuple:
        return HeaderMismatch, (str(self), self.header)


Reader = Callable[[Crop], NDArray | Exception]


class Engine(Protocol):
    """Reads crops."""

    def read(self, crops: Sequence[Crop], threads: int) -> list[NDArray | Exception]:
        """The pixels of each crop ``(height, width)`` in its dtype, or why there are none, in the order given."""
        ...


def in_threads(read: Reader, crops: Sequence[Crop], threads: int) -> list[NDArray | Exception]:
    """Every crop by a function that reads one, some at a time; in the order given."""
    if len(crops) <= 1 or threads <= 1:
        return [read(crop) for crop in crops]
    with ThreadPoolExecutor(min(threads, len(crops))) as pool:
        return list(pool.map(read, crops))


def header_of(dataset: DatasetReader, href: str) -> Header:
    """Grid, dtype and nodata of an open file.

    Raises:
        ValueError: several bands, no CRS, or not north-up.
    """
    if dataset.count != 1:
        raise ValueError(f"{href} has {dataset.count} bands; an asset must hold one")
    if not dataset.crs:
        raise ValueError(f"{href} has no CRS; assign one with gdal_edit.py -a_srs")
    wkt = dataset.crs.to_wkt()
    return Header(
        FileGrid.of(_epsg(wkt) or wkt, tuple(dataset.transform), dataset.shape, href), dataset.dtypes[0], dataset.nodata
    )


@lru_cache(maxsize=256)
def _epsg(wkt: str) -> int | None:
    """Code of a CRS; to find it costs more than to open a small file."""
    code: int | None = CRS.from_wkt(wkt).to_epsg() if wkt else None
    return code


def read_header(href: str, settings: tuple[tuple[str, str], ...] = (), *, again: bool = False) -> Header:
    """Opens a file for its header alone; ``settings`` and ``again`` as in :class:`Crop`."""
    env: dict[str, object] = {**GDAL_ENV, "GDAL_INGESTED_BYTES_AT_OPEN": HEADER_BYTES, **dict(settings)}
    if again:
        env["CPL_VSIL_CURL_NON_CACHED"] = FORGOTTEN
        _forget_bucket(href, env)
    with rasterio.Env(**env), rasterio.open(href, sharing=False) as dataset:
        return header_of(dataset, href)


@contextmanager
def opened(crop: Crop) -> Iterator[DatasetReader]:
    """The file of a crop, if it is what the crop was planned for.

    Raises:
        HeaderMismatch: it is not.
        rasterio.errors.RasterioIOError: it cannot be opened.
    """
    env = crop.gdal_env
    if crop.again:
        _forget_bucket(crop.href, env)
    with rasterio.Env(**env), rasterio.open(crop.href, sharing=False) as dataset:
        check_header(dataset, crop)
        yield dataset


def read_pixels(dataset: DatasetReader, crop: Crop, window: FileWindow) -> NDArray:
    """A window of an open file as it is stored; what the file's own mask or nodata hides is the crop's nodata."""
    values: NDArray = dataset.read(1, window=window)
    if (own := crop.hides(dataset.nodata)) is not None:
        values[values == own] = crop.nodata
    if dataset.mask_flag_enums[0] == [MaskFlags.per_dataset]:
        if dataset.nodata is None and not crop.codes:  # the mask alone says what was measured
            values[values == crop.nodata] = beside(crop.nodata, values.dtype)
        values[dataset.read_masks(1, window=window) == 0] = crop.nodata
    return values


def _forget_bucket(href: str, env: Mapping[str, object]) -> None:
    """Has GDAL forget an object of a bucket: under ``FORGOTTEN`` it does so after the next opening, not before it."""
    if "://" in href and not href.startswith(("http://", "https://")):
        with suppress(rasterio.errors.RasterioIOError), rasterio.Env(**env), rasterio.open(href, sharing=False):
            pass


def check_header(dataset: DatasetReader, crop: Crop) -> None:
    """Raises :class:`HeaderMismatch` when an open file is not what the crop was planned for.

    A file whose CRS has no EPSG code is taken to be in the catalog's.
    """
    transform = dataset.transform
    seen = FileGrid(crop.grid.epsg, transform.c, transform.f, transform.a, transform.e, *dataset.shape)
    alike = dataset.dtypes[0] == crop.dtype and seen.agrees(crop.grid) and crop.agrees_on_nodata(dataset.nodata)
    alike &= _epsg(dataset.crs.to_wkt() if dataset.crs else "") in (None, crop.grid.epsg)
    if dataset.count != 1 or transform.b or not alike:
        raise HeaderMismatch(crop.href, header_of(dataset, crop.href))
