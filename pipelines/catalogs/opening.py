"""Opening a configured catalog by the name of its kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, TypeAdapter

from pipelines.catalogs.api import ApiCatalog
from pipelines.catalogs.base import Catalog
from pipelines.catalogs.credentials import refuse_credentials
from pipelines.catalogs.providers import PROVIDERS
from pipelines.catalogs.sign import Signer
from pipelines.catalogs.snapshot import SnapshotCatalog
from pipelines.catalogs.static import StaticCatalog
from pipelines.catalogs.store import StoreCatalog
from pipelines.grid import Period

_STORE_OPTIONS = frozenset({"open_kwargs", "units", "accumulated", "bbox", "period"})
_Edge = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Whole = Annotated[int, Field(strict=True, ge=1)]
# Of every option of every kind: its type, and the type in words.
_OPTION_TYPES: dict[str, tuple[Any, str]] = {
    "page_items": (_Whole, "a whole number, 1 or more"),
    "concurrent": (_Whole, "a whole number, 1 or more"),
    "attempts": (_Whole, "a whole number, 1 or more"),
    "reads": (_Whole, "a whole number, 1 or more"),
    "timeout_s": (Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)], "a number of seconds above 0"),
    "query": (dict[str, Any], "a mapping of properties to conditions"),
    "signed": (Annotated[bool, Field(strict=True)], "true or false"),
    "accumulated": (Annotated[bool, Field(strict=True)], "true or false"),
    "s3_endpoint": (str, "a host name"),
    "signer": (str, "a kind of catalog"),
    "storage_options": (dict[str, Any], "a mapping of keys to values"),
    "open_kwargs": (dict[str, Any], "a mapping of keys to values"),
    "units": (dict[str, str], "a mapping of variables to units"),
    "bbox": (tuple[_Edge, _Edge, _Edge, _Edge], "a list of west, south, east, north in degrees"),
    "period": (tuple[Any, Any], "its first day and the day after its last, as texts like '1940-01-01'"),
}
_API_OPTIONS = frozenset({"page_items", "concurrent", "attempts", "timeout_s", "query"})


def open_catalog(name: str, kind: str, url: str = "", **options: Any) -> Catalog:
    """A catalog, of which nothing is asked yet.

    Args:
        name: in the configuration.
        kind: earth_search, planetary_computer, cdse, cmr, static, geoparquet, zarr or sandbox.
        url: of the API, static catalog or files; empty: the provider's own.
        options: page_items, concurrent, attempts, timeout_s, query; for the sandbox ``signed``, for S3 ``s3_endpoint``;
            for static and geoparquet ``signer``, the kind of catalog whose assets they name, for the latter also
            ``storage_options``; for zarr those of :class:`pipelines.catalogs.store.StoreCatalog`; for all ``reads``,
            see :func:`reads_at_once`.

    Raises:
        ValueError: an unknown kind or option.
    """
    if kind not in PROVIDERS:
        raise ValueError(f"catalogs.{name}.kind: {kind!r} is not one of {', '.join(PROVIDERS)}")
    provider = PROVIDERS[kind]
    refuse_credentials(name, url, options)  # before anything that would repeat a value
    check_options(name, options)
    options.pop("reads", None)
    if kind == "zarr":
        return _store(name, url, options)
    if kind == "geoparquet":
        return _snapshot(name, url, options)
    if kind == "static":
        return _static(name, url, options)
    known = provider.signer_options | _API_OPTIONS
    for option in options:
        if option not in known:
            raise ValueError(f"catalogs.{name}.options: unknown {option!r}; {kind} knows {sorted(known)}")
    url = url or provider.url
    _check_address(name, url)
    return ApiCatalog(
        name,
        kind,
        url,
        provider,
        provider.signer(url, options),
        **{key: value for key, value in options.items() if key in _API_OPTIONS},
    )


def reads_at_once(kind: str, options: Mapping[str, Any]) -> int | None:
    """How many files of a catalog's archive may be read at once, over all processes; None: there is no limit."""
    given: int | None = options.get("reads", PROVIDERS[_likeness(kind, options)].reads)
    return given


def _likeness(kind: str, options: Mapping[str, Any]) -> str:
    """The kind of catalog whose archive a catalog's assets lie in; one that is unknown is refused when it is opened."""
    like = options.get("signer", kind)
    return like if like in PROVIDERS else kind


def _check_address(name: str, url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        raise ValueError(f"catalogs.{name}.url: {url!r} is no web address; give one that starts with https://")


def check_options(name: str, options: dict[str, Any]) -> None:
    """Whether the options of a catalog are of their types; which of them a kind knows is not asked.

    Raises:
        ValueError: naming the option, its value and what it must be.
    """
    for option, value in options.items():
        if option not in _OPTION_TYPES:
            continue
        try:
            TypeAdapter(_OPTION_TYPES[option][0]).validate_python(value)
            if option == "period":
                Period.from_iso(*map(str, value))
        except ValueError as error:
            must = _OPTION_TYPES[option][1]
            raise ValueError(f"catalogs.{name}.options.{option}: must be {must} (given: {value!r})") from error


def _static(name: str, url: str, options: dict[str, Any]) -> Catalog:
    if not url:
        raise ValueError(f"catalogs.{name}.url: give the folder or address of a static catalog")
    if "://" in url and urlsplit(url).scheme not in ("http", "https", "file"):
        raise ValueError(f"catalogs.{name}.url: {url!r} is no folder and no web address; give its https:// address")
    return StaticCatalog(name, url, _signer_as(name, "static", url, options))


def _snapshot(name: str, url: str, options: dict[str, Any]) -> Catalog:
    given = dict(options)
    storage = given.pop("storage_options", {})
    if not url:
        raise ValueError(f"catalogs.{name}.url: give the file or folder of a stac-geoparquet snapshot")
    return SnapshotCatalog(name, url, _signer_as(name, "geoparquet", url, given, {"storage_options"}), storage)


def _signer_as(name: str, kind: str, url: str, options: Mapping[str, Any], others: Set[str] = frozenset()) -> Signer:
    """What signs the assets of files of items: as the kind of catalog does that they were taken from (``signer``)."""
    given = dict(options)
    like = given.pop("signer", "static")
    if like not in PROVIDERS or like == "geoparquet":
        raise ValueError(f"catalogs.{name}.options.signer: {like!r} is not one of {', '.join(PROVIDERS)}")
    provider = PROVIDERS[like]
    for option in given:
        if option not in provider.signer_options:
            known = sorted({"signer", *others, *provider.signer_options})
            raise ValueError(f"catalogs.{name}.options: unknown {option!r}; {kind} of {like} knows {known}")
    return provider.signer(url, given)


def _store(name: str, url: str, options: dict[str, Any]) -> Catalog:
    for option in options:
        if option not in _STORE_OPTIONS:
            raise ValueError(f"catalogs.{name}.options: unknown {option!r}; zarr knows {sorted(_STORE_OPTIONS)}")
    if not url:
        raise ValueError(f"catalogs.{name}.url: give the address of the store")
    return StoreCatalog(name, url, **options)
