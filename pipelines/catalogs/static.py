"""A static STAC catalog, a folder of JSON files or their web address, searched in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pystac import StacIO
from pystac.errors import STACError
from pystac.utils import make_absolute_href
from shapely import STRtree
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from pipelines.catalogs.base import CatalogError, SceneSearch
from pipelines.catalogs.items import collect
from pipelines.catalogs.sign import Signer
from pipelines.grid import Period
from pipelines.sources.base import Kind, Source


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
        self._read: dict[str, tuple[list[dict[str, Any]], list[str], STRtree, list[int]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_collections": None, "_read": {}}

    def search(
        self, source: Source, collections: Sequence[str], area: BaseGeometry, period: Period | None
    ) -> SceneSearch:
        """See :class:`pipelines.catalogs.base.Catalog`."""
        found = SceneSearch()
        period = None if source.kind is Kind.STATIC else period
        for collection in collections:
            items, hrefs, tree, placed = self._items(collection)
            near = {placed[i] for i in tree.query(area, predicate="intersects")}
            unplaced = set(range(len(items))) - set(placed)  # to be refused, not lost
            chosen = ((items[i], hrefs[i]) for i in sorted(near | unplaced))
            collect(found, chosen, source, self.name, area, period)
        return found

    def _items(self, collection: str) -> tuple[list[dict[str, Any]], list[str], STRtree, list[int]]:
        if collection not in self._read:
            where = self._find_collections().get(collection)
            pairs = list(self._walk(where)) if where else []
            items = [item for item, _ in pairs]
            outlines = {i: outline for i, item in enumerate(items) if (outline := _outline(item)) is not None}
            tree = STRtree(np.array(list(outlines.values()), dtype=object))
            self._read[collection] = (items, [href for _, href in pairs], tree, list(outlines))
        return self._read[collection]

    def _find_collections(self) -> dict[str, str]:
        if self._collections is None:
            found: dict[str, str] = {}
            pending = [make_absolute_href(self.url, str(Path.cwd()) + "/", start_is_dir=True)]
            while pending:
                href = pending.pop()
                node = self._json(href)
                if node.get("type") == "Collection":
                    found[node["id"]] = href
                pending += [make_absolute_href(link["href"], href) for link in _links(node, "child")]
            self._collections = found
        return self._collections

    def _walk(self, collection_href: str) -> Iterator[tuple[dict[str, Any], str]]:
        pending = [collection_href]
        while pending:
            href = pending.pop()
            node = self._json(href)
            for link in _links(node, "item"):
                item_href = make_absolute_href(link["href"], href)
                item = self._json(item_href)
                item.setdefault("collection", node.get("id"))
                yield item, item_href
            # Catalogs below a collection hold more of its items; a collection below it is another one.
            for link in _links(node, "child"):
                child = make_absolute_href(link["href"], href)
                if self._json(child).get("type") != "Collection":
                    pending.append(child)

    def _json(self, href: str) -> dict[str, Any]:
        try:
            # As written: read_stac_object would migrate items to the newest STAC version.
            node = StacIO.default().read_json(href)
            if not isinstance(node, dict):
                raise ValueError("it is JSON, but no STAC object")
            return node
        except (OSError, ValueError, STACError) as error:
            raise CatalogError(
                f"catalog {self.name}: cannot read {href} ({error}); check catalogs.{self.name}.url"
            ) from error


def _outline(item: dict[str, Any]) -> BaseGeometry | None:
    """None where an item has none or a malformed one; :func:`collect` refuses it then, with the reason."""
    try:
        return shape(item["geometry"])
    except (KeyError, TypeError, ValueError, AttributeError, ShapelyError):
        return None


def _links(node: dict[str, Any], rel: str) -> list[dict[str, Any]]:
    return [link for link in node.get("links", []) if link.get("rel") == rel]
