"""Reading archives and shards: what it costs here beside other readers, measured in the same run.

    python -m benchmarks.reading                    # the whole table: 2048 px windows, 10980 px files, 4 x 4 windows
    python -m benchmarks.reading --small            # the same in a minute or two, to see that it works
    python -m benchmarks.reading --only read area   # some parts

Builds a granule of uint16 (1024 px blocks, deflate, predictor 2), serves it under many addresses with 40 ms delay, and
reads a window that is not aligned to the blocks from 8 dates of 2 bands (``read``); 4 x 4 such windows row by row
(``area``); and 16 x 16 windows of 512 px, as sites that lie dense are read, while memory holds an eighth of the blocks
of one place, with and without the local disk (``dense``). The first reaches into the granule's last column of blocks,
which is 740 px wide: readers of whole blocks fetch 2.04 times its bytes, 2.25 times in the granule's middle.
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
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from benchmarks.feeds import FEEDS, build_shards, measure_feed
from benchmarks.readers import (
    AREA_METHODS,
    BANDS,
    BLOCK,
    EPSG,
    LEFT,
    METHODS,
    PATCH,
    REFERENCES,
    TOP,
    Work,
    build_granule,
)
from benchmarks.served import count, serving
from pipelines.grid import Window
from pipelines.stages.groups import along_curve

PARTS = ("read", "area", "dense", "warp", "feed")

# -- parts of the table ----------------------------------------------------------------------------------------------


def measure(work: Work, method: str, places: list[tuple[int, int]]) -> dict[str, Any]:
    """In this process: one window, or all windows of the area, as they are listed."""
    from pipelines.coregister.engines import cog

    read = METHODS[method]
    warm = Work(**{**vars(work), "size": PATCH, "dates": 1, "share": 1, "url": work.url})
    read(warm, warm.window())  # imports, compiled kernels, one connection
    cog.forget_files()
    count(work.url)  # starts the server's counts anew
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
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


def part_dense(work: Work, needed: float) -> list[dict[str, Any]]:
    """Small windows, when memory holds an eighth of what a block of every file takes."""
    kept = round(needed * (BLOCK / work.size) ** 2 / 8)
    rows = []
    for method, disk in (("ours, memory alone", 0), ("ours, memory and disk", 2**34)):
        row = in_a_process("dense", json.dumps(vars(work)), str(kept), str(disk))
        row["fetched_over_needed"] = row["bytes"] / (needed * row["windows"])
        rows.append({"part": "dense", **row, "method": method})
    assert rows[0]["checksum"] == rows[1]["checksum"]
    return rows


def measure_dense(work: Work, kept_bytes: int, disk_bytes: int) -> dict[str, Any]:
    """In this process, with a folder of its own for blocks on disk."""
    from pipelines.coregister import keep_blocks

    places = [(row, col) for row in range(work.across) for col in range(work.across)]
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        keep_blocks(kept_bytes, disk_bytes)
        return measure(work, "ours, cog", sorted(places, key=lambda place: along_curve(*place)))


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


def part_feed(folder: Path, sequences: int, passes: int) -> list[dict[str, Any]]:
    build_shards(folder, sequences)
    rows = []
    for method in FEEDS:
        try:
            rows.append({"part": "feed", **in_a_process("feed", str(folder), method, str(sequences), str(passes))})
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
        ("dense", "small windows, little memory", (("pfb/CPU-s", "pfb_per_cpu_s", "{:.0f}"),
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
    parser.add_argument("--only", nargs="+", choices=PARTS)
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
    parts = options.only or PARTS
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if {"read", "area", "dense"} & set(parts):
            side, size, across, share = (4096, 1024, 2, 32) if options.small else (10980, 2048, 4, 8)
            path = build_granule(Path(folder), side)
            ratio = side * side * 2 / path.stat().st_size
            print(f"granule of {side} px, compressed {ratio:.2f} to 1")
            with serving(Path(folder), options.delay) as url:
                needed = size * size * 2 * 8 * len(BANDS) / ratio
                for part, col in (("read", side - size - 100), ("area", 700)):
                    work = Work(url, side, size, 511, col, 8, across, options.threads, share)
                    if part in parts:
                        rows += part_read(work, needed, area=part == "area", repeats=options.repeats)
                if "dense" in parts:
                    small = size // 4
                    work = Work(url, side, small, 511, 700, 8, 4 * across, options.threads, share)
                    rows += part_dense(work, needed / 16)
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
        folder, method, sequences, passes = arguments
        return measure_feed(Path(folder), method, int(sequences), int(passes))
    work = Work(**json.loads(arguments[0]))
    if part == "dense":
        return measure_dense(work, int(arguments[1]), int(arguments[2]))
    across = range(work.across if part == "area" else 1)
    return measure(work, arguments[1], [(row, col) for row in across for col in across])


if __name__ == "__main__":
    main()
