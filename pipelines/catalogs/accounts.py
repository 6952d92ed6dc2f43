"""Which catalogs want an account before anything of theirs can be read, and whether this machine has it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.catalogs.providers import PROVIDERS
from pipelines.catalogs.sign import AWS_REMEDY, has_keys, has_role
from pipelines.config import Config

# Collections of Earth Search whose assets are in requester-pays buckets.
_PAID = ("landsat-c2", "sentinel-2-l1c", "sentinel-1-grd")


def missing_account(kind: str, url: str, collections: Iterable[str]) -> str | None:
    """What is to be set before assets of some collections can be read; None where nothing is missing.

    A catalog that stands elsewhere than its provider's own keeps its assets elsewhere too, and is not asked about.
    """
    if url and urlsplit(url).hostname != urlsplit(PROVIDERS[kind].url).hostname:
        return None
    if kind == "cmr" and not (os.environ.get("EARTHDATA_TOKEN") or (Path.home() / ".netrc").is_file()):
        return "its files need an Earthdata login: set EARTHDATA_TOKEN, or write urs.earthdata.nasa.gov into ~/.netrc"
    if kind == "cdse" and not has_keys():
        return f"its files need keys of CDSE's S3 service: {AWS_REMEDY}"
    paid = sorted(name for name in collections if name.startswith(_PAID))
    if kind == "earth_search" and paid and not (has_keys() or has_role()):
        return f"the requester pays for {', '.join(paid)}: {AWS_REMEDY}"
    return None


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
