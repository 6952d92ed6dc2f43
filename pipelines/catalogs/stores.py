"""Zarr stores of an item: one for all variables, or one each; Azure's by the web address that signers know."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pipelines.catalogs.credentials import without_credentials
from pipelines.catalogs.stac_fields import Fields, absolute
from pipelines.scenes import Asset
from pipelines.sources.base import Source
from pipelines.sources.era5 import STORED

_TYPES = ("application/vnd+zarr", "application/vnd.zarr", "application/x-zarr")
_ENDINGS = (".zarr", ".zarr-v3")
_AZURE_SCHEMES = ("abfs", "abfss", "az")
# Which of xarray's engines opens it, and how it is cut for dask, is not the catalog's to say.
_OURS = ("engine", "chunks")


def stores(item: Fields, given: Fields, source: Source, base: str | None) -> dict[str, Asset]:
    """Zarr stores by name: one under ``store``; several (a store a variable) under their own keys.

    Args:
        item: STAC item.
        given: its assets.
        source: that they are for; where several are named like its variables, the others are left out.
        base: address of the item.
    """
    found: dict[str, Asset] = {}
    taken: dict[str, str] = {}  # scheme by the store's last two names
    ordered = sorted(given, key=lambda key: (not str(given[key].get("href")).startswith(("http", "/", ".")), key))
    for key in ordered:
        asset = given[key]
        href = str(asset.get("href") or "").rstrip("/")
        if not href or (asset.get("type") not in _TYPES and not href.endswith(_ENDINGS)):
            continue
        store, scheme = "/".join(href.split("/")[-2:]), urlsplit(href).scheme
        if taken.setdefault(store, scheme) != scheme:  # the same store by another protocol
            continue
        given_options = asset.get("xarray:open_kwargs") or {}
        options = without_credentials({k: v for k, v in given_options.items() if k not in _OURS})
        storage = {**(options.pop("storage_options", None) or {}), **(asset.get("xarray:storage_options") or {})}
        address, storage = over_https(absolute(href, base), storage)
        if storage := without_credentials(storage):
            options["storage_options"] = storage
        variables = asset.get("cube:variables") or (item.get("properties") or {}).get("cube:variables") or {}
        units = {name: value.get("unit") for name, value in variables.items() if value.get("type") != "auxiliary"}
        found[key] = Asset(href=address, key=key, extra={"open_kwargs": options, "units": units})
    if len(found) == 1:
        return {"store": next(iter(found.values()))}
    known = {key: asset for key, asset in found.items() if key in STORED} if source.name == "era5" else {}
    return known if len(known) > 1 else found


def over_https(href: str, storage: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """An Azure address and its options as an https address, where they name an account; anything else as it is.

    ``abfs://CONTAINER/PATH`` with ``account_name``, or ``abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH``: the same
    blobs have an https address, which signers know and for which no further package is needed.
    """
    parts = urlsplit(href)
    container, _, host = parts.netloc.partition("@")
    account = host.partition(".")[0] or storage.get("account_name")
    if parts.scheme not in _AZURE_SCHEMES or not account:
        return href, storage
    rest = {name: value for name, value in storage.items() if name not in ("account_name", "credential")}
    return f"https://{account}.blob.core.windows.net/{container}{parts.path}", rest
