"""Reading archives and shards: what it costs here beside other readers, measured in the same run.

    python -m benchmarks.reading                    # the whole table: 2048 px windows, 10980 px files, 4 x 4 windows
    python -m benchmarks.reading --small            # the same in half a minute, to see that it works
    python -m benchmarks.reading --only read area   # some parts

Builds a granule of uint16 (1024 px blocks, deflate, predictor 2), serves it under many addresses with 40 ms delay, and
reads a window that is not aligned to the blocks from 8 dates of 2 bands. It reaches into the granule's last column of
blocks, which is 740 px wide: readers of whole blocks fetch 2.04 times its bytes, 2.25 times in the granule's middle.
Every method runs in a process of its own: CPU seconds are that process's (all threads, imports and one warm-up file
left out), requests and bytes the server's.
``pfb`` is one 128 px patch of one frame and band. Methods whose library is not installed are left out and named.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
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

from benchmarks.served import count, serving
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


# -- parts of the table ----------------------------------------------------------------------------------------------


def measure(work: Work, method: str, area: bool) -> dict[str, Any]:
    """In this process: one window, or all windows of the area row by row."""
    from pipelines.coregister.engines import cog

    read = METHODS[method]
    warm = Work(**{**vars(work), "size": PATCH, "dates": 1, "share": 1, "url": work.url})
    read(warm, warm.window())  # imports, compiled kernels, one connection
    cog.forget_files()
    before = count(work.url) and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    places = [(row, col) for row in range(work.across) for col in range(work.across)] if area else [(0, 0)]
    checksum = 0
    wall, cpu = time.monotonic(), time.process_time()
    for row, col in places:
        pixels = read(work, work.window(row, col))
        spent = time.process_time() - cpu, time.monotonic() - wall
        if pixels.size:
            checksum = (checksum * 31 + int(pixels.sum(dtype=np.int64))) % (1 << 61)
            cpu += time.process_time() - cpu - spent[0]  # the checksum is not part of it
            wall += time.monotonic() - wall - spent[1]
    part = 1 / work.share if method == "stackstac, patch by patch" else 1.0
    served = count(work.url)
    pfb = work.pfb * len(places)
    return {
        "method": method,
        "windows": len(places),
        "cpu_s": spent[0] / part,
        "wall_s": spent[1] / part,
        "pfb_per_cpu_s": pfb * part / spent[0],
        "requests": round(served["requests"] / part),
        "bytes": round(served["bytes"] / part),
        "peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "checksum": checksum,
    }


def in_a_process(part: str, *arguments: str) -> dict[str, Any]:
    """One measurement in a process of its own.

    Raises:
        RuntimeError: it failed; says why.
    """
    command = [sys.executable, "-m", "benchmarks.reading", "--measure", part, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def part_read(work: Work, needed: float, *, area: bool, repeats: int) -> list[dict[str, Any]]:
    """Windows through every reader; of several repeats the one with the least CPU time."""
    rows = []
    for method in AREA_METHODS if area else METHODS:
        try:
            runs = [in_a_process("area" if area else "read", json.dumps(vars(work)), method) for _ in range(repeats)]
        except RuntimeError as error:
            print(f"{method}: left out ({error})")
            continue
        row = min(runs, key=lambda run: run["cpu_s"])
        row["fetched_over_needed"] = row["bytes"] / (needed * row["windows"])
        rows.append({"part": "area" if area else "read", **row})
    same = {row["checksum"] for row in rows if row["checksum"]}
    assert len(same) == 1, f"readers disagree: {[(row['method'], row['checksum']) for row in rows]}"
    return rows


def part_warp(size: int, repeats: int) -> list[dict[str, Any]]:
    """The next zone's 10 m pixels on this zone's grid, bilinear, one thread: GDAL's warp and ours."""
    from rasterio.warp import Resampling, reproject

    from pipelines.coregister.engines import FileGrid
    from pipelines.coregister.warp import extent, warp
    from pipelines.grid import transformer

    epsg = EPSG + 1
    window = Window(EPSG, LEFT + 1230, TOP - 770, size, size)
    x, y = transformer(EPSG, epsg).transform(window.left_m, window.top_m)
    margin = round(0.15 * size)
    left, top = round(x / 10) * 10 - margin * 10, round(y / 10) * 10 + margin * 10
    side = size + 2 * margin
    grid = FileGrid(epsg, left, top, 10, -10, side, side)
    pixels = np.random.default_rng(1).integers(1, 9000, (side, side)).astype(np.uint16)

    def ours(box: Window) -> NDArray:
        found = extent(grid, box)
        assert found is not None
        col, row, width, height = found
        return warp(pixels[row : row + height, col : col + width], (col, row), grid, box, 0)

    def gdal(box: Window) -> NDArray:
        out = np.zeros(box.shape, np.uint16)
        reproject(
            pixels,
            out,
            src_transform=Affine(10, 0, left, 0, -10, top),
            src_crs=f"EPSG:{epsg}",
            src_nodata=0,
            dst_transform=box.transform,
            dst_crs=f"EPSG:{EPSG}",
            dst_nodata=0,
            resampling=Resampling.bilinear,
            num_threads=1,
        )
        return out

    rows = []
    for name, method in (("GDAL", gdal), ("ours", ours)):
        small = Window(EPSG, window.left_m, window.top_m, PATCH, PATCH)
        method(small)
        best = np.inf
        for _ in range(repeats):
            cpu = time.process_time()
            whole = method(window)
            best = min(best, time.process_time() - cpu)
        parts = np.zeros_like(whole)
        for row in range(0, size, PATCH):
            for col in range(0, size, PATCH):
                box = Window(EPSG, window.left_m + col * 10, window.top_m - row * 10, PATCH, PATCH)
                parts[row : row + PATCH, col : col + PATCH] = method(box)
        differing = float((parts != whole).mean())
        rows.append(
            {"part": "warp", "method": name, "mpx_per_cpu_s": size**2 / best / 1e6, "differ_when_cut": differing}
        )
    return rows


# -- shards to batches -----------------------------------------------------------------------------------------------


def build_shards(folder: Path, sequences: int) -> float:
    """Shards of our format and plain Parquet of the same sequences; uncompressed MB of one sequence."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.grid import Period
    from pipelines.sequence import RasterFrames, Sequence
    from pipelines.shards import write_shard
    from pipelines.sources.sentinel2 import ALL_BANDS
    from pipelines.storage import Storage

    rng = np.random.default_rng(2)
    count_, bands, size = 24, len(ALL_BANDS), PATCH
    period = Period.calendar_year(2021)
    y, x = np.mgrid[:size, :size]
    storage = Storage(str(folder))
    (folder / "plain").mkdir(parents=True, exist_ok=True)
    per_shard = 8
    for shard in range(-(-sequences // per_shard)):
        parts, payloads = [], []
        for index in range(shard * per_shard, min((shard + 1) * per_shard, sequences)):
            ground = 2000 + 600 * np.sin((x + 9 * index) / 25) + 500 * np.cos(y / 17)
            values = ground + rng.normal(0, NOISE, (count_, bands, size, size))
            values = values.clip(1).astype(np.uint16)
            time_ms = period.start_ms + np.arange(count_, dtype=np.int64) * 15 * DAY_MS
            raster = RasterFrames(
                values=values,
                nodata=0.0,
                weight=np.full((count_, size, size), 255, np.uint8),
                time_ms=time_ms,
                valid_ms=np.stack([time_ms, time_ms + 1], axis=1),
                scale=np.full((count_, bands), 1e-4),
                offset=np.zeros((count_, bands)),
                geometry=np.empty((count_, 0), np.float32),
                scene_ids=tuple(f"s{frame}" for frame in range(count_)),
            )
            window = Window(EPSG, LEFT + index * size * 10, TOP, size, size)
            parts.append(Sequence(f"q{index}", window, period, "train", {"sentinel2": raster}))
            payloads.append(values.tobytes())
        write_shard(storage, f"shards/train/{shard:03d}.shard.parquet", parts, {}, code_digest="x")
        table = pa.table({"payload": pa.array(payloads, pa.large_binary())})
        pq.write_table(
            table, folder / "plain" / f"{shard:03d}.parquet", row_group_size=1, compression="NONE", use_dictionary=False
        )
    return count_ * bands * size * size * 2 / 1e6


def feed_config(folder: Path, passes: int, sequences: int) -> Any:
    from pipelines.config import Config
    from pipelines.sources.sentinel2 import ALL_BANDS

    batch = 4
    return Config.model_validate(
        {
            "root": str(folder),
            "area": {"bbox": [4.0, 50.0, 4.1, 50.1]},
            "periods": [["2021-01-01", "2022-01-01"]],
            "catalogs": {"here": {"kind": "static", "url": "/none"}},
            "sources": {"sentinel2": {"catalog": "here", "collections": ["any"], "bands": list(ALL_BANDS)}},
            "train": {
                "batch": batch,
                "workers": 1,
                "crop_px": PATCH,
                "steps_per_draw": 1,
                "steps": passes * sequences // batch,
                "max_frames": {"sentinel2": 65},
                "data_workers": 2,
            },
        }
    )


def measure_feed(folder: Path, method: str, sequences: int, mb: float, passes: int) -> dict[str, Any]:
    """Uncompressed MB a second that arrive as batches of four; the first pass starts workers and is not counted."""
    import ray

    batches: Callable[[], Any]
    if method == "torch DataLoader, 2 workers":
        batches = lambda: torch_batches(folder)  # noqa: E731
    else:
        from pipelines.stages.session import quiet_ray_data

        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                 object_store_memory=2 * 2**30)  # fmt: skip
        quiet_ray_data()
        batches = (lambda: ray_parquet(folder)) if method == "ray.data.read_parquet" else (lambda: ours_(folder))

    def ours_(folder: Path) -> Any:
        from pipelines.shards import open_shards
        from pipelines.stages.feed import Feed, pools_of
        from pipelines.storage import Storage

        config = feed_config(folder, 1, sequences)
        pools = pools_of(open_shards(Storage(str(folder)), "shards").metadata(), False)
        for raw in Feed(config, pools, 0, 1).batches(0):
            yield raw.inputs["sentinel2"].values, raw.targets["sentinel2"].values

    for _ in batches():
        pass
    start, seen = time.monotonic(), 0
    for _ in range(passes):
        for arrays in batches():
            seen += sum(array.nbytes for array in arrays)
    wall = time.monotonic() - start
    return {"method": method, "mb_per_s": seen / 1e6 / wall, "mb": seen / 1e6, "wall_s": wall}


def ray_parquet(folder: Path) -> Any:
    """Binary payloads through Ray Data's own reader, four to a batch."""
    import ray

    dataset = ray.data.read_parquet(str(folder / "plain"))
    for batch in dataset.iter_batches(batch_size=4, batch_format="numpy", prefetch_batches=2):
        yield [np.frombuffer(payload, np.uint16).reshape(24, 13, PATCH, PATCH).copy() for payload in batch["payload"]]


def torch_batches(folder: Path) -> Any:
    """The same payloads through a map-style torch DataLoader with two workers."""
    import torch

    loader = torch.utils.data.DataLoader(PlainRows(folder), batch_size=4, num_workers=2)
    for batch in loader:
        yield [batch.numpy()]


class PlainRows:
    """Rows of the plain Parquet files as arrays."""

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        self.rows = [
            (path, row)
            for path in sorted((folder / "plain").glob("*.parquet"))
            for row in range(pq.ParquetFile(path).num_row_groups)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray:
        import pyarrow.parquet as pq

        path, row = self.rows[index]
        payload = pq.ParquetFile(path).read_row_group(row, use_threads=False)["payload"][0].as_buffer()
        return np.frombuffer(payload, np.uint16).reshape(24, 13, PATCH, PATCH).copy()


FEEDS = ("ray.data.read_parquet", "torch DataLoader, 2 workers", "ours")


def part_feed(folder: Path, sequences: int, passes: int) -> list[dict[str, Any]]:
    mb = build_shards(folder, sequences)
    rows = []
    for method in FEEDS:
        try:
            rows.append(
                {"part": "feed", **in_a_process("feed", str(folder), method, str(sequences), str(mb), str(passes))}
            )
        except RuntimeError as error:
            print(f"{method}: left out ({error})")
    return rows


# -- the table -------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for part, title, columns in (
        ("read", "one window", (("pfb/CPU-s", "pfb_per_cpu_s", "{:.0f}"), ("requests", "requests", "{}"),
         ("fetched/needed", "fetched_over_needed", "{:.2f}"), ("CPU s", "cpu_s", "{:.2f}"),
         ("wall s", "wall_s", "{:.2f}"), ("peak MB", "peak_mb", "{:.0f}"))),
        ("area", "an area of windows, row by row", (("pfb/CPU-s", "pfb_per_cpu_s", "{:.0f}"),
         ("requests", "requests", "{}"), ("fetched/needed", "fetched_over_needed", "{:.2f}"),
         ("CPU s", "cpu_s", "{:.2f}"), ("wall s", "wall_s", "{:.2f}"), ("peak MB", "peak_mb", "{:.0f}"))),
        ("warp", "bilinear warp, one thread", (("Mpx/CPU-s", "mpx_per_cpu_s", "{:.1f}"),
         ("px that differ when cut", "differ_when_cut", "{:.2%}"))),
        ("feed", "shards to batches of four", (("MB/s", "mb_per_s", "{:.0f}"), ("wall s", "wall_s", "{:.2f}"))),
    ):  # fmt: skip
        part_rows = [row for row in rows if row["part"] == part]
        if part_rows:
            lines.append(f"\n{title:<30}" + "".join(f"{head:>{max(len(head), 9) + 2}}" for head, _, _ in columns))
        for row in part_rows:
            cells = "".join(f"{form.format(row[key]):>{max(len(head), 9) + 2}}" for head, key, form in columns)
            lines.append(f"{row['method']:<30}{cells}")
    own, rivals = _best(rows)
    if own and rivals:
        lines.append(f"\nours over the best of the others, one window: {own / rivals:.2f} (asked: 1.3)")
    return "\n".join(lines)


def _best(rows: list[dict[str, Any]]) -> tuple[float, float]:
    read = {row["method"]: row["pfb_per_cpu_s"] for row in rows if row["part"] == "read"}
    return read.get("ours, cog", 0.0), max((read[name] for name in REFERENCES if name in read), default=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("read", "area", "warp", "feed"))
    parser.add_argument("--small", action="store_true", help="small files and windows: a check, not a measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=4, help="of every reader")
    parser.add_argument("--delay", type=float, default=0.04, help="seconds before an answer")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(*options.measure)))
        return
    parts = options.only or ["read", "area", "warp", "feed"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if {"read", "area"} & set(parts):
            side, size, across = (4096, 1024, 2) if options.small else (10980, 2048, 4)
            path = build_granule(Path(folder), side)
            ratio = side * side * 2 / path.stat().st_size
            print(f"granule of {side} px, compressed {ratio:.2f} to 1")
            with serving(Path(folder), options.delay) as url:
                needed = size * size * 2 * 8 * len(BANDS) / ratio
                for part, col in (("read", side - size - 100), ("area", 700)):
                    work = Work(url, side, size, 511, col, 8, across, options.threads, 8)
                    if part in parts:
                        rows += part_read(work, needed, area=part == "area", repeats=options.repeats)
        if "warp" in parts:
            rows += part_warp(512 if options.small else 2048, options.repeats)
        if "feed" in parts:
            sequences, passes = (8, 1) if options.small else (48, 3)
            rows += part_feed(Path(folder) / "feed", sequences, passes)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def _measure(part: str, *arguments: str) -> dict[str, Any]:
    if part == "feed":
        folder, method, sequences, mb, passes = arguments
        return measure_feed(Path(folder), method, int(sequences), float(mb), int(passes))
    return measure(Work(**json.loads(arguments[0])), arguments[1], part == "area")


if __name__ == "__main__":
    main()
