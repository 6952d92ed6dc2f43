"""Build a sandbox Earth: catalog, assets and truth in a folder.

Every item is committed by renaming its JSON into place after its assets, so a build that was killed goes on where it
stopped, and a finished one is recognised by the manifest and left alone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from shapely.geometry.base import BaseGeometry

from pipelines.sandbox import ancillary, climate, gedi, landsat, sentinel1, sentinel2, texts, truth
from pipelines.sandbox.layers import ZONES, layer_grids, plane_to_wgs84, region, write_layers
from pipelines.sandbox.parameters import WorldParameters, parameters_for
from pipelines.sandbox.schedule import passes
from pipelines.sandbox.stac import Archive, write_catalog, write_collection, write_text
from pipelines.sandbox.world import world_of

Progress = Callable[[int, int, str], None]
Job = tuple[str, Callable[[], int | None]]

COLLECTIONS: dict[str, tuple[str, str]] = {
    sentinel2.COLLECTION: (
        "Sentinel-2 Level-2A (synthetic)",
        "Keys and facts as Earth Search v1 has them; one COG a band.",
    ),
    sentinel1.COLLECTION: ("Sentinel-1 RTC (synthetic)", "Gamma nought, linear power, as Planetary Computer has it."),
    landsat.COLLECTION: ("Landsat 8/9 Collection 2 Level-1 (synthetic)", "Top of atmosphere, pan, thermal, QA_PIXEL."),
    climate.COLLECTION: ("ERA5-Land hourly (synthetic)", "Temperature, dew point, pressure, precipitation; Zarr."),
    gedi.COLLECTION: ("GEDI L2A (synthetic)", "Relative heights along beams; HDF5."),
    ancillary.DEM_COLLECTION: ("Copernicus DEM GLO-30 (synthetic)", "Surface heights in one-degree tiles, cut."),
    ancillary.MAP_COLLECTION: (
        "Annual land cover (synthetic)",
        "Coarse classes, wrong for some parcels, not everywhere.",
    ),
    texts.COLLECTION: ("Texts (synthetic)", "Geolocated articles and species records; GeoParquet."),
}
# Held-out sites lie east of the second share of the region's width, training sites west of the first.
_TRAIN_SHARE, _TEST_SHARE = 0.70, 0.75


@dataclass(frozen=True)
class BuildResult:
    """What a build left behind.

    Attributes:
        path: folder of the sandbox.
        catalog: its root catalog.
        identity: hash of the parameters.
        built: items written by this call; 0 where all was there.
        items: by collection.
        bytes: on disk.
        seconds: of this call.
    """

    path: Path
    catalog: Path
    identity: str
    built: int
    items: dict[str, int]
    bytes: int
    seconds: float


def build(
    path: str | Path,
    size: str = "small",
    seed: int = 7,
    workers: int = 2,
    progress: Progress | None = None,
    parameters: WorldParameters | None = None,
) -> BuildResult:
    """Build a sandbox, go on with one, or find it finished.

    Args:
        path: folder; made when missing.
        size: ``tiny``, ``small`` or ``large``.
        seed: of the world; the same seed gives the same bytes.
        workers: processes; 0 builds in this process.
        progress: called with (jobs done, jobs in all, what was done last).
        parameters: instead of ``size`` and ``seed``.

    Raises:
        ValueError: where the folder holds a sandbox of other parameters, or the size is unknown.
        OSError: where nothing can be written there; one line.
    """
    began = time.monotonic()
    p = parameters or parameters_for(size, seed)
    root = Path(path).resolve()
    manifest_path = root / "manifest.json"
    manifest = _read_manifest(manifest_path, p)
    if manifest and manifest["complete"]:
        return _result(root, p, manifest, 0, began)
    try:
        write_text(manifest_path, json.dumps(_manifest(p, {}, 0, complete=False), indent=1))
    except OSError as error:
        raise OSError(f"{root} is not writable ({error.strerror}); choose another folder for the sandbox") from error
    report = progress or (lambda done, total, label: None)
    folder = root / ".layers"
    first: list[Job] = [(f"ground {name}", partial(write_layers, p, name, folder)) for name in layer_grids(p)]
    second = _jobs(p, root, folder)
    total = len(first) + len(second)
    built = 0
    if workers == 0:
        for done, (label, job) in enumerate(first + second):
            built += job() or 0
            report(done + 1, total, label)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_quiet_worker) as pool:
            _run(pool, first, 0, total, report)
            built = _run(pool, second, len(first), total, report)
    archive = Archive(root)
    items = {
        name: write_collection(archive, name, title, text, "proprietary") for name, (title, text) in COLLECTIONS.items()
    }
    write_catalog(archive, [(name, title) for name, (title, _) in COLLECTIONS.items()])
    shutil.rmtree(folder, ignore_errors=True)
    files = (f for part in ("assets", "catalog", "truth") for f in (root / part).rglob("*") if f.is_file())
    size_bytes = sum(f.stat().st_size for f in files)
    manifest = _manifest(p, items, size_bytes, complete=True)
    write_text(manifest_path, json.dumps(manifest, indent=1))
    return _result(root, p, manifest, built, began)


def _jobs(p: WorldParameters, root: Path, folder: Path) -> list[Job]:
    jobs: list[Job] = []
    # Long jobs first, so that the pool ends together.
    jobs.append(("ERA5-Land", partial(climate.write, p, root)))
    for one in passes(p, "sentinel1"):
        jobs.append(("Sentinel-1", partial(sentinel1.write_pass, p, root, folder, one)))
    for one in passes(p, "sentinel2"):
        for epsg in ZONES:
            jobs.append(("Sentinel-2", partial(sentinel2.write_pass, p, root, folder, one, epsg)))
    for one in passes(p, "landsat"):
        jobs.append(("Landsat", partial(landsat.write_pass, p, root, folder, one)))
    jobs.append(("elevation", partial(ancillary.write_dem, p, root)))
    for epsg in ZONES:
        for year in p.years:
            jobs.append(("land cover", partial(ancillary.write_map, p, root, folder, epsg, year)))
    for index in range(p.gedi_granules):
        jobs.append(("GEDI", partial(gedi.write_granule, p, root, index)))
    jobs.append(("texts", partial(texts.write, p, root)))
    jobs.append(("truth", partial(truth.write, p, root, folder)))
    return jobs


def _quiet_worker() -> None:
    # One thread a process: the pool is the parallelism.
    os.environ["GDAL_NUM_THREADS"] = "1"
    os.environ["OMP_NUM_THREADS"] = "1"


def _run(pool: ProcessPoolExecutor, jobs: list[Job], done: int, total: int, report: Progress) -> int:
    pending = {pool.submit(job): label for label, job in jobs}
    built = 0
    try:
        while pending:
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                label = pending.pop(future)
                built += future.result() or 0
                done += 1
                report(done, total, label)
    except BaseException:
        for future in pending:
            future.cancel()
        raise
    return built


def outline(p: WorldParameters) -> BaseGeometry:
    """The region in WGS 84."""
    return plane_to_wgs84(world_of(p), region(p))


def split_lines(p: WorldParameters) -> tuple[float, float]:
    """The longitude that training sites lie west of, and that which held-out sites lie east of."""
    lines = [(share - 0.5) * p.width_m for share in (_TRAIN_SHARE, _TEST_SHARE)]
    train_max, test_min = (round(float(world_of(p).from_plane(x, 0.0, 4326)[0]), 7) for x in lines)
    return train_max, test_min


def _manifest(p: WorldParameters, items: dict[str, int], size_bytes: int, *, complete: bool) -> dict:
    train_max, test_min = split_lines(p)
    return {
        "identity": p.identity,
        "complete": complete,
        "size": p.size,
        "seed": p.seed,
        "years": list(p.years),
        "bbox": [round(v, 7) for v in outline(p).bounds],
        "zones": list(ZONES),
        "split": {"axis": "lon", "train_max": train_max, "test_min": test_min},
        "items": items,
        "bytes": size_bytes,
        "parameters": asdict(p),
    }


def _read_manifest(path: Path, p: WorldParameters) -> dict | None:
    if not path.exists():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("identity") != p.identity:
        raise ValueError(
            f"{path.parent} holds a sandbox of other parameters (size {manifest.get('size')!r}, seed "
            f"{manifest.get('seed')!r}, identity {manifest.get('identity')!r}; asked for size {p.size!r}, "
            f"seed {p.seed!r}, identity {p.identity!r}): remove the folder or choose another one"
        )
    return manifest


def _result(root: Path, p: WorldParameters, manifest: dict, built: int, began: float) -> BuildResult:
    return BuildResult(
        root,
        root / "catalog" / "catalog.json",
        p.identity,
        built,
        manifest["items"],
        manifest["bytes"],
        time.monotonic() - began,
    )
