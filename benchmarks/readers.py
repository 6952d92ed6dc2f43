"""The readers that benchmarks/reading.py compares, on one granule that is served under many addresses.

A reader gives the pixels ``(date, band, y, x)`` of one window.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window as FileWindow

from pipelines.grid import Window

EPSG, LEFT, TOP = 32631, 600_000, 5_700_000
BLOCK = 1024
PATCH = 128
BANDS = ("red", "nir")
# Of the notes on raster reading: what a year of one band compresses to.
NOISE = 100.0
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Work:
    """What is read.

    Attributes:
        url: of the server.
        side: of the files in pixels.
        size: of a window in pixels.
        row, col: of the first window, unaligned to the blocks.
        dates: frames; each has two bands.
        across: windows of the area along each side.
        threads: of a reader.
        share: part of the patches that patch-by-patch readers read.
    """

    url: str
    side: int
    size: int
    row: int
    col: int
    dates: int
    across: int
    threads: int
    share: int

    @property
    def hrefs(self) -> list[tuple[int, str, str]]:
        """(date, band, address) of every asset."""
        names = [(date, band) for date in range(self.dates) for band in BANDS]
        return [(date, band, f"{self.url}/copy{index}-granule.tif") for index, (date, band) in enumerate(names)]

    def window(self, row: int = 0, col: int = 0) -> Window:
        """A window of the area."""
        left, top = self.col + col * self.size, self.row + row * self.size
        return Window(EPSG, LEFT + left * 10, TOP - top * 10, self.size, self.size)

    @property
    def pfb(self) -> int:
        return (self.size // PATCH) ** 2 * self.dates * len(BANDS)


def build_granule(folder: Path, side: int) -> Path:
    """A file like a Sentinel-2 band: smooth ground with sensor noise, compressed about 1.45 to 1."""
    path = folder / "granule.tif"
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff",
        "width": side,
        "height": side,
        "count": 1,
        "dtype": "uint16",
        "nodata": 0,
        "crs": f"EPSG:{EPSG}",
        "transform": Affine(10, 0, LEFT, 0, -10, TOP),
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "deflate",
        "predictor": 2,
        "num_threads": "all_cpus",
    }
    x = np.arange(side)
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, side, BLOCK):
            rows = np.arange(top, min(top + BLOCK, side))[:, None]
            ground = 2000 + 600 * np.sin(x / 90) + 500 * np.cos(rows / 70)
            band = (ground + rng.normal(0, NOISE, ground.shape)).clip(1).astype(np.uint16)
            file.write(band, 1, window=FileWindow(0, top, side, len(rows)))
    return path


# -- readers: each gives the pixels (date, band, y, x) of one window -------------------------------------------------


def rasterio_windows(work: Work, window: Window) -> NDArray:
    row, col = window_at(window)

    def one(href: str) -> NDArray:
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), rasterio.open(href) as file:
            return file.read(1, window=FileWindow(col, row, window.width_px, window.height_px))

    with ThreadPoolExecutor(work.threads) as pool:
        layers = list(pool.map(one, [href for _, _, href in work.hrefs]))
    return np.stack(layers).reshape(work.dates, len(BANDS), *window.shape)


def stackstac_stack(work: Work, window: Window, chunk: int | None = None) -> NDArray:
    import dask
    import stackstac

    stack = stackstac.stack(
        stac_items(work, 1.0),
        assets=list(BANDS),
        epsg=EPSG,
        resolution=10,
        bounds=window.bounds_m,
        snap_bounds=False,
        rescale=False,
        dtype=np.dtype("uint16"),
        fill_value=np.uint16(0),
        chunksize=chunk or window.width_px,
        xy_coords=False,
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
    )
    with dask.config.set(scheduler="threads", num_workers=work.threads):
        return stack.data.compute()


def stackstac_patches(work: Work, window: Window) -> NDArray:
    """Patch by patch, as a naive loader does; only a share of the patches is read."""
    per_side = window.width_px // PATCH
    for index in range(0, per_side**2, work.share):
        row, col = divmod(index, per_side)
        left, top = window.left_m + col * PATCH * 10, window.top_m - row * PATCH * 10
        stackstac_stack(work, Window(EPSG, left, top, PATCH, PATCH))
    return np.empty(0)


def odc_stac_load(work: Work, window: Window) -> NDArray:
    import odc.stac
    import pystac

    items = [pystac.Item.from_dict(item) for item in stac_items(work, 1.1)]
    odc.stac.configure_rio(cloud_defaults=True)
    found = odc.stac.load(
        items, bands=list(BANDS), geobox=window.geobox, groupby="id", dtype="uint16", nodata=0, pool=work.threads
    )
    return np.stack([found[band].to_numpy() for band in BANDS], axis=1)


def crops(work: Work, window: Window, engine: str) -> NDArray:
    """Our engines alone: crops of files."""
    from pipelines.coregister.engines import Crop, FileGrid
    from pipelines.coregister.engines import engine as named

    row, col = window_at(window)
    grid = FileGrid(EPSG, LEFT, TOP, 10, -10, work.side, work.side)
    wanted = [Crop(href, grid, "uint16", 0, col, row, window.width_px, window.height_px) for _, _, href in work.hrefs]
    layers = named(engine).read(wanted, work.threads)
    for layer in layers:
        if isinstance(layer, Exception):
            raise layer
    return np.stack(layers).reshape(work.dates, len(BANDS), *window.shape)  # type: ignore[arg-type]


def frames(work: Work, window: Window, engine: str) -> NDArray:
    """Frames with weights, as ingest makes them."""
    from pipelines.coregister import read_frames
    from pipelines.sources import source

    found, failures = read_frames(scenes(work), window, source("sentinel2", BANDS), engine=engine, threads=work.threads)
    assert found is not None and not failures, failures
    return found.values


METHODS: dict[str, Callable[[Work, Window], NDArray]] = {
    "stackstac, patch by patch": stackstac_patches,
    "stackstac": stackstac_stack,
    "odc-stac": odc_stac_load,
    "rasterio windows": rasterio_windows,
    "ours, cog crops": lambda work, window: crops(work, window, "cog"),
    "ours, cog": lambda work, window: frames(work, window, "cog"),
    "ours, rasterio": lambda work, window: frames(work, window, "rasterio"),
    "ours, stackstac": lambda work, window: frames(work, window, "stackstac"),
}
REFERENCES = tuple(METHODS)[:4]
AREA_METHODS = ("rasterio windows", "ours, cog")


def window_at(window: Window) -> tuple[int, int]:
    """Row and column of a window in the granule."""
    return (TOP - window.top_m) // 10, (window.left_m - LEFT) // 10


def stac_items(work: Work, version: float) -> list[dict[str, Any]]:
    """Items of the dates, with projection fields 1.1 (STAC 1.0) or 2.0 (STAC 1.1)."""
    crs = {"proj:epsg": EPSG} if version < 1.1 else {"proj:code": f"EPSG:{EPSG}"}
    grid = {**crs, "proj:shape": [work.side] * 2, "proj:transform": [10, 0, LEFT, 0, -10, TOP]}
    media = "image/tiff; application=geotiff; profile=cloud-optimized"
    west, south, east, north = Window(EPSG, LEFT, TOP, work.side, work.side).footprint().bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    items = []
    for date in range(work.dates):
        moment = f"2021-06-{date + 1:02d}T10:30:00Z"
        assets = {band: {"href": href, "type": media, **grid} for day, band, href in work.hrefs if day == date}
        items.append(
            {
                "type": "Feature",
                "stac_version": "1.0.0" if version < 1.1 else "1.1.0",
                "stac_extensions": [],
                "id": f"date{date}",
                "bbox": [west, south, east, north],
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"datetime": moment},
                "assets": assets,
                "links": [],
            }
        )
    return items


def scenes(work: Work) -> list[Any]:
    from pipelines.scenes import Asset, Scene

    footprint = Window(EPSG, LEFT, TOP, work.side, work.side).footprint()
    grid = {"epsg": EPSG, "transform": (10, 0, LEFT, 0, -10, TOP), "shape": (work.side, work.side)}
    found = []
    for date in range(work.dates):
        assets = {
            band: Asset(href, band, "uint16", 0, 1e-4, 0.0, **grid)  # type: ignore[arg-type]
            for day, band, href in work.hrefs
            if day == date
        }
        moment = date * DAY_MS
        facts = {"datatake": f"GS2A_{date}"}
        found.append(
            Scene("sentinel2", f"date{date}", "cat", "c", moment, (moment, moment + 1), footprint, assets, facts)
        )
    return found
