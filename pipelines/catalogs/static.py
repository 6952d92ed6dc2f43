"""A static STAC catalog, a folder of JSON files or their web address, searched in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

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
        """Which items may meet an area; those without a usable outline are for :func:`collect` to place or refuse."""
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
        self._start()

    def _start(self) -> None:
        self._collections: dict[str, str] | None = None
        self._nodes: dict[str, dict[str, Any]] = {}  # catalogs and collections by address
        self._gone: list[str] = []  # those that are linked to and cannot be read
        self._read: dict[str, _Contents] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"name": self.name, "url": self.url, "signer": self.signer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def search(
        self, source: Source, collections: Sequence[str], area: BaseGeometry, period: Period | None
    ) -> SceneSearch:
        """See :class:`pipelines.catalogs.base.Catalog`."""
        found = SceneSearch()
        period = None if source.kind is Kind.STATIC else period
        for collection in collections:
            if collection not in self._find_collections():
                found.refuse("the catalog has no such collection", collection)
            held = self._items(collection)
            for href in held.unreadable:
                found.refuse("the item's file is missing or no JSON", href)
            chosen = ((held.items[i], held.hrefs[i]) for i in held.near(area))
            collect(found, chosen, source, self.name, area, period)
        for href in self._gone:
            found.refuse("a catalog below it is missing or no JSON", href)
        return found

    def _items(self, collection: str) -> _Contents:
        if collection not in self._read:
            where = self._find_collections().get(collection)
            addresses = list(self._walk(where)) if where else []
            with ThreadPoolExecutor(READERS) as pool:
                answers = list(pool.map(self._one, (href for href, _ in addresses)))
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
            root = make_absolute_href(self.url, str(Path.cwd()) + "/", start_is_dir=True)
            self._nodes = {root: self._json(root)}
            found: dict[str, str] = {}
            catalogs: dict[str, str] = {}
            for href, node in self._below(root, lambda child: True):
                if "id" in node and node.get("type") == "Collection":
                    found[node["id"]] = href
                elif "id" in node and _links(node, "item"):
                    catalogs[node["id"]] = href
            self._collections = catalogs | found
        return self._collections

    def _walk(self, collection_href: str) -> Iterator[tuple[str, str]]:
        """Addresses of items, each with the id of what links to it."""
        # Catalogs below a collection hold more of its items; a collection below it is another one.
        for href, node in self._below(collection_href, lambda child: child.get("type") != "Collection"):
            for link in _links(node, "item"):
                yield make_absolute_href(link, href), str(node.get("id"))

    def _below(self, href: str, entered: Callable[[dict[str, Any]], bool]) -> Iterator[tuple[str, dict[str, Any]]]:
        """A catalog or collection that was read, and those below it, each once however they link to each other."""
        seen, level = {href}, [href]
        while level:
            yield from ((href, self._nodes[href]) for href in level)
            below = dict.fromkeys(
                make_absolute_href(link, href) for href in level for link in _links(self._nodes[href], "child")
            )
            fresh = [child for child in below if child not in seen]
            self._read_nodes(child for child in fresh if child not in self._nodes)
            level = [child for child in fresh if child in self._nodes and entered(self._nodes[child])]
            seen |= set(fresh)

    def _read_nodes(self, hrefs: Iterable[str]) -> None:
        wanted = [href for href in hrefs if href not in self._gone]
        with ThreadPoolExecutor(READERS) as pool:
            for href, node in zip(wanted, pool.map(self._one, wanted), strict=True):
                if node is None:
                    self._gone.append(href)
                else:
                    self._nodes[href] = node

    def _one(self, href: str) -> dict[str, Any] | None:
        """An object, None where its file is of no use; a server that is down ends the search."""
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
                f"catalog {self.name}: cannot read {href} ({error}); check catalogs.{self.name}.url, which must "
                "lead to a catalog.json"
            ) from error

    def _text(self, href: str) -> str:
        if not href.startswith(("http://", "https://")):
            path = Path(href.removeprefix("file://"))
            return (path if path.exists() else Path(unquote(str(path)))).read_text()
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
    """None where :func:`collect` must look: at an item without one, a malformed one, or one across the antimeridian."""
    try:
        outline = shape(item["geometry"])
        return None if outline.is_empty or outline.bounds[2] - outline.bounds[0] > 180 else outline
    except (KeyError, TypeError, ValueError, AttributeError, ShapelyError):
        return None


def _links(node: dict[str, Any], rel: str) -> list[str]:
    """Addresses of a node's links of a relation, as written."""
    links = node.get("links")
    listed = [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []
    return [link["href"] for link in listed if link.get("rel") == rel and isinstance(link.get("href"), str)]
