"""The whole ingest of a synthetic Earth: sequences a minute and core seconds a sequence, a naive loader beside it.

    python -m benchmarks.ingest                          # the `large` Earth, every site that fits: about half an hour
    python -m benchmarks.ingest --size tiny --sample 4   # the same in a minute, to see that it works

Ingest is the real stage, started as a user starts it. The naive loader takes a sample of the same sequences one by one:
for each image source one ``stackstac.stack`` of all bands and masks of its scenes onto the patch's grid, bilinear, as
its documentation shows, made safe where it would be wrong (explicit CRS, bounds and resolution; errors raised). It
neither weighs pixels nor reads climate, elevation, lidar and texts, and writes nothing. Both read from the sandbox
server over HTTP on the same machine, one after the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask
import numpy as np
import stackstac

from pipelines.config import Config, load_config
from pipelines.grid import Period, Site, Window
from pipelines.scenes import Scene
from pipelines.sources.base import Kind
from pipelines.stages.earth import served_catalog
from pipelines.stages.planned import Plan


def item_of(scene: Scene) -> dict[str, Any]:
    """A scene as the STAC item that stackstac reads, its assets under the project's names of bands."""
    west, south, east, north = scene.footprint.bounds
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    assets = {
        name: {
            "href": asset.href,
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "proj:epsg": asset.epsg,
            "proj:shape": list(asset.shape or ()),
            "proj:transform": list(asset.transform or ()),
        }
        for name, asset in scene.assets.items()
    }
    moment = np.datetime64(scene.time_ms, "ms").item().isoformat() + "Z"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": scene.scene_id,
        "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"datetime": moment},
        "assets": assets,
        "links": [],
    }


def naive(config: Config, scenes: dict[str, list[Scene]], window: Window) -> int:
    """One sequence patch by patch; bytes of the arrays that came."""
    seen = 0
    for name, found in scenes.items():
        source = config.source(name)
        if source.kind is not Kind.FRAMES or not source.is_input:
            continue
        stack = stackstac.stack(
            [item_of(scene) for scene in found],
            assets=[*source.band_names, *source.mask_roles],
            epsg=window.epsg,
            resolution=10,
            bounds=window.bounds_m,
            snap_bounds=False,
            rescale=False,
            chunksize=window.width_px,
            xy_coords=False,
            properties=False,
            band_coords=False,
            errors_as_nodata=(),
        )
        seen += stack.data.compute().nbytes
    return seen


def measure_naive(config: Config, sample: int) -> dict[str, float]:
    """Wall and core seconds of a sample of the planned sequences, spread evenly over sites and periods."""
    plan = Plan.load(config)
    work: list[tuple[Site, Period]] = [(site, period) for site in plan.sites() for period in config.support_periods]
    chosen = [work[index] for index in np.linspace(0, len(work) - 1, min(sample, len(work))).astype(int)]
    with served_catalog(config), dask.config.set(scheduler="threads", num_workers=config.ingest.threads):
        scenes = [plan.scenes(site.window, period) for site, period in chosen]
        naive(config, scenes[0], chosen[0][0].window)  # imports, compiled kernels, connections
        wall, cpu = time.monotonic(), time.process_time()
        for (site, _), found in zip(chosen, scenes, strict=True):
            naive(config, found, site.window)
        return {"sequences": len(chosen), "wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}


def run_ours(path: str, settings: list[str]) -> None:
    """Build, plan and ingest by the commands of the README.

    Raises:
        subprocess.CalledProcessError: when one of them fails.
    """
    overrides = [part for setting in settings for part in ("--set", setting)]
    for stage in ("plan", "ingest"):
        subprocess.run([sys.executable, "-m", "pipelines.cli", stage, "--config", path, *overrides], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/sandbox.yaml")
    parser.add_argument("--size", default="large", choices=("tiny", "small", "large"))
    parser.add_argument("--root", type=Path, default=Path("runs/ingest"), help="a folder a size is made below it")
    parser.add_argument("--sample", type=int, default=40, help="sequences that the naive loader reads")
    parser.add_argument("--set", dest="extra", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    root = (options.root / options.size).resolve()
    settings = [f"root={root}", f"sandbox.size={options.size}", "plan.sites=100000", *options.extra]
    run_ours(options.config, settings)
    stage = json.loads((root / "reports/summary.json").read_text())["stages"]["ingest"]
    details = stage["details"]
    ours = {"sequences": stage["written"], "wall_s": stage["seconds"], "cpu_s": details["cpu_seconds"]}
    other = measure_naive(load_config(options.config, settings), options.sample)
    rows = [{"method": "ours, all sources, shards written", **ours}, {"method": "stackstac, patch by patch", **other}]
    print(f"\n{'method':<36}{'sequences':>11}{'a minute':>10}{'core s each':>13}")
    for row in rows:
        minute, each = row["sequences"] / row["wall_s"] * 60, row["cpu_s"] / row["sequences"]
        print(f"{row['method']:<36}{row['sequences']:>11}{minute:>10.1f}{each:>13.2f}")
    print(f"largest worker: {details['worker_peak_bytes'] / 1e6:.0f} MB")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
