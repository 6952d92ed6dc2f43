"""A static STAC catalog, a folder of JSON files or their web address, searched in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from pystac.utils import make_absolute_href
from shapely import STRtree
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipelines.catalogs.base import CatalogError, SceneSearch
from pipelines.catalogs.items import collect
from pipelines.catalogs.sign import Signer
from pipelines.grid import Period
from pipelines.patience import RefusedRequest, gate, patiently
from pipelines.sources.base import Kind, Source

READERS = 8  # files of one host read at once
TIMEOUT_S = 60
GONE = (404, 410)


class _Unreadable(CatalogError):
    """A file that is not there, or no JSON."""


@dataclass
class _Contents:
    """The items of a collection.

    Attributes:
        items, hrefs: with their addresses.
        unreadable: addresses of items that are not there or no JSON.
    """

    items: list[dict[str, Any]]
    hrefs: list[str]
    unreadable: list[str]

    def near(self, area: BaseGeometry) -> list[int]:
        """Which items meet an area; those without an outline are to be refused by what reads them, not lost."""
        tree, placed = self._tree
        unplaced = set(range(len(self.items))) - set(placed)
        return sorted({placed[i] for i in tree.query(area, predicate="intersects")} | unplaced)

    @cached_property
    def _tree(self) -> tuple[STRtree, list[int]]:
        outlines = {i: outline for i, item in enumerate(self.items) if (outline := _outline(item)) is not None}
        return STRtree(np.array(list(outlines.values()), dtype=object)), list(outlines)


class StaticCatalog:
    """Every item of the collections that were asked for is read once and kept."""

    kind = "static"

    def __init__(self, name: str, url: str, signer: Signer) -> None:
        """A catalog; nothing is read yet.

        Args:
            name: in the configuration.
            url: folder, ``catalog.json``, or its web address.
            signer: of its assets.
        """
        self.name, self.signer = name, signer
        self.url = url if "://" in url or url.endswith(".json") else str(Path(url) / "catalog.json")
        self._collections: dict[str, str] | None = None
        self._read: dict[str, _Contents] = {}

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "_client"}
        return {**kept, "_collections": None, "_read": {}}

    def search(
        self, source: Source, collections: Sequence[str], area: BaseGeometry, period: Period | None
    ) -> SceneSearch:
        """See :class:`pipelines.catalogs.base.Catalog`."""
        found = SceneSearch()
        period = None if source.kind is Kind.STATIC else period
        for collection in collections:
            held = self._items(collection)
            for href in held.unreadable:
                found.refuse("the item's file is missing or no JSON", href)
            chosen = ((held.items[i], held.hrefs[i]) for i in held.near(area))
            collect(found, chosen, source, self.name, area, period)
        return found

    def _items(self, collection: str) -> _Contents:
        if collection not in self._read:
            where = self._find_collections().get(collection)
            addresses = list(self._walk(where)) if where else []
            with ThreadPoolExecutor(READERS) as pool:
                answers = list(pool.map(self._item, (href for href, _ in addresses)))
            contents = _Contents([], [], [])
            for (href, parent), item in zip(addresses, answers, strict=True):
                if item is None:
                    contents.unreadable.append(href)
                else:
                    item.setdefault("collection", parent)
                    contents.items.append(item)
                    contents.hrefs.append(href)
            self._read[collection] = contents
        return self._read[collection]

    def _find_collections(self) -> dict[str, str]:
        """Addresses by id; a catalog that holds items is as good as a collection."""
        if self._collections is None:
            found: dict[str, str] = {}
            catalogs: dict[str, str] = {}
            pending = [make_absolute_href(self.url, str(Path.cwd()) + "/", start_is_dir=True)]
            while pending:
                href = pending.pop()
                node = self._json(href)
                if node.get("type") == "Collection":
                    found[node["id"]] = href
                elif _links(node, "item") and "id" in node:
                    catalogs[node["id"]] = href
                pending += [make_absolute_href(link["href"], href) for link in _links(node, "child")]
            self._collections = catalogs | found
        return self._collections

    def _walk(self, collection_href: str) -> Iterator[tuple[str, str]]:
        """Addresses of items, each with the id of what links to it."""
        pending = [collection_href]
        while pending:
            href = pending.pop()
            node = self._json(href)
            for link in _links(node, "item"):
                yield make_absolute_href(link["href"], href), str(node.get("id"))
            # Catalogs below a collection hold more of its items; a collection below it is another one.
            for link in _links(node, "child"):
                child = make_absolute_href(link["href"], href)
                if self._json(child).get("type") != "Collection":
                    pending.append(child)

    def _item(self, href: str) -> dict[str, Any] | None:
        """An item, None where its file is of no use; a server that is down ends the search."""
        try:
            return self._json(href)
        except _Unreadable:
            return None

    def _json(self, href: str) -> dict[str, Any]:
        try:
            # As written: pystac would migrate objects to the newest STAC version.
            node = json.loads(patiently(lambda: self._text(href)))
            if not isinstance(node, dict):
                raise ValueError("it is JSON, but no STAC object")
            return node
        except (OSError, ValueError) as error:
            gone = isinstance(error, FileNotFoundError | ValueError) or getattr(error, "status", None) in GONE
            raise (_Unreadable if gone else CatalogError)(
                f"catalog {self.name}: cannot read {href} ({error}); check catalogs.{self.name}.url"
            ) from error

    def _text(self, href: str) -> str:
        if not href.startswith(("http://", "https://")):
            return Path(href.removeprefix("file://")).read_text()
        try:
            with gate(urlsplit(href).netloc, READERS):
                answer = self._client.get(href)
        except httpx.HTTPError as error:
            raise ConnectionError(f"connection failed: {type(error).__name__}: {error}") from error
        if not answer.is_success:
            raise RefusedRequest(answer.status_code, answer.headers, answer.text[:200])
        return answer.text

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(timeout=TIMEOUT_S, follow_redirects=True)


def _outline(item: dict[str, Any]) -> BaseGeometry | None:
    """None where an item has none or a malformed one; :func:`collect` refuses it then, with the reason."""
    try:
        return shape(item["geometry"])
    except (KeyError, TypeError, ValueError, AttributeError, ShapelyError):
        return None


def _links(node: dict[str, Any], rel: str) -> list[dict[str, Any]]:
    return [link for link in node.get("links", []) if link.get("rel") == rel]
