"""Opening a configured catalog by the name of its kind."""

from __future__ import annotations

from typing import Any

from pipelines.catalogs.api import ApiCatalog
from pipelines.catalogs.base import Catalog
from pipelines.catalogs.providers import PROVIDERS
from pipelines.catalogs.static import StaticCatalog

_API_OPTIONS = frozenset({"page_items", "concurrent", "attempts", "timeout_s", "query"})


def open_catalog(name: str, kind: str, url: str = "", **options: Any) -> Catalog:
    """A catalog, of which nothing is asked yet.

    Args:
        name: in the configuration.
        kind: earth_search, planetary_computer, cdse, cmr, static or sandbox.
        url: of the API or static catalog; empty: the provider's own.
        options: page_items, concurrent, attempts, timeout_s, query; for the sandbox ``signed``, for S3 ``s3_endpoint``.

    Raises:
        ValueError: an unknown kind or option.
    """
    if kind not in PROVIDERS:
        raise ValueError(f"catalogs.{name}.kind: {kind!r} is not one of {', '.join(PROVIDERS)}")
    provider = PROVIDERS[kind]
    known = provider.signer_options | (_API_OPTIONS if kind != "static" else frozenset())
    for option in options:
        if option not in known:
            raise ValueError(f"catalogs.{name}.options: unknown {option!r}; {kind} knows {sorted(known)}")
    url = url or provider.url
    if not url:
        raise ValueError(f"catalogs.{name}.url: give the folder or address of a static catalog")
    signer = provider.signer(url, options)
    if kind == "static":
        return StaticCatalog(name, url, signer)
    return ApiCatalog(
        name, kind, url, provider, signer, **{key: value for key, value in options.items() if key in _API_OPTIONS}
    )
