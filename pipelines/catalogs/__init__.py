"""Catalogs: where scenes are found. ``open_catalog(name, kind, url).search(source, collections, area, period)``."""

from __future__ import annotations

from pipelines.catalogs.base import Catalog, CatalogError, SceneSearch, UnusableItem
from pipelines.catalogs.normalise import normalise
from pipelines.catalogs.opening import open_catalog, reads_at_once
from pipelines.catalogs.sign import Signer, SigningError

__all__ = [
    "Catalog",
    "CatalogError",
    "SceneSearch",
    "Signer",
    "SigningError",
    "UnusableItem",
    "normalise",
    "open_catalog",
    "reads_at_once",
]
