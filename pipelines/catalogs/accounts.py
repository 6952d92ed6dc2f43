"""What catalogs want before anything of theirs can be read, accounts and packages, and whether this machine has it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from fsspec import get_filesystem_class

from pipelines.catalogs.providers import PROVIDERS
from pipelines.catalogs.sign import AWS_REMEDY, has_keys, has_role
from pipelines.config import Config

# Collections of Earth Search whose assets are in requester-pays buckets.
_PAID = ("landsat-c2", "sentinel-2-l1c", "sentinel-1-grd")


def missing_account(kind: str, url: str, collections: Iterable[str]) -> str | None:
    """What is to be set before assets of some collections can be read; None where nothing is missing."""
    if not _is_providers_own(kind, url):
        return None
    if kind == "cmr" and not (os.environ.get("EARTHDATA_TOKEN") or (Path.home() / ".netrc").is_file()):
        return "its files need an Earthdata login: set EARTHDATA_TOKEN, or write urs.earthdata.nasa.gov into ~/.netrc"
    if kind == "cdse" and not has_keys():
        return f"its files need keys of CDSE's S3 service: {AWS_REMEDY}"
    paid = _paid(kind, collections)
    if paid and not (has_keys() or has_role()):
        return f"the requester pays for {', '.join(paid)}: {AWS_REMEDY}"
    return None


def _is_providers_own(kind: str, url: str) -> bool:
    """A catalog that stands elsewhere keeps its assets elsewhere too, and nothing is known of those."""
    return not url or urlsplit(url).hostname == urlsplit(PROVIDERS[kind].url).hostname


def _paid(kind: str, collections: Iterable[str]) -> list[str]:
    return sorted(name for name in collections if name.startswith(_PAID)) if kind == "earth_search" else []


def clashing_accounts(config: Config) -> str | None:
    """Catalogs whose files want keys of two S3 services; None where there are none such.

    GDAL holds one account a process, so AWS's keys would be sent to CDSE, or the other way round.
    """
    wanting: dict[str, str] = {}
    for key, source in sorted(config.sources.items()):
        part = config.catalogs[source.catalog]
        if not _is_providers_own(part.kind, part.url):
            continue
        if part.kind == "cdse":
            wanting["CDSE"] = key
        elif _paid(part.kind, source.collections):
            wanting["AWS"] = key
    if len(wanting) < 2:
        return None
    return (
        f"sources.{wanting['CDSE']} wants keys of CDSE's S3 service and sources.{wanting['AWS']} those of AWS, and one "
        "run holds one account: take Sentinel-2 from earth_search, where it is open, or Landsat from planetary_computer"
    )


def missing_accounts(config: Config) -> list[str]:
    """What is to be set before the assets of the configured sources can be read, a line for each kind of account."""
    lines = []
    for name, part in config.catalogs.items():
        wanting: dict[str, list[str]] = {}
        for key, source in config.sources.items():
            if source.catalog == name and (missing := missing_account(part.kind, part.url, source.collections)):
                wanting.setdefault(missing, []).append(key)
        for missing, sources in wanting.items():
            lines.append(f"catalogs.{name}: {missing}; or leave out sources.{', sources.'.join(sources)}")
    return lines


def missing_packages(config: Config) -> list[str]:
    """What is to be installed before the catalogs' own files can be opened, a line for each catalog."""
    lines = []
    for name, part in config.catalogs.items():
        scheme = urlsplit(part.url).scheme
        if "://" in part.url and scheme not in ("http", "https", "file"):
            try:
                get_filesystem_class(scheme)
            except (ImportError, ValueError) as error:
                lines.append(f"catalogs.{name}.url: {part.url} cannot be opened: {error}")
    return lines
